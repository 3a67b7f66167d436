"""One code path for all devices: what runs on a GPU is run on a stand-in that refuses to mix devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111

from relaxrl.envs import CellConfig, EnvConfig, RelaxationEnv
from relaxrl.envs.features import FEATURES
from relaxrl.errors import ConfigError
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import pairs_within
from relaxrl.potentials import EAM, EMT, PMMCS, LennardJones, Morse, StillingerWeber, Tersoff, TorchPotential
from relaxrl.structures import Crystal
from relaxrl.training import train

_spec = importlib.util.spec_from_file_location("other_device", Path(__file__).with_name("other_device.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
other_device = _module.other_device

REFERENCE = Path(__file__).parent / "potentials" / "reference"
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a device that is not the CPU, as long as the test runs."""
    if request.param == "cuda":
        yield "cuda"
        return
    with other_device() as name:
        yield name


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


def test_neighbours_are_those_of_the_cpu(device: str):
    structures = [*(crystal.atoms for crystal in crystals()), Atoms("Pt"), bulk("Cu", cubic=True).repeat(2)]
    graph = graph_from_atoms(structures)
    for each_once in (False, True):
        pairs, shifts = pairs_within(graph, 4.3, each_once)
        there, translations = pairs_within(graph.to(device), 4.3, each_once)
        assert there.device.type == device
        assert torch.equal(there.cpu(), pairs)
        assert torch.equal(translations.cpu(), shifts)


POTENTIALS: dict[str, tuple[Callable[[], TorchPotential], str]] = {
    "emt": (EMT, "Cu"),
    "lj": (lambda: LennardJones(sigma=2.3), "Cu"),
    "morse": (lambda: Morse(r0=2.5, rcut1=3.5, rcut2=4.5), "Cu"),
    "eam alloy": (lambda: EAM(REFERENCE / "AlCu.eam.alloy"), "Cu"),
    "eam fs": (lambda: EAM(REFERENCE / "AlCu.eam.fs"), "Cu"),
    "stillinger-weber": (lambda: StillingerWeber(REFERENCE / "Si.sw"), "Si"),
    "tersoff": (lambda: Tersoff(REFERENCE / "Si.tersoff"), "Si"),
    "pmmcs": (PMMCS, "MgO"),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials_give_what_they_give_on_the_cpu(name: str, device: str):
    make, symbol = POTENTIALS[name]
    first = bulk("MgO", "rocksalt", a=4.2, cubic=True) if symbol == "MgO" else bulk(symbol, cubic=True)
    second = first.repeat((1, 1, 2))
    for seed, atoms in enumerate((first, second)):
        atoms.rattle(0.05, seed=seed)
    graph = graph_from_atoms([first, second])
    expected = make().evaluate(graph, stress=True)
    potential = make()
    for moved in (0.0, 0.01):  # edges that are new, and edges that are kept
        there = graph.to(device).replace(positions=graph.positions.to(device) + moved)
        got = potential.evaluate(there, stress=True)
        for field in ("energy", "forces", "stress"):
            value = getattr(got, field)
            assert value.device.type == device
            torch.testing.assert_close(value.cpu(), getattr(expected, field), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("features", [(), tuple(FEATURES)])
def test_an_environment_does_what_it_does_on_the_cpu(features: tuple[str, ...], device: str):
    def run(where: str) -> list[list[float]]:
        config = EnvConfig(device=where, max_steps=4, r_min=0.75, features=features)
        env = RelaxationEnv(crystals(), EMT(), config, np.random.default_rng(0), n_envs=7)
        env.reset()
        assert env.graph.positions.device.type == where
        noise, seen = torch.Generator().manual_seed(0), []
        for step in range(9):
            jolts = torch.randn(env.graph.positions.shape, generator=noise, dtype=torch.float64)
            action = 0.05 * env.graph.forces + (0.6 if step % 3 == 1 else 0.0) * jolts.to(where)
            result = env.step(action)
            for value in (result.reward, result.atom_reward, result.a_back, result.graph.forces, result.done):
                assert value.device.type == where
                seen.append(value.flatten().double().tolist())
            if result.graph.features is not None:
                seen.append(result.graph.features.flatten().tolist())
            if step == 5:
                env.load_state_dict(env.state_dict())
            env.reset_finished()
        return seen

    expected = run("cpu")
    assert any(value > 0 for row in expected[2::5] for value in row)
    for got, wanted in zip(run(device), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("cell", [CellConfig(), CellConfig(constant_volume=True)], ids=["free", "constant volume"])
def test_cells_strain_as_they_do_on_the_cpu(cell: CellConfig, device: str):
    def run(where: str) -> list[list[float]]:
        config = EnvConfig(device=where, max_steps=4, r_min=0.75, cell=cell)
        env = RelaxationEnv(crystals(), EMT(), config, np.random.default_rng(0), n_envs=5)
        env.reset()
        noise, seen = torch.Generator().manual_seed(0), []
        for step in range(6):
            strain = 0.05 * torch.randn(5, 6, generator=noise, dtype=torch.float64)
            jolts = torch.randn(env.graph.positions.shape, generator=noise, dtype=torch.float64)
            action = 0.05 * env.graph.forces + (0.6 if step % 3 == 1 else 0.0) * jolts.to(where)
            result = env.step(action, strain.to(where))
            graph = result.graph
            assert graph.stress is not None
            assert result.applied_strain is not None
            for value in (result.reward, result.a_back, graph.stress, graph.cell, result.applied_strain, env.stress):
                assert value.device.type == where
                seen.append(value.flatten().double().tolist())
            env.reset_finished()
        return seen

    expected = run("cpu")
    assert any(value > 0 for row in expected[1::6] for value in row)
    for got, wanted in zip(run(device), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-8, abs=1e-8)


def settings(folder: Path, method: str, device: str) -> dict[str, Any]:
    """A run of a few updates."""
    file = folder / "crystals.extxyz"
    ase.io.write(file, [bulk("Cu", cubic=True), bulk("Au", cubic=True), bulk("Al").repeat((2, 1, 1))])
    common = {
        "method": method,
        "actor": {"trunk": {"layers": 2, "channels": 8}},
        "structures": str(file),
        "kind": "minimum",
        "evaluation": {"structures": str(file), "count": 2, "steps": 4},
    }
    if method == "cloning":
        return common | {"batch_size": 3, "run": {"dir": str(folder / device), "updates": 3, "device": device}}
    warm_up, replay = {"expert_steps": 8, "agent_steps": 4}, {"batch_size": 4}
    run = {"dir": str(folder / device), "n_envs": 4, "steps": 24, "device": device}
    return common | {"warm_up": warm_up, "replay": replay, "run": run}


@pytest.mark.parametrize("method", ["td3", "cloning"])
def test_training_does_what_it_does_on_the_cpu(method: str, tmp_path: Path, device: str):
    results = [train(settings(tmp_path, method, where), verbose=False) for where in ("cpu", device)]
    expected, got = (result.metrics for result in results)
    assert results[0].updates == results[1].updates >= 3
    # Networks compute in single precision, and a few updates let differences grow.
    tolerance = 1e-9 if device != "cuda" else 1e-2
    assert got == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_a_device_that_is_not_there_is_named_with_its_key(tmp_path: Path):
    for method in ("td3", "cloning"):
        with pytest.raises(ConfigError, match=r"`run\.device` is `cuda:97`"):
            train(settings(tmp_path, method, "cuda:97"), verbose=False)
    with pytest.raises(ConfigError, match=r"`env\.device` is `cuda:97`"):
        RelaxationEnv(crystals(), EMT(), EnvConfig(device="cuda:97"), np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"`env\.device` must be `cpu`, `cuda`"):
        RelaxationEnv(crystals(), EMT(), EnvConfig(device="gpu"), np.random.default_rng(0))
