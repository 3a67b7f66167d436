"""Planning: with the true potential as the model one step ends the relaxation; with a wrong one it is corrected."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy import sparse
from torch import Tensor

import relaxrl.nn.planning as planning
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.nn import EnergyModel, EnergyModelConfig, PlanningActor, PlanningConfig, build_planning_actor, plan
from relaxrl.nn.inner import Limits, longest, minimize
from relaxrl.potentials import EMT
from relaxrl.potentials.base import Evaluation
from relaxrl.potentials.topology import Topology

SMALL = PlanningConfig(energy=EnergyModelConfig(densities=3, pairs=2, hidden=16))
LIMITS = Limits(force=1e-8, evaluations=200, step=0.5, radius=100.0)


def alloy(seed: int, rattle: float = 0.15) -> Atoms:
    atoms = bulk("Cu", a=3.8, cubic=True).repeat((2, 1, 1))
    atoms.symbols[[0, 3]] = "Au"
    atoms.rattle(rattle, seed=seed)
    return atoms


def evaluated(graph: AtomGraph) -> AtomGraph:
    return graph.replace(forces=EMT().evaluate(graph).forces)


@pytest.fixture(scope="module")
def actor() -> PlanningActor:
    made = build_planning_actor(SMALL, torch.Generator().manual_seed(4)).double()
    return made.eval().requires_grad_(False)


def test_with_the_true_potential_one_step_relaxes() -> None:
    graph = evaluated(graph_from_atoms(alloy(seed=1)))
    assert float(max_force(graph)) > 1.0
    after = evaluated(graph.replace(positions=graph.positions + plan(EMT(), graph, PlanningConfig(tolerance=1e-4))))
    assert float(max_force(after)) < 1e-3


def test_a_constant_error_of_the_forces_is_corrected() -> None:
    """A model whose curvature is right but whose minimum lies elsewhere finds the true minimum."""
    graph = evaluated(graph_from_atoms(alloy(seed=2, rattle=0.01)))
    tilt = 0.5 * torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Tilted(EMT):
        def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
            true = super().evaluate(graph, stress)
            energy = true.energy - (graph.positions * tilt).sum()
            return Evaluation(energy, true.forces + tilt, true.failed, true.messages)

    after = evaluated(graph.replace(positions=graph.positions + plan(Tilted(), graph, PlanningConfig())))
    assert float(max_force(after)) < 2e-3 * float(max_force(graph))


class HalfAsStiff(EMT):
    """Wrong by a factor of two, so that a step goes twice as far as it should."""

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        return 0.5 * super().atom_energies(topology, vectors)

    def energy_gradients(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, Tensor]:
        energies, gradients = super().energy_gradients(topology, vectors)
        return 0.5 * energies, 0.5 * gradients


def test_a_poor_step_corrects_the_curvature() -> None:
    minimum = graph_from_atoms(alloy(seed=3, rattle=0.0))
    minimum = minimum.replace(positions=minimum.positions + plan(EMT(), evaluated(minimum), PlanningConfig()))
    start = torch.randn(minimum.positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = evaluated(minimum.replace(positions=minimum.positions + 1e-3 * (start - start.mean(0))))
    model = HalfAsStiff()
    first = plan(model, before, PlanningConfig())
    graph = evaluated(before.replace(positions=before.positions + first))
    assert 0.7 < float(max_force(graph) / max_force(before)) < 1.4
    graph = graph.replace(previous_displacement=first, previous_forces=before.forces)
    left = []
    for secant in (0.3, 10.0):
        move = plan(model, graph, PlanningConfig(secant=secant))
        left.append(float(max_force(evaluated(graph.replace(positions=graph.positions + move))) / max_force(graph)))
    assert left[0] < 0.1 < 0.7 < left[1]


def test_the_secant_reproduces_the_change() -> None:
    generator = torch.Generator().manual_seed(5)
    step, noise, other = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(3))
    true, seen = 2 * step + 0.3 * noise, 3 * step - 0.2 * noise
    secant = planning._Secant(true, seen, step)
    torch.testing.assert_close(secant @ step, true - seen)
    torch.testing.assert_close(secant.matrix() @ other, secant @ other)


def test_rotated_batched_and_alone(actor: PlanningActor) -> None:
    first, second = (alloy(seed) for seed in (4, 5))
    turned = first.copy()
    turned.rotate(33, (1, 1, 2), rotate_cell=True)
    alone, rotated = (actor(evaluated(graph_from_atoms(atoms))) for atoms in (first, turned))
    both = actor(evaluated(graph_from_atoms([second, first])))
    assert longest(alone.flatten()) > 0.01
    torch.testing.assert_close(both[len(second) :], alone)
    reference = first.copy()
    reference.positions = alone.numpy()
    reference.rotate(33, (1, 1, 2))
    torch.testing.assert_close(rotated, torch.from_numpy(reference.positions), rtol=1e-5, atol=1e-7)


def test_no_forces_no_step_and_far_steps_are_limited(actor: PlanningActor) -> None:
    graph = graph_from_atoms(alloy(seed=6))
    assert not bool(actor(graph.replace(forces=torch.zeros_like(graph.positions))).any())
    wild = graph.replace(forces=200.0 * torch.randn(graph.positions.shape, dtype=torch.float64))
    assert longest(actor(wild).flatten()) <= SMALL.max_step * (1 + 1e-9)
    with pytest.raises(ValueError, match="forces"):
        actor(graph)


def test_large_structures_take_another_way_to_the_same_place(
    actor: PlanningActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = evaluated(graph_from_atoms(alloy(seed=7, rattle=0.02)))
    config = PlanningConfig(energy=SMALL.energy, inner_evaluations=1)
    dense = plan(actor.energy, graph, config)
    monkeypatch.setattr(planning, "DENSE_LIMIT", 2)
    monkeypatch.setattr(planning, "KRYLOV_TOLERANCE", 1e-9)
    sparse = plan(actor.energy, graph, config)
    assert longest(dense.flatten()) > 0.01
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="EnergyModel"):
        plan(EMT(), graph, SMALL)


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    """Its minimum is at (1, 1, 0); energies are counted from the start at 0."""
    a, b, c = x
    energy = (1 - a) ** 2 + 100 * (b - a**2) ** 2 + c**2 - 1
    gradient = torch.stack([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2), 2 * c])
    return energy, gradient


def test_minimizes_a_curved_valley() -> None:
    start = torch.zeros(3, dtype=torch.float64)
    _, gradient = rosenbrock(start)

    def curvature(x: Tensor) -> Callable[[Tensor], Tensor]:
        a, b, _ = x.tolist()
        corner, slope = 2 - 400 * (b - 3 * a**2), -400 * a
        hessian = torch.tensor([[corner, slope, 0], [slope, 200, 0], [0, 0, 2]], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(hessian)
        return lambda vector: vectors @ ((vectors.T @ vector) / values.abs())

    end = minimize(rosenbrock, gradient, curvature, LIMITS)
    torch.testing.assert_close(end, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_stops_at_the_radius_and_backs_away_from_what_is_not_finite() -> None:
    start = torch.zeros(3, dtype=torch.float64)
    _, gradient = rosenbrock(start)

    def curvature(_: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda vector: vector / 2.0

    near = Limits(force=1e-8, evaluations=200, step=0.5, radius=0.3)
    assert longest(minimize(rosenbrock, gradient, curvature, near)) <= 0.3 * (1 + 1e-9)

    def cliff(x: Tensor) -> tuple[Tensor, Tensor]:
        energy, slope = rosenbrock(x)
        return (energy, slope) if float(x[0]) < 0.4 else (energy * torch.nan, slope * torch.nan)

    end = minimize(cliff, gradient, curvature, LIMITS)
    assert 0.1 < float(end[0]) < 0.4


def test_the_model_is_one_of_the_actor(actor: PlanningActor) -> None:
    assert isinstance(actor.energy, EnergyModel)
    assert actor.cutoff == SMALL.energy.cutoff


def test_it_shows_the_hessian_of_its_model(actor: PlanningActor, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_from_atoms(alloy(seed=5))
    with torch.no_grad():  # as agents are asked
        shown = actor.hessian(graph)
    assert not sparse.issparse(shown)
    torch.testing.assert_close(torch.from_numpy(shown), actor.energy.hessian(graph)[0].detach())
    monkeypatch.setattr(planning, "DENSE_LIMIT", 4)
    large = actor.hessian(graph)
    assert sparse.issparse(large)
    torch.testing.assert_close(torch.from_numpy(large.toarray()), torch.from_numpy(shown))
    with pytest.raises(ValueError, match="batch of 2"):
        actor.hessian(AtomGraph.batch([graph, graph]))
