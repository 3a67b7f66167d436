"""Batches in which each structure has a calculator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase import Atoms

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.potentials.specs import CalculatorSpec, parse_calculator
from relaxrl.potentials.torch_potential import TorchPotential

_IN_TORCH = {
    ".sw": "sw:{}",
    ".tersoff": "tersoff:{}",
    ".eam.alloy": "eam:{},interpolation=lammps",
    ".eam.fs": "eam:{},interpolation=lammps",
}
"""The same potentials in torch, by the ending of a file that `lammps:` reads; they agree to rounding."""

_LAMMPS = "lammps:"


class PotentialSource:
    """The potentials that structures ask for; each is made once and used again.

    Args:
        calculator: One for all structures, or `stored`: each names its own.
    """

    def __init__(self, calculator: str | CalculatorSpec) -> None:
        self.spec = parse_calculator(calculator)
        self._single: dict[str, Potential] = {}
        self._batched: dict[str, Potential] = {}
        self._one: Potential | None = None

    @property
    def one(self) -> Potential:
        """The potential of all structures.

        Raises:
            CalculatorError: The calculator is `stored`: there are several.
        """
        if self._one is None:
            self._one = self.spec.potential()
        return self._one

    def of(self, structures: Sequence[Atoms]) -> Potential:
        """The potential of batches of these structures, in this order.

        Raises:
            CalculatorError: A structure names no calculator, or one that can't be made.
        """
        if not self.spec.is_stored:
            return self.one
        return MixedPotential([self.spec.of(atoms).text for atoms in structures], self)

    def together(self, structures: Sequence[Atoms]) -> Potential:
        """As `of`, in torch where one calculator for all has an equal there."""
        return (torch_equal(self.spec) or self.one) if not self.spec.is_stored else self.of(structures)

    def single(self, name: str) -> Potential:
        """The potential of this name for one structure at a time."""
        if name not in self._single:
            self._single[name] = parse_calculator(name).potential()
        return self._single[name]

    def batched(self, name: str) -> Potential:
        """The potential of this name for several structures at a time: in torch, where one agrees with it."""
        if name not in self._batched:
            self._batched[name] = torch_equal(name) or self.single(name)
        return self._batched[name]


class MixedPotential(Potential):
    """Evaluates structure k of a batch under calculator k; those of equal names together.

    Args:
        names: Of each structure's calculator, as `parse_calculator` reads them.
        source: Keeps the potentials; a new one if None. Potentials of one source share what they have made.

    Raises:
        CalculatorError: A name is unknown or its calculator can't be made.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.io import graph_from_atoms
        >>> potential = MixedPotential(["emt", "lj,sigma=2.2,epsilon=0.3"])
        >>> energies = potential.evaluate(graph_from_atoms([bulk("Cu"), bulk("Cu")])).energy
        >>> [round(float(energy), 2) for energy in energies]
        [-0.01, -2.16]
    """

    name = "stored"

    def __init__(self, names: Sequence[str], source: PotentialSource | None = None) -> None:
        self.names = list(names)
        self.source = source or PotentialSource("stored")
        for name in dict.fromkeys(self.names):
            self.source.single(name)

    def select(self, places: Sequence[int]) -> MixedPotential:
        """The potential of a batch of some of the structures."""
        return MixedPotential([self.names[place] for place in places], self.source)

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate each structure once.

        Raises:
            ValueError: The batch has another number of structures than there are names.
        """
        if graph.n_graphs != len(self.names):
            raise ValueError(f"expected {len(self.names)} structures, one for each calculator, got {graph.n_graphs}")
        positions = graph.positions
        energy = positions.new_full((graph.n_graphs,), torch.nan, dtype=torch.float64)
        forces = torch.full_like(positions, torch.nan, dtype=torch.float64)
        failed = torch.ones(graph.n_graphs, dtype=torch.bool, device=positions.device)
        tensor = graph.cell.new_full((graph.n_graphs, 3, 3), torch.nan, dtype=torch.float64) if stress else None
        messages: dict[int, str] = {}
        for name, places in self._groups().items():
            part = self._evaluate(name, graph.select(places).without_edges(), stress)
            where = torch.tensor(places, device=positions.device)
            energy[where], failed[where] = part.energy, part.failed
            forces[torch.isin(graph.graph_index, where)] = part.forces
            messages |= {places[k]: message for k, message in part.messages.items()}
            if tensor is not None and part.stress is not None:
                tensor[where] = part.stress
        return Evaluation(energy, forces, failed, messages, tensor)

    def _evaluate(self, name: str, graph: AtomGraph, stress: bool) -> Evaluation:
        """Structures of one calculator; those that fail in torch alone get a second chance outside of it."""
        single, batched = self.source.single(name), self.source.batched(name)
        if graph.n_graphs == 1 or single is batched:
            return single.evaluate(graph, stress)
        first = batched.evaluate(graph, stress)
        if not bool(first.failed.any()):
            return first
        return single.evaluate(graph, stress)

    def _groups(self) -> dict[str, list[int]]:
        """Places of each name's structures."""
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            groups.setdefault(name, []).append(place)
        return groups


def torch_equal(calculator: str | CalculatorSpec) -> TorchPotential | None:
    """The potential in torch that agrees with a calculator; None where there is none.

    Args:
        calculator: As `parse_calculator` reads it; `lammps:FILE` of some kinds counts as well, without arguments.

    Examples:
        >>> torch_equal("emt").elements == parse_calculator("emt").elements
        True
    """
    spec = parse_calculator(calculator)
    if spec.name.startswith(_LAMMPS):
        if spec.arguments:
            return None
        file = spec.name.removeprefix(_LAMMPS)
        endings = [ending for ending in _IN_TORCH if file.endswith(ending)]
        if not endings:
            return None
        try:
            found = parse_calculator(_IN_TORCH[endings[0]].format(file)).potential()
        except CalculatorError:  # entries that only LAMMPS does without
            return None
        known = spec.elements
        complete = isinstance(found, TorchPotential) and known is not None and known <= (found.elements or known)
        return found if complete and isinstance(found, TorchPotential) else None
    potential = spec.potential()
    return potential if isinstance(potential, TorchPotential) else None
