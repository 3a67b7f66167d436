"""Cloning with cells, weights of sets and recorded frames."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl.agents import load_agent
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.losses import strain_loss
from relaxrl.metrics import read_metrics
from relaxrl.potentials import parse_calculator
from relaxrl.strain import tensor_from_vector
from relaxrl.structures import Crystal
from relaxrl.structures.frames import Frame, save_frames
from relaxrl.training import Cloner, CloningConfig, RunFolder, load_run_config, train
from relaxrl.training.crystals import odds
from relaxrl.training.recorded import RecordedFrames
from relaxrl.training.straining import are_minima_of_cell, displaced, strained
from relaxrl.training.way import Way, moved, way_to

TRUNK = {"cutoff": 4.0, "channels": 4, "message_channels": 4}
EXACT = 1e-10


@pytest.fixture(scope="module")
def relaxed() -> list[Atoms]:
    """Minima of positions and cell."""
    found = []
    for symbols in ("Cu4", "CuAuCu2", "Ag2Au2"):
        atoms = bulk("Cu", a=3.9, cubic=True)
        atoms.set_chemical_symbols(Atoms(symbols).get_chemical_symbols())
        atoms.calc = EMT()
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-5, steps=200)
        atoms.calc = None
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def minima(relaxed: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    squeezed = relaxed[0].copy()  # a minimum at its fixed cell alone
    squeezed.set_cell(0.97 * squeezed.cell.array, scale_atoms=True)
    ase.io.write(path, [*relaxed, squeezed])
    return str(path)


def configuration(minima: str, folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "method": "cloning",
        "structures": minima,
        "kind": "minimum",
        "actor": {"kind": "hessian", "trunk": TRUNK, "head_channels": 8, "learned_strain": True},
        "batch_size": 8,
        "updates_per_epoch": 5,
        "evaluation": {"structures": minima, "count": 4, "steps": 30, "every": 10_000},
        "run": {"dir": str(folder), "updates": 40, "log_every": 8},
    } | values


def cloner(settings: dict[str, Any], folder: Path) -> Cloner:
    config = load_run_config(settings)
    assert isinstance(config, CloningConfig)
    return Cloner(config, RunFolder.create(str(folder), 0))


def recorded(minimum: Atoms, name: str, strain: float = 0.03, stress: bool = True) -> Frame:
    """A frame with true labels, which says that they are of a calculator that nobody has."""
    rng = np.random.default_rng(0)
    atoms = displaced(strained(minimum, strain, rng) if strain else minimum, 0.05, rng)
    atoms.calc = EMT()
    labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress() if stress else None
    atoms.calc = None
    return Frame(atoms, *labels, minimum, 0.0, name, name, "nobody:has,this=1")


def test_the_way_ends_in_the_minimum_turned() -> None:
    rng = np.random.default_rng(0)
    minimum = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    half, vector = 0.1 * rng.standard_normal((2, 3, 3)), 0.3 * rng.standard_normal((2, 8, 3))
    here = []
    for k in range(2):  # strained and turned
        atoms = minimum.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + half[k]), scale_atoms=True)
        atoms.positions += vector[k]
        here.append(atoms)
    flat = minimum.copy()
    flat.positions += vector[0]
    flat.cell[2] = 0  # nothing is to be solved for a cell that is held
    flat.pbc = (True, True, False)
    graph, strains = graph_from_atoms([*here, flat]), torch.tensor([True, True, False])
    goal = graph_from_atoms([minimum, minimum, flat])
    goal = goal.replace(positions=graph_from_atoms([minimum] * 3).positions)
    way = way_to(graph, goal, strains)
    end = moved(graph, way, strains)
    torch.testing.assert_close(end.cell @ end.cell.mT, goal.cell @ goal.cell.mT)
    for got, wanted in zip(end.unbatch(), goal.unbatch(), strict=True):
        inside = torch.cdist(got.positions, got.positions), torch.cdist(wanted.positions, wanted.positions)
        torch.testing.assert_close(*inside)
    assert not way.strain[2].any()
    assert way.displacement.reshape(3, 8, 3).mean(1).abs().max() < EXACT
    again = way_to(end, goal, strains)
    assert max(float(part.abs().max()) for part in again) < 1e-6
    # Without a strain it is the difference of the positions.
    fixed = way_to(graph, goal)
    torch.testing.assert_close(moved(graph, fixed).positions[:8].diff(dim=0), goal.positions[:8].diff(dim=0))


def test_ways_of_frames_are_those_that_the_frame_tells(relaxed: list[Atoms]) -> None:
    frame = recorded(relaxed[1], "one")
    way = way_to(graph_from_atoms(frame.atoms), graph_from_atoms(frame.minimum), torch.tensor([True]))
    np.testing.assert_allclose(tensor_from_vector(way.strain[0].numpy()), frame.strain, atol=1e-12)
    np.testing.assert_allclose(way.displacement.numpy(), frame.displacements, atol=1e-12)


def test_the_loss_of_strains_is_relative() -> None:
    wanted = torch.tensor([[0.01, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.0], [torch.nan] * 6])
    given = torch.tensor([[0.011, 0, 0, 0, 0, 0], [1e-5, 0, 0, 0, 0, 0], [0.0] * 6], requires_grad=True)
    losses = strain_loss(given, wanted, torch.tensor([True, True, False]))
    np.testing.assert_allclose(losses.detach(), [np.log(0.01 + 1e-3), np.log(0.01 + 1e-3), 0.0], rtol=1e-5)
    losses.sum().backward()
    assert torch.isfinite(given.grad).all()
    with pytest.raises(ValueError, match="same shape"):
        strain_loss(given, wanted[:2], torch.ones(3, dtype=torch.bool))


def test_only_minima_of_their_cells_are_strained(minima: str, relaxed: list[Atoms], tmp_path: Path) -> None:
    structures = ase.io.read(minima, ":")
    slab = relaxed[0].copy()
    slab.pbc = (True, True, False)
    emt = parse_calculator("emt").potential()
    assert are_minima_of_cell([*structures, slab], emt).tolist() == [True, True, True, False, False]
    settings = configuration(minima, tmp_path, cell=0.7, strain=[0.01, 0.05], batch_size=64)
    chosen, lesson = cloner(settings, tmp_path / "run").lesson()
    assert lesson.strains is not None
    at_minimum = torch.stack([torch.from_numpy(structures[k].cell.array) for k in chosen])
    differs = (lesson.graph.cell - at_minimum).abs().amax((1, 2)) > 1e-4
    assert torch.equal(differs, lesson.strains)
    assert not lesson.strains[torch.tensor(chosen) == 3].any()
    share = lesson.strains[torch.tensor(chosen) != 3].double().mean()
    assert 0.5 < float(share) < 0.9
    assert lesson.graph.stress is not None
    assert lesson.graph.stress[lesson.strains].abs().amax((1, 2)).min() > 1e-3


def test_steps_of_the_cell_are_learned(minima: str, tmp_path: Path) -> None:
    settings = configuration(minima, tmp_path / "run", cell=0.6, trainer={"max_lr": 0.01}, unroll=2)
    result = train(settings, verbose=False)
    logged = read_metrics(result.folder / "metrics.csv")
    assert np.isfinite(logged["validation/strain_rmse"][-1])
    losses = np.array(logged["train/strain_loss"])
    losses = losses[np.isfinite(losses)]
    assert losses[-1] < losses[0] - 0.3
    agent = load_agent(str(result.folder))
    minimum = ase.io.read(minima, "0")
    atoms = strained(minimum, 0.02, np.random.default_rng(1))
    atoms.calc = EMT()
    graph = graph_from_atoms(atoms).replace(
        forces=torch.from_numpy(atoms.get_forces()), stress=torch.from_numpy(atoms.get_stress(voigt=False))[None]
    )
    step = agent.act_with_strain(graph)
    assert step is not None
    before = way_to(graph, graph_from_atoms(minimum), torch.tensor([True]))
    after = way_to(moved(graph, Way(*step), torch.tensor([True])), graph_from_atoms(minimum), torch.tensor([True]))
    assert float(after.strain.norm()) < 0.5 * float(before.strain.norm())


@pytest.mark.parametrize("cell", [0.0, 0.5])
def test_frames_are_a_part_of_the_batch_and_of_its_first_step_alone(
    minima: str, relaxed: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: float
) -> None:
    save_frames(tmp_path / "frames.npz", [recorded(relaxed[1], "a"), recorded(relaxed[2], "b", strain=0.0)])
    settings = configuration(minima, tmp_path, frames=str(tmp_path / "frames.npz"), frame_share=0.25, unroll_from=0.0)
    run = cloner(settings | {"cell": cell}, tmp_path / "run")
    called: list[int] = []
    seen: list[int] = []
    evaluate, forward = run.potential.evaluate, run.module.trunk.forward

    def counted(graph: AtomGraph, stress: bool = False) -> Any:
        called.append(graph.n_graphs)
        return evaluate(graph, stress)

    def watched(inputs: Any, displacement: Any = None) -> Any:
        seen.append(inputs.n_graphs)
        return forward(inputs, displacement)

    monkeypatch.setattr(run.potential, "evaluate", counted)
    monkeypatch.setattr(run.module.trunk, "forward", watched)
    assert np.isfinite(run.update()["train/cloning_loss"])
    assert called == [6, 6]  # two steps of the displaced crystals
    assert seen == [8, 6]
    assert run.recorded is not None
    assert len(run.recorded.frames) == (2 if cell else 1)
    agent = run.current_agent()
    assert set(agent.elements) == {"Ag", "Au", "Cu"}
    assert agent.metadata["frames"] == str(tmp_path / "frames.npz")


def test_actors_without_a_hessian_learn_from_frames_too(minima: str, relaxed: list[Atoms], tmp_path: Path) -> None:
    save_frames(tmp_path / "frames.npz", [recorded(relaxed[1], "a", strain=0.0)])
    settings = configuration(minima, tmp_path, frames=str(tmp_path / "frames.npz"), frame_share=0.25)
    run = cloner(settings | {"actor": {"kind": "direct", "trunk": TRUNK}}, tmp_path / "run")
    assert np.isfinite(run.update()["train/cloning_loss"])


def test_frames_of_crystals_are_drawn_equally_often(relaxed: list[Atoms], tmp_path: Path) -> None:
    frames = [recorded(relaxed[1], "long", strain=0.0)] * 9 + [recorded(relaxed[2], "short", strain=0.0)]
    save_frames(tmp_path / "frames.npz", frames)
    lesson = RecordedFrames(str(tmp_path / "frames.npz"), False, 0.003).draw(200, np.random.default_rng(0))
    short = (lesson.graph.atomic_numbers.reshape(200, 4)[:, 0] == 47).sum()
    assert 70 < int(short) < 130
    save_frames(tmp_path / "settled.npz", [recorded(relaxed[1], "one", strain=0.03, stress=False)])
    with pytest.raises(ConfigError, match="none of the 1 frames can be used"):
        RecordedFrames(str(tmp_path / "settled.npz"), True, 0.003)


def test_weights_hold_for_sets_however_many_crystals_they_have() -> None:
    names = ["a.extxyz", "folder", "folder/inner"]
    files = ["a.extxyz"] * 3 + ["folder/x.cif", "folder/inner/y.cif", "folder/inner/z.cif"]
    crystals = [Crystal(f"{file}#{k}", bulk("Cu"), str(k)) for k, file in enumerate(files)]
    np.testing.assert_allclose(odds(crystals, names, [1, 2, 1]), [1 / 12] * 3 + [1 / 2] + [1 / 8] * 2)
    np.testing.assert_allclose(odds(crystals[:4], names, [1, 2, 1]), [1 / 9] * 3 + [2 / 3])
    with pytest.raises(ConfigError, match="leave no crystal"):
        odds(crystals[:3], names, [0, 1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": 1.5}, "`cell` is a share, between 0 and 1, got 1.5"),
        ({"strain": [0.1, 0.01]}, "`strain` must be two positive numbers up to 0.2"),
        ({"cell": 0.5, "actor": {"kind": "direct"}}, "only `actor.kind: hessian` moves cells; got direct"),
        ({"frames": "x.npz", "frame_share": 1.0}, "`frame_share` must be between 0 and 1"),
        ({"cell": 0.5, "action_energy": {"copies": 2}}, "neither `cell` nor `frames`"),
        ({"weights": [1, 2]}, "`weights` must have one number for each of the 1 entries of `structures`, got 2"),
        ({"weights": [-1]}, "finite and not negative"),
        ({"actor": {"kind": "hessian", "site_tensors": -1}}, "`site_tensors` must not be negative, got -1"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config({"method": "cloning", "structures": "metals:train"} | changes)
    assert message in str(caught.value)
