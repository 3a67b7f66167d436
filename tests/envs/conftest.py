from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.io import atoms_from_graph
from relaxrl.potentials.base import Evaluation, Potential, evaluation_of
from relaxrl.structures import Crystal


class AseEmt(Potential):
    """ASE's EMT; `sabotage(energy, forces, call)` may change the numbers of a structure or raise."""

    def __init__(self, sabotage: Callable[[float, Tensor, int], tuple[float, Tensor]] | None = None) -> None:
        self.sabotage = sabotage
        self.calls = 0
        self.structures = 0

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        assert not stress
        energies, forces, raised = [], [], {}
        for k, atoms in enumerate(atoms_from_graph(graph)):
            atoms.calc = EMT()
            energy, force = atoms.get_potential_energy(), torch.from_numpy(atoms.get_forces())
            if self.sabotage is not None:
                try:
                    energy, force = self.sabotage(energy, force, self.calls)
                except ArithmeticError as error:
                    raised[k] = str(error)
                    energy, force = float("nan"), torch.full_like(force, torch.nan)
            energies.append(energy)
            forces.append(force)
        self.calls += 1
        self.structures += graph.n_graphs
        result = evaluation_of(torch.tensor(energies, dtype=torch.float64), torch.cat(forces), graph)
        result.messages.update(raised)
        return result


def crystal(atoms: Atoms, name: str, kind: str = "minimum") -> Crystal:
    return Crystal(id=f"{name}#0", atoms=atoms, parent=name, kind="minimum" if kind == "minimum" else "start")


def rattled(atoms: Atoms, size: float = 0.1, seed: int = 0) -> Atoms:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0.0, size, moved.positions.shape)
    return moved


def cluster(distance: float = 2.5, n: int = 4) -> Atoms:
    """Copper atoms on a line, without cell."""
    return Atoms("Cu" * n, positions=[(k * distance, 0.0, 0.0) for k in range(n)])


@pytest.fixture
def minima() -> list[Crystal]:
    return [
        crystal(bulk("Cu", cubic=True), "copper"),
        crystal(bulk("Au", cubic=True), "gold"),
        crystal(bulk("Al", cubic=True).repeat((2, 1, 1)), "aluminium"),
    ]


@pytest.fixture
def starts() -> list[Crystal]:
    return [
        crystal(rattled(bulk("Cu", cubic=True)), "copper", "start"),
        crystal(rattled(bulk("Au", cubic=True).repeat((2, 1, 1)), seed=1), "gold", "start"),
        crystal(rattled(molecule("CO"), 0.02, 2), "carbon monoxide", "start"),
        crystal(rattled(cluster(), seed=3), "copper chain", "start"),
    ]
