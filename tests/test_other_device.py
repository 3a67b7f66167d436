"""One code path for all devices: what runs on a GPU is run on a stand-in that refuses to mix devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111

from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.envs.features import FEATURES
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import pairs_within
from relaxrl.potentials import EMT
from relaxrl.structures import Crystal

_spec = importlib.util.spec_from_file_location("other_device", Path(__file__).with_name("other_device.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
other_device = _module.other_device


def crystals() -> list[Crystal]:
    slab = fcc111("Al", (1, 2, 2), vacuum=5.0)
    slab.pbc = (True, True, False)
    found = {"copper": bulk("Cu", cubic=True), "gold": bulk("Au").repeat((2, 1, 1)), "slab": slab}
    return [Crystal(id=name, atoms=atoms, parent=name, kind="minimum") for name, atoms in found.items()]


def test_the_stand_in_refuses_to_mix_devices_and_computes_right():
    with other_device() as device:
        there = torch.arange(3.0, device=device)
        assert there.device.type == device
        assert (2 * there + 1).tolist() == [1.0, 3.0, 5.0]
        assert (there + 1).cpu().numpy().tolist() == [1.0, 2.0, 3.0]
        assert there[torch.tensor([0, 2])].tolist() == [0.0, 2.0]
        assert torch.tensor([1, 2], device=device).sum().item() == 3
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="indices"):
            torch.ones(3)[there.long()]
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


def test_neighbours_are_those_of_the_cpu():
    graph = graph_from_atoms(
        [crystal.atoms for crystal in crystals()] + [Atoms("Pt"), bulk("Cu", cubic=True).repeat(2)]
    )
    for each_once in (False, True):
        pairs, shifts = pairs_within(graph, 4.3, each_once)
        with other_device() as device:
            there, translations = pairs_within(graph.to(device), 4.3, each_once)
            assert there.device.type == device
            assert torch.equal(there.cpu(), pairs)
            assert torch.equal(translations.cpu(), shifts)


@pytest.mark.parametrize("features", [(), tuple(FEATURES)])
def test_an_environment_on_another_device_does_what_it_does_on_the_cpu(features):
    def run(device: str) -> list[list[float]]:
        config = EnvConfig(device=device, max_steps=4, r_min=0.75, features=features)
        env = RelaxationEnv(crystals(), EMT(), config, np.random.default_rng(0), n_envs=7)
        env.reset()
        assert env.graph.positions.device.type == device
        noise, seen = torch.Generator().manual_seed(0), []
        for step in range(9):
            jolts = torch.randn(env.graph.positions.shape, generator=noise, dtype=torch.float64)
            action = 0.05 * env.graph.forces + (0.6 if step % 3 == 1 else 0.0) * jolts.to(device)
            result = env.step(action)
            for value in (result.reward, result.atom_reward, result.a_back, result.graph.forces, result.done):
                assert value.device.type == device
                seen.append(value.flatten().double().tolist())
            if result.graph.features is not None:
                seen.append(result.graph.features.flatten().tolist())
            if step == 5:
                env.load_state_dict(env.state_dict())
            env.reset_finished()
        return seen

    expected = run("cpu")
    assert any(value > 0 for row in expected[2::5] for value in row)
    with other_device() as device:
        for got, wanted in zip(run(device), expected, strict=True):
            assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9)
