import math
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.optimize import BFGS

from relaxrl.errors import CalculatorError, CheckpointError, ConfigError, StructureError
from relaxrl.evaluation import Limits, evaluate
from relaxrl.evaluation import methods as methods_module
from relaxrl.evaluation.compare import starting_points
from relaxrl.evaluation.run import Start, run_method
from relaxrl.potentials import parse_calculator


def alloy(seed=0, rattle=0.1):
    atoms = bulk("Cu", cubic=True)
    generator = np.random.default_rng(seed)
    atoms.symbols[:] = generator.choice(["Cu", "Au"], len(atoms))
    atoms.positions += generator.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


class HandCounted(EMT):
    """EMT that writes down by itself what it was asked."""

    calls: ClassVar[list[tuple[np.ndarray, float]]] = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        fmax = np.linalg.norm(self.results["forces"], axis=1).max()
        HandCounted.calls.append((atoms.positions.copy(), fmax))


class SteepestDescent:
    def act(self, graph):
        return 0.05 * graph.forces


def start(atoms, name="cell#0"):
    return Start(name, name.rpartition("#")[0], atoms)


@pytest.mark.parametrize("method", [*methods_module.STANDARD, "agent:descent"])
def test_every_method_is_counted_as_by_hand_from_the_same_start(method):
    HandCounted.calls.clear()
    atoms = alloy()
    record = run_method(
        start(atoms), method, parse_calculator(HandCounted), Limits(fmax=0.01), {"descent": SteepestDescent()}
    )
    # A method may leave the atoms where the calculator has not been last: one more look, which nobody pays for.
    fmaxs = [fmax for _, fmax in HandCounted.calls][: record.force_evaluations]
    assert len(HandCounted.calls) - record.force_evaluations in (0, 1)
    np.testing.assert_array_equal(HandCounted.calls[0][0], atoms.positions)
    assert record.converged
    assert record.reason == "converged"
    assert record.trace == pytest.approx(fmaxs)
    for level in (0.1, 0.05):
        assert record.evaluations[level] == next(k for k, f in enumerate(fmaxs, 1) if f <= level)
    assert record.fmax < 0.01
    assert record.evaluations[0.01] <= record.force_evaluations
    assert record.evaluations[0.01] <= 200
    assert record.distinct_evaluations <= record.force_evaluations


def test_alpha_and_the_agent_are_what_their_names_say():
    for method, alpha in (("BFGS", 70.0), ("BFGS-alpha10", 10.0), ("BFGS-alpha20", 20.0)):
        atoms = alloy()
        atoms.calc = EMT()
        assert methods_module.make_optimizer(method, atoms, {}).alpha == alpha
    atoms = alloy()
    atoms.calc = EMT()
    agent = SteepestDescent()
    assert methods_module.make_optimizer("agent:x", atoms, {"x": agent}).agent is agent
    assert methods_module.make_optimizer("untrained", atoms, {}).agent is None


def test_bfgs_is_that_of_ase():
    record = run_method(start(alloy()), "BFGS", parse_calculator("emt"), Limits())
    atoms = alloy()
    atoms.calc = EMT()
    optimizer = BFGS(atoms, logfile=None)
    optimizer.run(fmax=0.01)
    assert record.force_evaluations == optimizer.nsteps + 1
    assert record.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)


def test_forces_smaller_than_asked_for_are_not_reported():
    record = run_method(start(alloy()), "BFGS", parse_calculator("emt"), Limits(fmax=0.05))
    assert set(record.evaluations) == {0.1, 0.05, 0.01}
    assert record.evaluations[0.05] == record.force_evaluations
    assert record.evaluations[0.01] is None


def test_another_fmax_is_a_threshold_of_its_own():
    record = run_method(start(alloy()), "untrained", parse_calculator("emt"), Limits(fmax=0.002))
    assert list(record.evaluations) == [0.1, 0.05, 0.01, 0.002]
    assert record.evaluations[0.01] <= record.evaluations[0.002] == record.force_evaluations


def test_running_out_of_steps_is_a_failure_with_what_was_reached():
    record = run_method(start(alloy()), "FIRE", parse_calculator("emt"), Limits(steps=3))
    assert not record.converged
    assert record.reason == "steps"
    assert record.force_evaluations == 4
    assert record.evaluations[0.01] is None


class Scripted:
    """What the optimizers of these tests have in common."""

    def __init__(self, atoms, logfile):
        assert logfile is None
        self.atoms = atoms


class Slow(EMT):
    def calculate(self, *args, **kwargs):
        time.sleep(0.02)
        super().calculate(*args, **kwargs)


@pytest.mark.parametrize("method", ["BFGS", "SciPyFminCG", "untrained"])
def test_running_out_of_time_is_a_failure(method):
    record = run_method(start(alloy()), method, parse_calculator(Slow), Limits(seconds=0.05))
    assert not record.converged
    assert record.reason == "time"
    assert record.seconds < 1.0


class Breaking(EMT):
    """EMT that fails from the fourth call on."""

    how = "raise"

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n = getattr(self, "n", 0) + 1
        if self.n >= 4:
            if self.how == "raise":
                raise RuntimeError("SCF did\nnot converge")
            self.results["forces"][0, 0] = math.nan


class BreakingNaN(Breaking):
    how = "nan"


@pytest.mark.parametrize("method", ["BFGS", "GPMin", "SciPyFminCG", "untrained", "agent:descent"])
@pytest.mark.parametrize(("broken", "said"), [(Breaking, "SCF did not converge"), (BreakingNaN, "not finite")])
def test_a_calculator_that_fails_in_mid_run_is_recorded_for_all_methods(method, broken, said):
    record = run_method(start(alloy()), method, parse_calculator(broken), Limits(), {"descent": SteepestDescent()})
    assert not record.converged
    assert record.reason.startswith("calculator: ")
    assert said in record.reason
    assert "\n" not in record.reason
    assert record.evaluations[0.01] is None
    assert record.force_evaluations >= 4
    assert math.isfinite(record.energy)
    assert math.isfinite(record.fmax)


def test_an_optimizer_that_raises_is_recorded(monkeypatch):
    class Hopeless(Scripted):
        def run(self, fmax, steps):
            raise ValueError(f"no idea how to reach {fmax} in {steps}")

    monkeypatch.setitem(methods_module.CLASSICAL, "BFGS", Hopeless)
    record = run_method(start(alloy()), "BFGS", parse_calculator("emt"), Limits())
    assert record.reason == "error: ValueError: no idea how to reach 0.01 in 500"
    assert record.force_evaluations == 0


def test_converging_above_the_start_is_no_success(monkeypatch):
    class Evaporate(Scripted):
        def run(self, fmax, steps):
            assert steps > 1
            self.atoms.get_forces()
            self.atoms.set_distance(0, 1, 20.0)
            return np.linalg.norm(self.atoms.get_forces(), axis=1).max() < fmax

    monkeypatch.setitem(methods_module.CLASSICAL, "BFGS", Evaporate)
    record = run_method(start(molecule("N2")), "BFGS", parse_calculator("emt"), Limits())
    assert record.fmax < 0.01
    assert not record.converged
    assert record.reason == "energy_above_start"
    assert record.evaluations[0.01] is None


def test_pieces_are_no_relaxed_structure(monkeypatch):
    class Evaporate(Scripted):
        def run(self, fmax, steps):
            assert steps > 1
            self.atoms.get_forces()
            self.atoms.set_distance(0, 1, 20.0)
            return np.linalg.norm(self.atoms.get_forces(), axis=1).max() < fmax

    monkeypatch.setitem(methods_module.CLASSICAL, "BFGS", Evaporate)
    squeezed = Atoms("Cu2", [[0, 0, 0], [0, 0, 1.2]])  # higher up than two atoms
    record = run_method(start(squeezed), "BFGS", parse_calculator("emt"), Limits())
    assert record.fmax < 0.01
    assert record.energy < record.energies[0]
    assert not record.converged
    assert record.reason == "broken"


def test_why_an_agent_was_relieved_is_recorded():
    class Broken:
        def act(self, graph):
            return graph.forces * torch.nan

    record = run_method(start(alloy()), "agent:broken", parse_calculator("emt"), Limits(), {"broken": Broken()})
    assert record.converged
    assert "not finite" in record.handover
    assert run_method(start(alloy()), "untrained", parse_calculator("emt"), Limits()).handover == ""


@pytest.mark.parametrize("atoms", [Atoms("Cu", cell=[4, 4, 4], pbc=True), Atoms("Cu"), bulk("Cu")])
def test_a_converged_start_takes_one_evaluation(atoms):
    comparison = evaluate(None, atoms, "emt", methods=["BFGS", "LBFGS", "FIRE", "untrained"])
    assert [record.force_evaluations for record in comparison.records] == [1, 1, 1, 1]
    ratio = comparison.summary().methods["untrained"].ratio_to_reference[0.01]
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_a_molecule_is_compared_too():
    comparison = evaluate(SteepestDescent(), molecule("H2O"), "emt", methods=["BFGS"], rattle=0.1)
    assert all(record.converged for record in comparison.records)
    assert comparison.methods == ["agent:SteepestDescent", "BFGS"]


def test_bfgs_always_runs_and_names_may_be_in_any_case():
    comparison = evaluate(None, alloy(), "emt", methods=["fire", "FIRE", "bfgslinesearch"])
    assert comparison.methods == ["BFGS", "FIRE", "BFGSLineSearch"]


def test_rattle_is_seeded_by_structure_and_leaves_the_input_alone():
    a, b = bulk("Cu", cubic=True), bulk("Al", cubic=True)
    before = b.positions.copy()
    first = starting_points([a, b], 0.1, seed=4)
    assert [point.structure for point in first] == ["atoms#0", "atoms#1"]
    np.testing.assert_array_equal(b.positions, before)
    again = starting_points([a, b], 0.1, seed=4)
    np.testing.assert_array_equal(first[1].atoms.positions, again[1].atoms.positions)
    longer = starting_points([bulk("Au", cubic=True) * 2, b], 0.1, seed=4)
    np.testing.assert_array_equal(first[1].atoms.positions, longer[1].atoms.positions)
    other = starting_points([a, b], 0.1, seed=5)
    assert not np.allclose(first[1].atoms.positions, other[1].atoms.positions)
    assert np.std(first[1].atoms.positions - before) == pytest.approx(0.1, rel=0.5)
    np.testing.assert_array_equal(starting_points(b, 0.0, seed=4)[0].atoms.positions, before)


def test_files_keep_their_names_and_sets(tmp_path):
    for name in ("one.extxyz", "two.extxyz"):
        alloy().write(tmp_path / name)
    points = starting_points([str(tmp_path / "one.extxyz"), str(tmp_path / "two.extxyz")], 0.0, seed=0)
    assert [point.structure for point in points] == [f"{tmp_path}/one.extxyz#0", f"{tmp_path}/two.extxyz#0"]
    assert [point.collection for point in points] == [f"{tmp_path}/one.extxyz", f"{tmp_path}/two.extxyz"]
    folder = starting_points(tmp_path, 0.0, seed=0)
    assert {point.collection for point in folder} == {str(tmp_path)}
    with pytest.raises(StructureError, match="twice"):
        starting_points([tmp_path / "one.extxyz"] * 2, 0.0, seed=0)


def test_processes_give_the_same_numbers():
    cells = [alloy(seed) for seed in range(2)]
    seen = []
    one = evaluate(None, cells, "emt", methods=["BFGS", "untrained"])
    two = evaluate(
        None, cells, "emt", methods=["BFGS", "untrained"], workers=2, on_record=lambda *args: seen.append(args[1:])
    )
    assert [r.trace for r in one.records] == [r.trace for r in two.records]
    assert [(r.structure, r.method) for r in one.records] == [(r.structure, r.method) for r in two.records]
    assert seen == [(k, 4) for k in range(1, 5)]


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match=r"unknown method 'BGFS'.*did you mean BFGS\?"):
        evaluate(None, alloy(), "emt", methods=["BGFS"])
    with pytest.raises(CalculatorError, match=r"iron.xyz|Fe"):
        evaluate(None, bulk("Fe"), "emt")
    with pytest.raises(StructureError, match=r"nowhere\.xyz"):
        evaluate(None, "nowhere.xyz", "emt")
    with pytest.raises(StructureError, match="at least one structure"):
        evaluate(None, [], "emt")
    with pytest.raises(CheckpointError, match="no_such_agent"):
        evaluate("no_such_agent", alloy(), "emt")
    with pytest.raises(CalculatorError, match="nothing_like_it"):
        evaluate(None, alloy(), "nothing_like_it")
    for wrong in ({"fmax": 0.0}, {"steps": 0}, {"rattle": -1.0}, {"workers": 0}, {"seconds": 0.0}, {"fmax": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            evaluate(None, alloy(), "emt", **wrong)


def test_other_forces_to_compare_at_are_read_off_the_same_runs():
    usual = evaluate(None, alloy(), "emt", methods=["BFGS"])
    assert usual.limits.also == (0.05,)
    more = evaluate(None, alloy(), "emt", methods=["BFGS"], also=[0.5, 0.2])
    assert more.limits.also == (0.5, 0.2)
    (record,) = more.records
    assert record.trace == usual.records[0].trace
    for level in (0.5, 0.2, 0.05):
        assert record.evaluations[level] == next(k for k, fmax in enumerate(record.trace, 1) if fmax <= level)
    assert evaluate(None, alloy(), "emt", methods=["BFGS"], fmax=0.05).limits.also == ()
    for wrong in (0.01, 0.001, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"also: expected forces above fmax=0.01"):
            evaluate(None, alloy(), "emt", also=[wrong])
