import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.errors import ConfigError
from relaxrl.evaluation import Limits, evaluate, method_names
from relaxrl.evaluation.methods import STANDARD, make_optimizer
from relaxrl.evaluation.oracle import FLOOR, NewtonOracle
from relaxrl.evaluation.run import Start, run_method
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, LennardJones, parse_calculator
from relaxrl.structures.curvature import finite_difference_hessian


def alloy(seed: int = 0, rattle: float = 0.15) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    generator = np.random.default_rng(seed)
    atoms.symbols[:] = generator.choice(["Cu", "Au"], len(atoms))
    atoms.positions += generator.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


def test_the_step_is_the_force_over_the_floored_hessian() -> None:
    cells = [alloy(0), alloy(1, rattle=0.3)]  # the second one far up, where some curvatures are negative
    graph = graph_from_atoms(cells)
    graph = graph.replace(forces=EMT().evaluate(graph).forces)
    steps = torch.split(NewtonOracle(EMT()).act(graph), [len(atoms) for atoms in cells])
    lowest = []
    for atoms, step in zip(cells, steps, strict=True):
        calculator = parse_calculator("emt").create()
        values, vectors = np.linalg.eigh(finite_difference_hessian(atoms, calculator, step=1e-3))
        atoms.calc = calculator
        moving = np.abs(values) > 1e-4  # all but the three translations
        assert moving.sum() == len(values) - 3
        inverse = vectors[:, moving] / np.maximum(np.abs(values[moving]), FLOOR) @ vectors[:, moving].T
        np.testing.assert_allclose(step.numpy().ravel(), inverse @ atoms.get_forces().ravel(), atol=1e-4)
        lowest.append(values[moving].min())
    assert lowest[1] < -FLOOR


def test_close_to_a_minimum_it_converges_quadratically() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.positions += np.random.default_rng(2).normal(scale=0.02, size=(4, 3))
    record = run_method(Start("cell#0", "cell", atoms), "newton-oracle", parse_calculator("emt"), Limits(fmax=1e-6))
    assert record.converged
    assert record.handover == ""
    assert record.trace[-1] < record.trace[-2] ** 1.5
    assert record.force_evaluations <= 5


def test_it_is_compared_like_the_others_and_beats_them() -> None:
    comparison = evaluate(None, [alloy(seed) for seed in range(3)], "emt", methods=["BFGS", "newton-oracle"])
    assert comparison.methods == ["BFGS", "newton-oracle"]
    assert all(record.converged for record in comparison.records)
    summary = comparison.summary()
    assert summary.methods["newton-oracle"].ratio_to_reference[0.01].value < 0.5
    assert summary.best_classical == "BFGS"


def test_it_runs_only_where_it_is_asked_for() -> None:
    assert "newton-oracle" in method_names()
    assert "newton-oracle" not in STANDARD


def test_it_needs_a_potential_in_torch() -> None:
    said = r"newton-oracle needs exact Hessians.*ase.calculators.emt:EMT; leave the method out"
    with pytest.raises(ConfigError, match=said):
        evaluate(None, alloy(), "ase.calculators.emt:EMT", methods=["newton-oracle"])
    atoms = alloy()
    with pytest.raises(ConfigError, match="got none"):
        make_optimizer("newton-oracle", atoms, {})


def test_molecules_are_no_trouble() -> None:
    cluster = Atoms("Ar3", [[0, 0, 0], [3.9, 0, 0], [1.9, 3.4, 0.1]])
    spec = parse_calculator("lj,sigma=3.4,epsilon=0.0104,rc=10.0")
    assert isinstance(spec.potential(), LennardJones)
    record = run_method(Start("a#0", "a", cluster), "newton-oracle", spec, Limits(fmax=1e-4))
    assert record.converged


def test_it_is_given_time_to_come_down_from_afar() -> None:
    atoms = alloy(3, rattle=0.3)
    atoms.calc = parse_calculator("emt").create()
    optimizer = make_optimizer("newton-oracle", atoms, {}, parse_calculator("emt"))
    assert optimizer.run(fmax=0.01, steps=50)
    assert optimizer.handover_reason == ""
