"""Newton's method with the exact Hessian: what the forces of one geometry and perfect curvature would give."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.optimize import SafeguardConfig
from relaxrl.potentials import CalculatorSpec, TorchPotential

FLOOR = 0.05
"""eV/Å²; eigenvalues closer to zero count as this large, as in learned Hessians."""
PATIENT = SafeguardConfig(contraction=1.0, window=8, max_rejections=8)
"""Steps are capped, rejected and shrunk as those of agents are. But far from a minimum, Newton's method lowers the
energy before the forces; relieved as soon as an agent would be, it takes a quarter more evaluations on `metals:dev`."""


class NewtonOracle:
    """A policy that steps to |H|⁻¹ F, with the exact Hessian H of the potential at each geometry.

    |H| has the eigenvectors of H and the larger of |λ| and the floor for each eigenvalue λ, so that steps lead downhill
    on saddles too. No competitor: its Hessians cost as much as 3 n_atoms force evaluations each, and none is counted.
    It shows how far knowing the curvature goes. Far from a minimum, where the surface is no parabola, a policy may do
    better.

    Args:
        potential: Gives the Hessian.
        floor: eV/Å².

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.io import graph_from_atoms
        >>> from relaxrl.potentials import EMT
        >>> graph = graph_from_atoms(bulk("Cu", cubic=True))
        >>> start = graph.replace(positions=graph.positions + 1e-3 * torch.eye(4, 3))
        >>> start = start.replace(forces=EMT().evaluate(start).forces)
        >>> moved = start.positions + NewtonOracle(EMT()).act(start)
        >>> bool(((moved - graph.positions).std(dim=0) < 1e-5).all())  # equilibrium, up to a translation
        True
    """

    def __init__(self, potential: TorchPotential, floor: float = FLOOR) -> None:
        self.potential = potential
        self.floor = floor

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å, of any length, for structures with forces; the optimizer caps them."""
        from relaxrl.nn.newton import newton_step  # networks load for seconds: only where the oracle is asked for

        if graph.forces is None:
            raise ValueError("the oracle needs a graph with forces")
        bare = AtomGraph(graph.positions, graph.cell, graph.pbc, graph.atomic_numbers, graph.graph_index)
        forces = torch.split(graph.forces.to(torch.float64), graph.atoms_per_graph.tolist())
        steps = []
        for hessian, force in zip(self.potential.hessian(bare), forces, strict=True):
            present = torch.ones(1, len(force), dtype=torch.bool, device=force.device)
            steps.append(newton_step(hessian.detach()[None], force.reshape(1, -1), present, self.floor).reshape(-1, 3))
        return torch.cat(steps)


def newton_oracle(calculator: CalculatorSpec) -> NewtonOracle:
    """The oracle of a calculator's surface.

    Raises:
        ConfigError: The calculator has no potential written in torch, and so no exact Hessian.
    """
    potential = calculator.potential()
    if not isinstance(potential, TorchPotential):
        raise ConfigError(
            "method newton-oracle needs exact Hessians, which only potentials written in torch give (emt, lj, morse, "
            f"eam:FILE, sw:FILE, tersoff:FILE, pmmcs), got calculator {calculator.name}; leave the method out"
        )
    return NewtonOracle(potential)
