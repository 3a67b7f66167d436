"""Planning: relax in a learned potential that is brought to the true forces, and go where that ends."""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor, nn

from relaxrl.graph import AtomGraph
from relaxrl.nn.energy import EnergyModel
from relaxrl.nn.inner import Limits, Solve, longest, minimize
from relaxrl.nn.krylov import floored_solve
from relaxrl.nn.newton import floored_factor
from relaxrl.nn.planning_config import EnergyModelConfig, PlanningConfig
from relaxrl.nn.sparse import SparseHessian
from relaxrl.nn.trunk_energy import TrunkEnergyConfig, TrunkEnergyModel
from relaxrl.potentials import TorchPotential
from relaxrl.typing import FloatArray

DENSE_LIMIT = 200
"""Atoms up to which the model's Hessian is factorised; beyond, a Krylov space serves, and its cost is linear."""
KRYLOV_TOLERANCE = 1e-3
"""Relative change of a step at which it stands."""
FLAT = 0.1
"""Cosine between a step and the change of the gradient; below, the step says nothing of use on a minimum."""
RESOLUTION = 1e-5
"""eV/Å; forces in the model are not relaxed further, whatever the true ones are."""


class PlanningActor(nn.Module):
    r"""A policy that relaxes in an energy model and goes where that ends.

    $$ \Delta x = \arg\min_d \; E_\theta(x + d) - \big(F - F_\theta(x)\big) \cdot d + \tfrac12 d^T B d $$

    The linear term makes the model's forces at x the true ones, so that its error falls with the step: a policy that
    converges if only the model's curvature is about right. B, of rank two, comes in after a step that did not do much:
    it makes the change of the forces along that step the true one as well. The minimisation is that of `minimize`.

    Args:
        config: Sizes, and when the inner relaxation ends.
    """

    energy: EnergyModel | TrunkEnergyModel

    def __init__(self, config: PlanningConfig) -> None:
        super().__init__()
        self.config = config
        self.energy = make_energy_model(config.energy)
        self.cutoff = self.energy.cutoff

    def forward(self, graph: AtomGraph) -> Tensor:
        """Displacements (n_atoms, 3), Å, on the graph's device, without gradients; one structure after the other.

        Args:
            graph: The structures with forces, and with history where the last force difference is to be used.

        Raises:
            ValueError: Forces are missing.
        """
        if graph.forces is None:
            raise ValueError("planning starts from forces, but the graph has none; evaluate a potential first")
        with torch.no_grad():
            moves = [plan(self.energy, part, self.config) for part in graph.unbatch()]
        return torch.cat(moves)

    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array:
        """The model's curvature where one structure stands, for a safeguard that corrects it by what it measures.

        Args:
            graph: One structure; its forces don't matter.

        Returns:
            (3 n_atoms, 3 n_atoms), eV/Å², symmetric, perhaps indefinite; sparse beyond `DENSE_LIMIT` atoms.

        Raises:
            ValueError: It is a batch of several.
        """
        if graph.n_graphs != 1:
            raise ValueError(f"a Hessian is that of one structure, got a batch of {graph.n_graphs}; unbatch it first")
        bare = _bare(graph)
        if graph.n_atoms > DENSE_LIMIT and isinstance(self.energy, EnergyModel):
            return self.energy.curvature(bare).sparse(graph.n_atoms).assembled()
        with torch.enable_grad():  # most potentials differentiate forces
            matrix: FloatArray = self.energy.hessian(bare)[0].detach().double().cpu().numpy()
        return matrix


def make_energy_model(config: EnergyModelConfig | TrunkEnergyConfig) -> EnergyModel | TrunkEnergyModel:
    """The energy model that a configuration describes."""
    return TrunkEnergyModel(config) if isinstance(config, TrunkEnergyConfig) else EnergyModel(config)


def plan(potential: TorchPotential, graph: AtomGraph, config: PlanningConfig) -> Tensor:
    """Where a structure's relaxation in a potential ends that is corrected to the structure's forces.

    Args:
        potential: The model; any other potential serves as well.
        graph: One structure, with forces and, if they are to be used, last displacement and last forces.
        config: When it ends.

    Returns:
        (n_atoms, 3), Å, float64.
    """
    assert graph.forces is not None
    dense = graph.n_atoms <= DENSE_LIMIT
    if not dense and not isinstance(potential, EnergyModel):
        raise ValueError(
            f"planning in {type(potential).__name__} factorises its Hessian, which is meant for up to {DENSE_LIMIT} "
            f"atoms, got {graph.n_atoms}; use an EnergyModel"
        )
    bare = _bare(graph)
    energy, forces = _evaluate(potential, bare, torch.zeros_like(graph.positions))
    true = graph.forces.double().flatten()
    correction = true - forces
    bend = _secant(potential, graph, forces, config.secant)

    def model(displacement: Tensor) -> tuple[Tensor, Tensor]:
        above, pull = _evaluate(potential, bare, displacement)
        above, gradient = above - energy - correction @ displacement, -(pull + correction)
        if bend is None:
            return above, gradient
        bent = bend @ displacement
        return above + 0.5 * displacement @ bent, gradient + bent

    limits = Limits(
        force=max(config.tolerance * longest(true), RESOLUTION),
        evaluations=config.inner_evaluations,
        step=config.inner_step,
        radius=config.max_step,
    )

    def curvature(displacement: Tensor) -> Solve:
        here = bare.replace(positions=bare.positions + displacement.view(-1, 3))
        if dense:
            with torch.enable_grad():  # most potentials differentiate forces
                hessian = potential.hessian(here)[0].detach().double()
            return _factorised(hessian, bend, config.floor)
        assert isinstance(potential, EnergyModel)
        return _in_krylov_space(potential.curvature(here).sparse(here.n_atoms), config.floor)

    return minimize(model, -true, curvature, limits).view(-1, 3)


class _Secant:
    """BFGS's update of the model's curvature, in which the true change of the gradient replaces the model's.

    $B = y y^T / y^T s - y_m y_m^T / y_m^T s$, so that $B s = y - y_m$, and what was positive definite stays so.

    Args:
        true: y, (n_dof,), eV/Å; true change of the gradient.
        seen: y_m, that in the model.
        step: s, (n_dof,), Å.
    """

    def __init__(self, true: Tensor, seen: Tensor, step: Tensor) -> None:
        self.added = true / torch.sqrt(true @ step)
        self.removed = seen / torch.sqrt(seen @ step)

    def __matmul__(self, displacement: Tensor) -> Tensor:
        """B d, (n_dof,)."""
        return self.added * (self.added @ displacement) - self.removed * (self.removed @ displacement)

    def matrix(self) -> Tensor:
        """B, (n_dof, n_dof), eV/Å²."""
        return torch.outer(self.added, self.added) - torch.outer(self.removed, self.removed)


def _secant(potential: TorchPotential, graph: AtomGraph, forces: Tensor, worst: float) -> _Secant | None:
    """What a poor last step says of the model's curvature; None after a good one, or where nothing can be learned.

    Args:
        potential: The model.
        graph: The structure, with history.
        forces: (n_dof,), eV/Å; the model's.
        worst: Part of the largest force that a good step leaves at most.
    """
    if graph.previous_displacement is None or graph.previous_forces is None or graph.forces is None:
        return None
    step = graph.previous_displacement.double().flatten()
    now, then = graph.forces.double().flatten(), graph.previous_forces.double().flatten()
    if not bool(step.any()) or longest(now) <= worst * longest(then):
        return None
    _, before = _evaluate(potential, _bare(graph), -step)
    true, seen = then - now, before - forces
    for change in (true, seen):
        if not float(step @ change) > FLAT * float(step.norm() * change.norm()):
            return None
    return _Secant(true, seen, step)


def _bare(graph: AtomGraph) -> AtomGraph:
    """Only what a potential reads."""
    return AtomGraph(graph.positions, graph.cell, graph.pbc, graph.atomic_numbers, graph.graph_index)


def _evaluate(potential: TorchPotential, graph: AtomGraph, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Energy (), eV, and forces (n_dof,), eV/Å, of one displaced structure; NaN where there are none."""
    evaluated = potential.evaluate(graph.replace(positions=graph.positions + displacement.view(-1, 3)))
    return evaluated.energy[0].double(), evaluated.forces.double().flatten()


def _factorised(hessian: Tensor, bend: _Secant | None, floor: float) -> Solve:
    """Solves with |H + B| of one structure."""
    hessian = hessian if bend is None else hessian + bend.matrix()
    present = torch.ones((1, len(hessian) // 3), dtype=torch.bool)
    factor = floored_factor(hessian.unsqueeze(0), present, floor)[0]
    return lambda vector: torch.cholesky_solve(vector.unsqueeze(1), factor).squeeze(1)


def _in_krylov_space(hessian: SparseHessian, floor: float) -> Solve:
    """Solves with |H| of one large structure, without the matrix."""

    def solve(vector: Tensor) -> Tensor:
        return torch.from_numpy(floored_solve(hessian, vector.numpy(), floor, KRYLOV_TOLERANCE))

    return solve
