"""Potentials written in torch: batched over structures, differentiable twice, on a CPU or a GPU."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.neighbors import with_edges
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.potentials.parallel import on_all_cores
from relaxrl.potentials.topology import EdgeCache, Part, Topology, one_of_each_pair

MAX_ATOMIC_NUMBER = len(chemical_symbols) - 1
_COLUMNS_AT_ONCE = 16
"""Columns of a Hessian: enough to spread the cost of many small operations, and few enough for a processor's cache."""

_LEAST_SQUARED_VOLUME = 1e-12
"""Square of the length, area or volume of a cell (Å, Å², Å³), below which its vectors count as zero or parallel."""


class TorchPotential(Potential):
    """A short-ranged potential, as a formula for the energy of each atom from the vectors to its neighbours.

    A subclass gives `atom_energies`; forces, stress and second derivatives follow from it. Where it pays, it also gives
    the first derivatives by hand in `energy_gradients`.

    Args:
        name: What error messages call it.
        cutoff: Å; the energy depends on no pair of atoms farther apart.
        elements: Atomic numbers with parameters; None where all elements are alike.
        undirected: Whether the formula wants each pair of atoms once, as (i, j), rather than also as (j, i).
        skin: Å; edges are reused by `evaluate` until an atom has moved by half of it.
    """

    def __init__(
        self,
        name: str,
        cutoff: float,
        elements: Iterable[int] | None = None,
        undirected: bool = True,
        skin: float = 0.5,
    ) -> None:
        self.name = name
        self.cutoff = cutoff
        self.elements = None if elements is None else frozenset(elements)
        self.undirected = undirected
        self._edges = EdgeCache(cutoff, skin, undirected)
        self._usable: AtomGraph | None = None  # the last batch without faults, so that its cells are checked once

    @abstractmethod
    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV, as a twice differentiable function of the edge vectors.

        Args:
            topology: The edges, each pair once if `undirected`; they may be longer than the cutoff.
            vectors: (n_edges, 3), Å, from centre to neighbour.
        """

    def energy_gradients(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each atom, (n_atoms,), and derivative of the total energy by each vector, (n_edges, 3), eV/Å."""
        leaf = vectors.detach().requires_grad_()
        with torch.enable_grad():
            energies = self.atom_energies(topology, leaf)
            (gradients,) = torch.autograd.grad(energies.sum(), leaf, materialize_grads=True)
        return energies.detach(), gradients

    def explain(self, topology: Topology, vectors: Tensor, atoms: Tensor) -> str:
        """Why a structure's energy or forces are not finite, for its failure message.

        Args:
            topology: The edges of the batch.
            vectors: (n_edges, 3), Å.
            atoms: (n_atoms,), bool; the structure's atoms.
        """
        del topology, vectors, atoms
        return "energy or forces are not finite"

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate all structures of the batch once, in float64; the stress is NaN where the cell has no volume."""
        graph = _plain(graph)
        unusable = self._unusable(graph)
        if not unusable:
            return self._evaluate_all(graph, stress)
        usable = [k for k in range(graph.n_graphs) if k not in unusable]
        part = self._evaluate_all(graph.select(usable), stress) if usable else None
        return _spread(part, usable, unusable, graph, stress)

    def pairs(self, graph: AtomGraph, radius: float) -> list[Part] | None:
        """See `Potential.pairs`; where the cutoff is as large as `radius`."""
        return self._edges.within(_plain(graph), radius) if radius <= self.cutoff else None

    def energies(self, graph: AtomGraph) -> Tensor:
        """Energy of each structure, (n_graphs,), eV, differentiable twice by positions and cell.

        Args:
            graph: With edges of at least the cutoff; they are made where it has none.

        Raises:
            CalculatorError: An element has no parameters.
        """
        self.check_elements(graph)
        graph = graph if graph.edge_index is not None else with_edges(graph, self.cutoff)
        topology, kept = self._topology(graph)
        energies = self.atom_energies(topology, graph.edge_vectors()[kept])
        return scatter_sum(energies, graph.graph_index, graph.n_graphs)

    def energies_and_forces(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        """Energies (n_graphs,) and forces (n_atoms, 3) through which gradients flow back to `graph.positions`.

        Args:
            graph: As for `energies`.
        """
        with torch.enable_grad():
            if not graph.positions.requires_grad:
                graph = graph.replace(positions=graph.positions.detach().requires_grad_())
            energies = self.energies(graph)
            (gradients,) = torch.autograd.grad(
                energies.sum(), graph.positions, create_graph=True, materialize_grads=True
            )
        return energies, -gradients

    def hessian_vector_product(self, graph: AtomGraph, vector: Tensor) -> Tensor:
        """Second derivatives of the energy times a vector, (n_atoms, 3), eV/Å².

        Args:
            graph: As for `energies`.
            vector: (n_atoms, 3).
        """
        positions = graph.positions.detach().requires_grad_()
        _, forces = self.energies_and_forces(graph.replace(positions=positions))
        return _hessian_times(forces, positions, vector)

    def hessian(self, graph: AtomGraph) -> list[Tensor]:
        """Second derivatives of each structure's energy, (3 n, 3 n) each, eV/Å².

        Rows and columns run over atoms, then x, y, z. Columns are computed some at a time, the same ones of all
        structures together, so that the cost is that of the largest structure.

        Args:
            graph: As for `energies`.
        """
        positions = graph.positions.detach().requires_grad_()
        _, forces = self.energies_and_forces(graph.replace(positions=positions))
        widths = 3 * graph.atoms_per_graph
        sizes: list[int] = widths.tolist()
        entry = torch.arange(3 * graph.n_atoms, device=positions.device)
        units = positions.new_zeros(max(sizes), 3 * graph.n_atoms)
        units[entry - torch.repeat_interleave(3 * graph.ptr[:-1], widths), entry] = -1.0
        columns = [
            torch.autograd.grad(
                forces, positions, some, retain_graph=True, materialize_grads=True, is_grads_batched=True
            )[0]
            for some in torch.split(units.reshape(max(sizes), -1, 3), _COLUMNS_AT_ONCE)
        ]
        blocks = torch.split(torch.cat(columns).flatten(1), sizes, dim=1)
        return [0.5 * (block[:size] + block[:size].T) for block, size in zip(blocks, sizes, strict=True)]

    def check_elements(self, graph: AtomGraph) -> None:
        """Raise where an element has no parameters.

        Raises:
            CalculatorError: Names the element, the potential and the structure's index in the batch.
        """
        for index, message in self._unknown_elements(graph).items():
            raise CalculatorError(f"{message} (structure {index} of the batch)")

    def _unusable(self, graph: AtomGraph) -> dict[int, str]:
        """Reasons why structures can't be evaluated, by their index in the batch."""
        known = self._usable
        if known is not None and _same_crystals(known, graph) and bool(torch.isfinite(graph.positions).all()):
            return {}
        reasons = self._unknown_elements(graph)
        bad = ~torch.isfinite(graph.cell).flatten(1).all(dim=1)
        bad[graph.graph_index[~torch.isfinite(graph.positions).all(dim=1)]] = True
        for index in torch.nonzero(bad).flatten().tolist():
            reasons.setdefault(index, "positions or cell are not finite")
        for index in torch.nonzero(~bad & _degenerate(graph)).flatten().tolist():
            reasons.setdefault(index, "the cell vectors of the periodic directions are zero or parallel")
        self._usable = graph if not reasons else None
        return reasons

    def _unknown_elements(self, graph: AtomGraph) -> dict[int, str]:
        if self.elements is None:
            return {}
        known = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
        known[sorted(self.elements)] = True
        unknown = ~known.to(graph.atomic_numbers.device)[graph.atomic_numbers]
        if not bool(unknown.any()):
            return {}
        missing: dict[int, set[int]] = {}
        found = zip(graph.graph_index[unknown].tolist(), graph.atomic_numbers[unknown].tolist(), strict=True)
        for index, number in found:
            missing.setdefault(index, set()).add(number)
        return {index: missing_elements(self.name, numbers, self.elements) for index, numbers in missing.items()}

    def _evaluate_all(self, graph: AtomGraph, stress: bool) -> Evaluation:
        parts = self._edges(graph)
        results = on_all_cores(lambda part: self._evaluate_part(graph, part, stress), parts)
        energy, forces = (torch.cat([result[k] for result in results]) for k in (0, 1))
        tensor = None
        if stress:
            virial = torch.cat([result[2] for result in results])
            volume = torch.linalg.det(graph.cell).abs()[:, None, None]
            tensor = torch.where(volume > 0.0, 0.5 * (virial + virial.mT) / volume, torch.nan)
        bad = ~torch.isfinite(energy)
        bad[graph.graph_index[~torch.isfinite(forces).all(dim=1)]] = True
        messages = {}
        if bool(bad.any()):
            for k in torch.nonzero(bad).flatten().tolist():
                messages[k] = self._explanation(graph, parts, k)
            energy = energy.masked_fill(bad, torch.nan)
            forces = forces.masked_fill(bad[graph.graph_index][:, None], torch.nan)
            tensor = None if tensor is None else tensor.masked_fill(bad[:, None, None], torch.nan)
        return Evaluation(energy, forces, bad, messages, tensor)

    def _evaluate_part(self, graph: AtomGraph, part: Part, stress: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, forces and, if asked for, virials of some structures of the batch."""
        topology, n_graphs = part.edges.topology, part.graphs.stop - part.graphs.start
        vectors = part.edges.vectors(graph.positions[part.atoms])
        atom_energies, gradients = self.energy_gradients(topology, vectors)
        by_axis = gradients.T.contiguous()  # sums over rows of three take three times as long
        sums = by_axis.new_zeros(3, len(topology.atomic_numbers)).index_add_(1, topology.centre, by_axis)
        forces = sums.index_add_(1, topology.neighbour, by_axis, alpha=-1).T.contiguous()
        energy = scatter_sum(atom_energies, graph.graph_index[part.atoms] - part.graphs.start, n_graphs)
        virial = energy.new_empty(0)
        if stress:
            virial = scatter_sum(vectors[:, :, None] * gradients[:, None, :], part.edges.graph_index, n_graphs)
        return energy, forces, virial

    def _explanation(self, graph: AtomGraph, parts: Sequence[Part], k: int) -> str:
        """What is wrong with a structure."""
        part = next(part for part in parts if part.graphs.start <= k < part.graphs.stop)
        vectors = part.edges.vectors(graph.positions[part.atoms])
        return self.explain(part.edges.topology, vectors, graph.graph_index[part.atoms] == k)

    def _topology(self, graph: AtomGraph) -> tuple[Topology, Tensor]:
        """The edges that the formula wants, and their places among the graph's."""
        if graph.edge_index is None or graph.edge_shift is None:
            raise ValueError("the graph has no edges; make them with relaxrl.neighbors.with_edges(graph, cutoff)")
        centre, neighbour = graph.edge_index
        if self.undirected:
            kept = one_of_each_pair(centre, neighbour, graph.edge_shift)
        else:
            kept = torch.arange(len(centre), device=centre.device)
        return Topology(centre[kept], neighbour[kept], graph.atomic_numbers), kept


def type_table(elements: Sequence[int]) -> Tensor:
    """Place of each atomic number in `elements`, (n,), int64; 0 for those that are not there."""
    table = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.int64)
    table[list(elements)] = torch.arange(len(elements))
    return table


def missing_elements(name: str, numbers: Iterable[int], known: Iterable[int]) -> str:
    """The message for elements without parameters."""
    missing = ", ".join(chemical_symbols[number] for number in sorted(numbers))
    have = ", ".join(chemical_symbols[number] for number in sorted(known))
    return f"{name} has no parameters for {missing}; it knows {have}"


def _degenerate(graph: AtomGraph) -> Tensor:
    """Whether the cell vectors of the periodic directions span less than as many dimensions, (n_graphs,), bool."""
    rows = graph.cell * graph.pbc[:, :, None]
    gram = rows @ rows.mT + torch.diag_embed((~graph.pbc).to(rows.dtype))
    degenerate: Tensor = torch.linalg.det(gram) < _LEAST_SQUARED_VOLUME
    return degenerate


def _same_crystals(a: AtomGraph, b: AtomGraph) -> bool:
    """Whether two batches differ in nothing but their positions."""
    if a.positions.device != b.positions.device:
        return False
    pairs = ((a.atomic_numbers, b.atomic_numbers), (a.cell, b.cell), (a.pbc, b.pbc), (a.graph_index, b.graph_index))
    return all(torch.equal(one, other) for one, other in pairs)


def _plain(graph: AtomGraph) -> AtomGraph:
    """Only what a potential reads, in float64 and cut off from any gradient."""
    positions, cell = graph.positions.detach().to(torch.float64), graph.cell.detach().to(torch.float64)
    return AtomGraph(positions, cell, graph.pbc, graph.atomic_numbers, graph.graph_index)


def _hessian_times(forces: Tensor, positions: Tensor, vector: Tensor) -> Tensor:
    (product,) = torch.autograd.grad(forces, positions, -vector, retain_graph=True, materialize_grads=True)
    return product


def _spread(
    part: Evaluation | None, usable: list[int], unusable: dict[int, str], graph: AtomGraph, stress: bool
) -> Evaluation:
    """The evaluation of some of a batch's structures as one of the whole batch."""
    energy = graph.positions.new_full((graph.n_graphs,), torch.nan)
    forces = torch.full_like(graph.positions, torch.nan)
    tensor = graph.cell.new_full((graph.n_graphs, 3, 3), torch.nan) if stress else None
    failed = torch.ones(graph.n_graphs, dtype=torch.bool, device=energy.device)
    messages = dict(unusable)
    if part is not None:
        places = torch.tensor(usable, device=energy.device)
        energy[places], failed[places] = part.energy, part.failed
        forces[torch.isin(graph.graph_index, places)] = part.forces
        messages |= {usable[k]: message for k, message in part.messages.items()}
        if tensor is not None and part.stress is not None:
            tensor[places] = part.stress
    return Evaluation(energy, forces, failed, messages, tensor)
