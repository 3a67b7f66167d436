"""Training by constraints, on a handful of cells: what is judged, what the gradient sees, what the curriculum does."""

import dataclasses
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS

from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_model
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.io import atoms_from_graph, graph_from_atoms
from relaxrl.metrics import read_metrics
from relaxrl.potentials import LennardJones, parse_calculator
from relaxrl.structures import perturb
from relaxrl.training import (
    Cloner,
    CloningConfig,
    ConstraintsConfig,
    ConstraintTrainer,
    RunFolder,
    load_run_config,
    resume,
    train,
)
from relaxrl.training.violations import after_step, evaluate, judged_step, look_ahead, show, violations

ACTOR = {
    "kind": "hessian",
    "trunk": {"cutoff": 4.0, "channels": 4, "message_channels": 4},
    "head_channels": 8,
    "vector_channels": 4,
}
ROUND_OFF = 1e-9
METALS = {"method": "constraints", "structures": "metals:train"}


@pytest.fixture(scope="module")
def cells() -> list[Atoms]:
    return [minimum(symbol, n) for n in (1, 2) for symbol in ("Cu", "Ag", "Au")]


@pytest.fixture(scope="module")
def minima(cells: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    ase.io.write(path, cells)
    return str(path)


def minimum(symbol: str, n: int) -> Atoms:
    return bulk(symbol, cubic=True).repeat((1, 1, n))


def configuration(minima: str, folder: Path, **run: Any) -> dict[str, Any]:
    return {
        "method": "constraints",
        "structures": minima,
        "kind": "minimum",
        "actor": ACTOR,
        "data": "relative",
        "expert": "teleport",
        "scale": "start",
        "batch_size": 6,
        "updates_per_epoch": 5,
        "evaluation": {"structures": minima, "count": 3, "steps": 30, "every": 36},
        "run": {"dir": str(folder), "updates": 16, "log_every": 12} | run,
    }


def trainer(minima: str, folder: Path, **changes: Any) -> ConstraintTrainer:
    config = load_run_config(configuration(minima, folder) | changes)
    assert isinstance(config, ConstraintsConfig)
    return ConstraintTrainer(config, RunFolder.create(str(folder), 0))


def columns(folder: Path) -> dict[str, list[float]]:
    return {name: values for name, values in read_metrics(folder / "metrics.csv").items() if "time/" not in name}


def assert_same_run(first: Path, second: Path) -> None:
    expected, got = columns(first), columns(second)
    assert list(expected) == list(got)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    for agent in ("best", "last"):
        parameters, others = (load_model(folder / agent)[0] for folder in (first, second))
        assert all(torch.equal(others[name], tensor) for name, tensor in parameters.items())


def displaced(*minima: Atoms, size: float = 0.1) -> AtomGraph:
    generator = np.random.default_rng(0)
    graph = graph_from_atoms([perturb(atoms, size, generator) for atoms in minima])
    return evaluate(parse_calculator("emt").potential(), graph)[0]


def test_a_step_leaves_the_energy_and_the_forces_that_ase_finds_there():
    starts = [minimum("Cu", 1), minimum("Ag", 2)]
    graph = displaced(*starts)
    potential = parse_calculator("emt").potential()
    lowest = potential.evaluate(graph_from_atoms(starts)).energy
    step = 0.01 * torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after, usable = after_step(potential, graph, step)
    left = violations(after, lowest)
    energy, forces = left.energy.detach(), left.forces.detach()
    assert usable.all()
    first = 0
    for k, start in enumerate(starts):
        rows = slice(first, first := first + len(start))
        moved = start.copy()
        moved.positions[:] = graph.positions[rows] + step[rows]
        moved.calc = start.calc = EMT()
        expected = (moved.get_potential_energy() - start.get_potential_energy()) / len(start)
        np.testing.assert_allclose(energy[rows], np.full(len(start), expected), atol=ROUND_OFF)
        np.testing.assert_allclose(forces[rows], moved.get_forces(), atol=ROUND_OFF)
        assert graph.graph_index[rows].eq(k).all()


def test_energy_below_the_known_minimum_is_no_violation():
    graph = displaced(minimum("Cu", 1))
    assert violations(graph, graph.energy + 1.0).energy.eq(0).all()


def test_residuals_are_differentiated_by_the_displacement():
    graph = displaced(minimum("Cu", 1), minimum("Au", 1))
    potential = parse_calculator("emt").potential()
    lowest = graph.energy - 1.0
    generator = torch.Generator().manual_seed(1)
    step, probe = (
        0.02 * torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )

    def value(displacement: torch.Tensor) -> torch.Tensor:
        left = violations(after_step(potential, graph, displacement)[0], lowest)
        return left.energy.sum() + left.forces.square().sum()

    step.requires_grad_()
    (slope,) = torch.autograd.grad(value(step), step)
    width = 1e-4
    difference = (value(step.detach() + width * probe) - value(step.detach() - width * probe)) / (2 * width)
    np.testing.assert_allclose(float((slope * probe).sum()), float(difference.detach()), rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 4])
def test_looking_ahead_is_bfgs_of_ase(iterations: int):
    graph = displaced(minimum("Cu", 1), minimum("Ag", 1), size=0.2)
    ahead, usable = look_ahead(parse_calculator("emt").potential(), graph, iterations, 70.0, 0.2)
    assert usable.all()
    for start, end in zip(graph.unbatch(), ahead.unbatch(), strict=True):
        (atoms,) = atoms_from_graph(start)
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0, steps=iterations)
        np.testing.assert_allclose(end.positions, atoms.positions, atol=ROUND_OFF)
        np.testing.assert_allclose(end.forces, atoms.get_forces(), atol=1e-7)


def test_target_and_yardstick_are_chosen_apart(minima: str, cells: list[Atoms], tmp_path: Path):
    graph = displaced(cells[0])
    potential = parse_calculator("emt").potential()
    lowest = potential.evaluate(graph_from_atoms(cells[0])).energy
    shown = {}
    for expert, yardstick in (("bfgs", "bfgs"), ("bfgs", "expert"), ("teleport", "bfgs"), ("teleport", "expert")):
        config = load_run_config(configuration(minima, tmp_path) | {"expert": expert, "yardstick": yardstick})
        assert isinstance(config, ConstraintsConfig)
        shown[expert, yardstick] = show(config, potential, graph, [cells[0].positions], lowest)
    jump = torch.as_tensor(cells[0].positions) - graph.positions
    jump = jump - jump.mean(0)
    small = graph.forces / 70.0  # a first iteration of BFGS
    for (expert, yardstick), result in shown.items():
        torch.testing.assert_close(result.displacement, small if expert == "bfgs" else jump)
        left = float(result.true.forces.norm())
        if (expert, yardstick) == ("teleport", "expert"):
            assert left < 1e-6
        else:
            assert 0.3 < left / float(graph.forces.norm()) < 1.0


def test_units_of_the_start_make_it_one(cells: list[Atoms], minima: str, tmp_path: Path):
    """With no move at all, what is left is what there was: 1 in each of the units."""
    graph = displaced(*cells[:2])
    potential = parse_calculator("emt").potential()
    lowest = potential.evaluate(graph_from_atoms(cells[:2])).energy
    config = load_run_config(configuration(minima, tmp_path))
    assert isinstance(config, ConstraintsConfig)
    shown = show(config, potential, graph, [atoms.positions for atoms in cells[:2]], lowest)
    still = torch.zeros_like(graph.positions)
    step = judged_step(graph, still, violations(graph, lowest), shown, lowest, in_units_of_start=True)
    one = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(step.scalar_pred, one[graph.graph_index])
    for vectors in (step.vector_pred, step.output_true):
        squares = torch.stack([vectors[graph.graph_index == k].square().sum(-1).mean() for k in range(2)])
        torch.testing.assert_close(squares, one)
    plain = judged_step(graph, still, violations(graph, lowest), shown, lowest, in_units_of_start=False)
    assert torch.equal(plain.vector_pred, graph.forces)
    assert torch.equal(plain.output_true, shown.displacement)


def test_what_can_not_be_evaluated_does_not_move_and_leaves_gradients_finite():
    graph = graph_from_atoms([Atoms("Ar2", [[0, 0, 0], [0, 0, 3.6]]), Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])])
    potential = LennardJones(sigma=3.4, epsilon=0.01)
    step = torch.zeros(4, 3, dtype=torch.float64)
    step[1, 2] = -3.6  # onto the other atom
    step[3, 2] = 0.01
    step.requires_grad_()
    after, usable = after_step(potential, graph, step)
    assert usable.tolist() == [False, True]
    assert torch.equal(after.positions[:2], graph.positions[:2])
    after.forces[2:].square().sum().backward()
    assert torch.isfinite(step.grad).all()
    assert step.grad[3].abs().sum() > 0


@pytest.mark.parametrize("term", ["data_weight", "rel_weight", "abs_weight"])
def test_each_term_reaches_the_actor(minima: str, tmp_path: Path, term: str):
    """The two constraint terms can do so only through the potential and the solve."""
    weights = dict.fromkeys(("data_weight", "rel_weight", "abs_weight"), 0.0) | {term: 1.0}
    run = trainer(minima, tmp_path / "run", loss=weights)
    loss, _ = run.loss()
    loss.backward()
    norms = {name: float(p.grad.norm()) for name, p in run.module.named_parameters() if p.grad is not None}
    assert norms["head.last.weight"] > 1e-6
    assert all(np.isfinite(norm) for norm in norms.values())


def test_without_constraints_it_is_cloning(minima: str, tmp_path: Path):
    run = trainer(minima, tmp_path / "a", loss={"physics_weight": 0.0})
    settings = configuration(minima, tmp_path / "b") | {"method": "cloning", "unroll": 1}
    for key in ("data", "expert", "scale"):
        del settings[key]
    config = load_run_config(settings)
    assert isinstance(config, CloningConfig)
    cloner = Cloner(config, RunFolder.create(str(tmp_path / "b"), 0))
    for _ in range(2):
        assert run.update()["train/data_loss"] == pytest.approx(cloner.update()["train/cloning_loss"], abs=1e-6)


def test_the_total_is_that_of_the_terms(minima: str, tmp_path: Path):
    loss = {"data_weight": 2.0, "rel_weight": 0.5, "abs_weight": 3.0, "physics_weight": 0.7}
    metrics = trainer(minima, tmp_path / "run", loss=loss).update()
    terms = [metrics[f"train/{name}_loss"] for name in ("data", "relative", "absolute")]
    expected = 2.0 * terms[0] + 0.7 * (0.5 * terms[1] + 3.0 * terms[2])
    assert metrics["train/loss"] == pytest.approx(expected)


@pytest.mark.parametrize(("scale", "factor"), [("none", None), ("start", 1.0)])
def test_the_squared_data_term_is_in_the_units_asked_for(minima: str, tmp_path: Path, scale: str, factor: float | None):
    run = trainer(minima, tmp_path / "run", data="mse", scale=scale)
    with torch.no_grad():
        for parameter in run.module.parameters():
            parameter.zero_()
        run.module.head.last.bias[0] = 50.0  # springs so stiff that nothing moves
    metrics = run.update()
    if factor is None:
        assert metrics["train/data_loss"] < 0.3**2 * 3  # Å²
    else:
        assert metrics["train/data_loss"] == pytest.approx(factor, abs=0.05)


def test_each_unrolled_step_begins_where_the_last_one_led(minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import relaxrl.training.constraints as module

    run = trainer(minima, tmp_path / "run", unroll=3, unroll_from=0.5)
    forces = []

    def spied(potential: Any, graph: AtomGraph, step: torch.Tensor) -> Any:
        forces.append(float(graph.forces.norm(dim=-1).max()))
        assert not graph.positions.requires_grad
        return after_step(potential, graph, step)

    monkeypatch.setattr(module, "after_step", spied)
    run.update()
    assert len(forces) == 1
    run.engine.step = 8
    forces.clear()
    run.update()
    assert len(forces) == 3
    assert forces[2] < forces[1] < forces[0]


def test_the_curriculum_moves_the_weights_and_a_resumed_run_has_them(minima: str, tmp_path: Path):
    run = trainer(minima, tmp_path / "run", loss={"abs_weight": 0.2})
    assert dataclasses.astuple(run.weights) == (1.0, 1.0, 0.2)
    measured = run.validate()
    progress = measured["constraints/progress"]
    assert 0 < progress < 1
    worst = max(measured["constraints/delta_h"] + 2, measured["constraints/delta_m"] + 1)
    assert measured["constraints/worst_ratio"] == pytest.approx(worst)
    assert progress == pytest.approx((3 - worst) / 3)
    assert dataclasses.astuple(run.weights) == pytest.approx(
        (1 - 0.9 * progress, 1 + 2 * progress, 0.2 * (1 + 2 * progress))
    )
    other = trainer(minima, tmp_path / "other", loss={"abs_weight": 0.2})
    other.load_state_dict(run.state_dict())
    assert other.weights == run.weights
    assert other.validations == run.validations


def test_the_loss_falls_and_the_agent_can_be_used(minima: str, tmp_path: Path):
    settings = configuration(minima, tmp_path / "run", updates=40, log_every=60) | {"trainer": {"max_lr": 0.01}}
    settings |= {"evaluation": settings["evaluation"] | {"every": 240}}
    result = train(settings, verbose=False)
    logged = columns(result.folder)
    for name in ("relative", "absolute"):
        losses = np.array(logged[f"train/{name}_loss"])
        losses = losses[np.isfinite(losses)]
        assert losses[-1] < 0.8 * losses[0]
    ratios = np.array(logged["eval/ratio_to_bfgs"])
    assert np.nanmin(ratios) == result.best < 0.9 * ratios[0]
    assert result.metrics["constraints/worst_ratio"] > 0
    assert load_agent(str(result.folder)).metadata["method"] == "constraints"
    pictures = {"data_term", "improvement", "violations", "point_loss", "constraints", "curriculum"}
    pictures |= {"learning_curve", "loss"}
    assert {path.stem for path in (result.folder / "plots").iterdir()} == pictures


def test_a_run_in_two_parts_equals_one_in_a_single_part(minima: str, tmp_path: Path):
    train(configuration(minima, tmp_path / "straight", steps=72), verbose=False)
    train(configuration(minima, tmp_path / "parts", steps=36), verbose=False)
    assert resume(tmp_path / "parts", ("run.steps=72",), verbose=False).t_total == 72
    assert_same_run(tmp_path / "straight", tmp_path / "parts")


def test_development_starts_without_known_minima_are_relaxed(minima: str, tmp_path: Path):
    generator = np.random.default_rng(3)
    bottom = minimum("Cu", 1)
    start = perturb(bottom, 0.1, generator)
    start.info["relaxrl_kind"] = "start"
    path = tmp_path / "starts.extxyz"
    ase.io.write(path, start)
    crystals = [atoms.copy() for atoms in ase.io.read(minima, index=":")]
    for atoms in crystals:
        atoms.info["relaxrl_kind"] = "minimum"
    ase.io.write(tmp_path / "minima.extxyz", crystals)
    settings = {"structures": str(tmp_path / "minima.extxyz"), "kind": None}
    run = trainer(minima, tmp_path / "run", evaluation={"structures": str(path)}, **settings)
    bottom.calc = EMT()
    assert run.held_out.lowest.tolist() == pytest.approx([bottom.get_potential_energy()], abs=1e-6)


def test_a_potential_that_is_not_differentiable_is_refused(minima: str, tmp_path: Path):
    settings = configuration(minima, tmp_path / "run") | {"calculator": "ase.calculators.emt:EMT"}
    with pytest.raises(
        ConfigError, match=r"`constraints` needs .*torch \(.*eam:FILE, emt, .*got calculator `ase.calculators.emt:EMT`"
    ):
        train(settings, verbose=False)


def test_crystals_that_are_not_known_to_be_minima_are_refused(minima: str, tmp_path: Path):
    settings = configuration(minima, tmp_path / "run") | {"kind": None}
    with pytest.raises(ConfigError, match=r"`constraints` needs the minimum .*cells.extxyz#0 and 5 others .*kind=min"):
        train(settings, verbose=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("expret=bfgs", "unknown key `expret`; did you mean `expert`?"),
        ("expert=bgfs", "`expert` must be 'bfgs' or 'teleport', got 'bgfs' (str); did you mean `bfgs`?"),
        ("loss.data_wieght=1", "unknown key `loss.data_wieght`; did you mean `loss.data_weight`?"),
        ("loss.data_weight=-1", "`data_weight` must be a finite number that is not negative, got -1.0"),
        ("loss.alpha_improve=2", "`alpha_improve` must be in [0, 1], got 2.0"),
        ("loss.curriculum.hi=0", "`hi` must be above `lo`=0.0, got 0.0"),
        ("lookahead=0", "`lookahead` must be at least 1, got 0"),
        ("unroll=0", "`unroll` must be at least 1, got 0"),
        ("unroll_from=2", "`unroll_from` must be between 0 and 1, got 2.0"),
        ("alpha=0", "`alpha` must be positive, got 0.0"),
        ("actor.env_input_dim=2", "`actor.env_input_dim` must be 0, got 2"),
    ],
)
def test_mistakes_are_named(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_run_config(METALS, [override], "run.yaml")
    assert message in str(caught.value)
