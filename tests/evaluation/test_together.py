"""Relaxations side by side come to what each comes to alone, with far fewer calls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from relaxrl import load_agent
from relaxrl.errors import ConfigError, RelaxRLError
from relaxrl.evaluation import evaluate
from relaxrl.evaluation.run import Limits, RunRecord, Start, run_with
from relaxrl.evaluation.together import run_together, together
from relaxrl.graph import AtomGraph
from relaxrl.potentials import EMT, Evaluation, Potential, TorchCalculator, parse_calculator

LIMITS = Limits(fmax=0.01, steps=60)


def starts() -> list[Start]:
    found = []
    for k, symbol in enumerate(("Cu", "Au", "Al", "Ag", "Ni", "Pt")):
        atoms = bulk(symbol, cubic=True).repeat((1 + k % 2, 1, 1))
        atoms.rattle(0.05 + 0.02 * k, seed=k)
        found.append(Start(f"{symbol}#0", "set", atoms))
    return found


def alone(start: Start, method: str, agents: dict) -> RunRecord:
    return run_with(start, method, TorchCalculator(EMT()), LIMITS, agents, parse_calculator("emt"))


class CountsCalls(Potential):
    """EMT that knows how it was asked."""

    def __init__(self) -> None:
        self.inner = EMT()
        self.batches: list[int] = []

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        self.batches.append(graph.n_graphs)
        return self.inner.evaluate(graph, stress)


@pytest.mark.parametrize("method", ["BFGS", "BFGSLineSearch", "untrained", "agent:metals"])
def test_records_are_those_of_single_runs(method):
    agents = {"metals": load_agent("metals")}
    expected = [alone(start, method, agents) for start in starts()]
    got = run_together(starts(), method, parse_calculator("emt"), LIMITS, agents)
    for one, other in zip(got, expected, strict=True):
        assert one.converged
        for field in dataclasses.fields(RunRecord):
            if field.name == "film":
                assert abs(one.film.moves.astype(int) - other.film.moves).max() <= 1  # the last digit may be rounded up
            elif field.name != "seconds":
                value = getattr(other, field.name)
                close = isinstance(value, float) or field.name in ("trace", "energies")
                assert getattr(one, field.name) == (pytest.approx(value, abs=1e-6) if close else value), field.name


def test_one_call_serves_all_that_wait_and_nothing_is_evaluated_for_nobody():
    potential, counts = CountsCalls(), [record.force_evaluations for record in (alone(s, "BFGS", {}) for s in starts())]

    def job(start: Start):
        def run(shared: Potential, agent) -> int:
            assert agent is None
            return run_with(
                start, "BFGS", TorchCalculator(shared), LIMITS, {}, parse_calculator("emt")
            ).force_evaluations

        return run

    assert together([job(start) for start in starts()], potential) == counts
    # The last look at each end is a call of its own.
    assert sum(potential.batches) <= sum(counts) + len(counts)
    assert len(potential.batches) <= max(counts) + len(counts)
    assert potential.batches[0] == len(counts)


class Fickle:
    """Goes along the forces, but gives up at gold."""

    def act(self, graph: AtomGraph) -> Tensor:
        if bool((graph.atomic_numbers == 79).any()):
            raise RelaxRLError("not with gold")
        assert graph.forces is not None
        return 0.03 * graph.forces


def test_an_agent_that_gives_up_does_so_for_its_own_structure_only():
    agents = {"fickle": Fickle()}
    records = run_together(starts(), "agent:fickle", parse_calculator("emt"), LIMITS, agents)
    for record, start in zip(records, starts(), strict=True):
        assert record.converged
        assert ("not with gold" in record.handover) == (start.structure == "Au#0")


def test_a_structure_that_fails_leaves_the_others_alone():
    odd = Start("Fe#0", "set", bulk("Fe", cubic=True))
    records = run_together([*starts()[:2], odd], "BFGS", parse_calculator("emt"), LIMITS, {})
    assert [record.converged for record in records] == [True, True, False]
    assert "no parameters for Fe" in records[2].reason


def test_what_a_job_raises_is_heard_and_the_others_end():
    ended = []

    def fine(potential: Potential, agent) -> int:
        del agent
        graph = AtomGraph.batch([starts_graph()])
        ended.append(float(potential.evaluate(graph).energy[0]))
        return 1

    def wrong(*_) -> int:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        together([fine, wrong, fine], EMT())
    assert len(ended) == 2


def starts_graph() -> AtomGraph:
    from relaxrl.io import graph_from_atoms

    return graph_from_atoms(starts()[0].atoms)


def test_evaluate_gives_the_same_tables_side_by_side():
    structures: list[Atoms] = [start.atoms for start in starts()[:5]]
    single = evaluate("metals", structures, "emt", methods=["BFGS"], steps=60)
    several = evaluate("metals", structures, "emt", methods=["BFGS"], steps=60, together=3)
    for one, other in zip(several.records, single.records, strict=True):
        assert (one.structure, one.method, one.force_evaluations) == (
            other.structure,
            other.method,
            other.force_evaluations,
        )
        assert one.energy == pytest.approx(other.energy, abs=1e-6)


def test_what_does_not_go_together_is_refused():
    atoms = bulk("Cu")
    with pytest.raises(ConfigError, match="together=2"):
        evaluate(None, atoms, "emt", together=2, workers=2)
    with pytest.raises(ConfigError, match="together=0"):
        evaluate(None, atoms, "emt", together=0)
    with pytest.raises(ConfigError, match="has none"):
        evaluate(None, atoms, "ase.calculators.lj:LennardJones", together=2)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="`device` is `cuda`"):
            evaluate(None, atoms, "emt", together=2, device="cuda")
    assert np.isfinite(evaluate(None, atoms, "emt", methods=["BFGS"], together=2).records[0].energy)
