"""A small learned potential: cheap enough to be relaxed in between two evaluations of the real one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relaxrl.graph import AtomGraph
from relaxrl.nn.assembly import Padding
from relaxrl.nn.elements import ElementEmbedding, covalent_radii
from relaxrl.nn.embedding import polynomial_envelope
from relaxrl.nn.energy_curvature import EnergyCurvature
from relaxrl.nn.planning_config import EnergyModelConfig
from relaxrl.potentials import TorchPotential
from relaxrl.potentials.topology import Topology

RATES = (2.0, 12.0)
"""Decay of the slowest and the fastest exponential before training, per sum of covalent radii. Those of EMT are 5-8."""
MAX_LOG = 6.0
"""|log| of strengths and rates over their values before training, approached smoothly."""
VACUUM = 1e-3
"""Density added before the logarithm, so that an isolated atom has an energy. A neighbour brings about 1."""
INITIAL = 0.3
"""Factor on the last weights of the pair network: exponentials start close to one another's neighbours."""


@dataclass(frozen=True)
class _Radial:
    """Radial functions of pairs (i, j) and as many derivatives by the distance as were asked for, first index.

    Attributes:
        at_i: (order + 1, n_pairs, densities); what j adds to the densities of i.
        at_j: (order + 1, n_pairs, densities); what i adds to those of j.
        pair: (order + 1, n_pairs); pair energy, eV.
    """

    at_i: Tensor
    at_j: Tensor
    pair: Tensor


class EnergyModel(nn.Module, TorchPotential):
    r"""Energy of pairs plus an energy of each atom in the densities that its neighbours make.

    $$ E = \sum_{i<j} p(r_{ij}) + \sum_i U_{Z_i}(\rho_{i1}, ..., \rho_{iC}), \qquad
       \rho_{ic} = \sum_j e^{a_c - k_c (r_{ij} / R_{ij} - 1)} w(r_{ij}) $$

    where $p$ is a sum of such exponentials with signs, $R_{ij}$ the sum of the covalent radii, $w$ a smooth cutoff.
    Strengths $a_c$ and rates $k_c$ come from a network of the two elements' tabulated properties, so that elements
    never trained on have some too; $U$ is a network of the logarithms of the densities, and of the element. That is
    the embedded-atom method with several densities. There are no angles in it: metals it is made for.

    It is a `TorchPotential`: forces, stress, Hessian, and an ASE calculator (`TorchCalculator`) come with it. On pairs
    there is nothing but exponentials, and derivatives by positions are written out to second order, so that forces cost
    little more than energies, and gradients of forces by parameters little more than those of energies.

    What follows from parameters and elements alone is remembered with the edges: in `eval` mode parameters must not
    change.

    Args:
        config: Sizes.
        skin: Å; see `TorchPotential`.

    References:
        Daw and Baskes, Phys. Rev. B 29, 6443 (1984), doi:10.1103/PhysRevB.29.6443.
    """

    def __init__(self, config: EnergyModelConfig, skin: float = 0.5) -> None:
        nn.Module.__init__(self)
        TorchPotential.__init__(self, "the energy model", config.cutoff, skin=skin)
        self.config = config
        channels, hidden = config.element_channels, config.hidden
        self.embedding = ElementEmbedding(channels)
        self.of_centre = nn.Linear(channels, hidden)
        self.of_neighbour = nn.Linear(channels, hidden, bias=False)
        self.mixed = nn.Linear(hidden, hidden)
        self.to_density = nn.Linear(hidden, 2 * config.densities)
        self.to_pair = nn.Linear(hidden, 3 * config.pairs)
        self.site_densities = nn.Linear(config.densities, hidden)
        self.site_element = nn.Linear(channels, hidden, bias=False)
        self.site_hidden = nn.Linear(hidden, hidden)
        self.site_gate = nn.Linear(channels, hidden, bias=False)
        self.site_last = nn.Linear(hidden, 1)
        with torch.no_grad():
            self.to_density.weight.mul_(INITIAL)
            self.to_pair.weight.mul_(INITIAL)
        low, high = (math.log10(rate) for rate in RATES)
        radii = torch.tensor(covalent_radii(), dtype=torch.get_default_dtype())
        self.register_buffer("density_rates", torch.logspace(low, high, config.densities), persistent=False)
        self.register_buffer("pair_rates", torch.logspace(low, high, config.pairs), persistent=False)
        self.register_buffer("radii", radii, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and results. Relaxations want float64: float32 is rounded at 1e-5 eV/Å."""
        return self.site_last.weight.dtype

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        lengths = torch.linalg.vector_norm(vectors.to(self.dtype), dim=1)
        radial = self._radial(topology, lengths, order=0)
        return self._site_energies(topology, _densities(topology, radial)) + topology.share_pairs(radial.pair[0])

    def energy_gradients(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each atom, (n_atoms,), and derivative of the total energy by each vector, (n_edges, 3), eV/Å.

        Gradients flow from both to the parameters, not to the vectors, unless torch's gradients are off.
        """
        vectors = vectors.to(self.dtype)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        radial = self._radial(topology, lengths, order=1)
        energies, slopes = self._site_slopes(topology, _densities(topology, radial))
        by_length = _along_pairs(topology, radial, slopes, order=1)
        return energies + topology.share_pairs(radial.pair[0]), vectors * (by_length / lengths)[:, None]

    def forces(self, graph: AtomGraph) -> Tensor:
        """Forces (n_atoms, 3), eV/Å, through which gradients flow to the parameters, for training.

        Args:
            graph: The structures; edges that it has are not used.
        """
        topology, vectors = self._edges_of(graph)
        _, gradients = self.energy_gradients(topology, vectors)
        pulled = topology.sum_to_atoms(gradients, topology.centre)
        return pulled - topology.sum_to_atoms(gradients, topology.neighbour)

    def hessian(self, graph: AtomGraph) -> list[Tensor]:
        """Second derivatives of each structure's energy, (3 n, 3 n) each, eV/Å²; see `TorchPotential.hessian`."""
        dense = self.curvature(graph).dense(Padding(graph.graph_index, graph.n_graphs))
        sizes = (3 * graph.atoms_per_graph).tolist()
        return [dense[k, :size, :size] for k, size in enumerate(sizes)]

    @torch.no_grad()
    def curvature(self, graph: AtomGraph) -> EnergyCurvature:
        """Second derivatives as parts that cost no more than the edges.

        Args:
            graph: The structures; edges that it has are not used.
        """
        topology, vectors = self._edges_of(graph)
        vectors = vectors.to(self.dtype)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        unit = vectors / lengths[:, None]
        radial = self._radial(topology, lengths, order=2)
        with torch.enable_grad():
            densities = _densities(topology, radial).requires_grad_()
            energies = self._site_energies(topology, densities)
            (slopes,) = torch.autograd.grad(energies.sum(), densities, create_graph=True)
            columns = [torch.autograd.grad(column.sum(), densities, retain_graph=True)[0] for column in slopes.T]
        slopes = slopes.detach()
        along = _along_pairs(topology, radial, slopes, order=2)
        across = _along_pairs(topology, radial, slopes, order=1) / lengths
        outer = unit.unsqueeze(2) * unit.unsqueeze(1)
        blocks = (along - across)[:, None, None] * outer + across[:, None, None] * torch.eye(3).to(outer)
        rows = torch.stack([radial.at_i[1], -radial.at_j[1]]).unsqueeze(3) * unit.unsqueeze(1)
        return EnergyCurvature(
            torch.stack([topology.centre, topology.neighbour]), blocks, rows, torch.stack(columns, 1)
        )

    def _edges_of(self, graph: AtomGraph) -> tuple[Topology, Tensor]:
        """Edges remembered from other calls, and their vectors without gradients."""
        positions = graph.positions.detach()
        parts = self._edges(graph)
        vectors = [part.edges.vectors(positions[part.atoms]) for part in parts]
        if len(parts) == 1:
            return parts[0].edges.topology, vectors[0]
        centre = torch.cat([part.edges.topology.centre + part.atoms.start for part in parts])
        neighbour = torch.cat([part.edges.topology.neighbour + part.atoms.start for part in parts])
        return Topology(centre, neighbour, graph.atomic_numbers), torch.cat(vectors)

    def _radial(self, topology: Topology, lengths: Tensor, order: int) -> _Radial:
        log_i, rate_i, log_j, rate_j, weight, log_pair, rate_pair = self._of_pairs(topology)
        r = lengths.unsqueeze(1)
        window = _window(r, self.cutoff, order)
        pair = (_exponentials(log_pair, rate_pair, r, window) * weight).sum(-1)
        return _Radial(_exponentials(log_i, rate_i, r, window), _exponentials(log_j, rate_j, r, window), pair)

    def _site_energies(self, topology: Topology, densities: Tensor) -> Tensor:
        """Energies (n_atoms,) of atoms in their densities (n_atoms, C)."""
        shift, gate = self._of_sites(topology)
        hidden = nn.functional.silu(self.site_densities(torch.log(densities + VACUUM)) + shift)
        energies: Tensor = self.site_last(nn.functional.silu(self.site_hidden(hidden)) * gate).squeeze(1)
        return energies

    def _site_slopes(self, topology: Topology, densities: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,) of sites and their derivatives by the densities, (n_atoms, C)."""
        traced = torch.is_grad_enabled() and densities.requires_grad
        with torch.enable_grad():
            given = densities if traced else densities.detach().requires_grad_()
            energies = self._site_energies(topology, given)
            (slopes,) = torch.autograd.grad(energies.sum(), given, create_graph=traced)
        return energies if traced else energies.detach(), slopes

    def _of_sites(self, topology: Topology) -> tuple[Tensor, ...]:
        """What an atom's element does to the network of its densities: shift and factor, (n_atoms, hidden) each."""

        def make() -> tuple[Tensor, ...]:
            features = self.embedding(topology.atomic_numbers)
            return self.site_element(features), 1.0 + self.site_gate(features)

        return make() if self.training else topology.once("sites", make)

    def _of_pairs(self, topology: Topology) -> tuple[Tensor, ...]:
        """Logarithms of the strengths at r = 0, and rates (1/Å), of all exponentials of each pair, (n_pairs, ...)."""

        def make() -> tuple[Tensor, ...]:
            numbers, species = torch.unique(topology.atomic_numbers, return_inverse=True)
            features = self.embedding(numbers)
            both = self.of_centre(features).unsqueeze(1) + self.of_neighbour(features).unsqueeze(0)
            hidden = nn.functional.silu(self.mixed(nn.functional.silu(both)))
            radii = self.get_buffer("radii")[numbers]
            sums = (radii.unsqueeze(1) + radii.unsqueeze(0)).unsqueeze(2)
            log, rate = self.to_density(hidden).chunk(2, dim=2)
            rate = self.get_buffer("density_rates") * torch.exp(_bounded(rate))
            weight, log_pair, rate_pair = self.to_pair(hidden + hidden.transpose(0, 1)).chunk(3, dim=2)
            rate_pair = self.get_buffer("pair_rates") * torch.exp(_bounded(rate_pair))
            log, log_pair = _bounded(log) + rate, _bounded(log_pair) + rate_pair
            table = [v.flatten(0, 1) for v in (log, rate / sums, weight, log_pair, rate_pair / sums)]
            i, j = species[topology.centre], species[topology.neighbour]
            here, back = i * len(numbers) + j, j * len(numbers) + i
            log_ij, rate_ij, *pair = (values.index_select(0, here) for values in table)
            return log_ij, rate_ij, table[0].index_select(0, back), table[1].index_select(0, back), *pair

        return make() if self.training else topology.once("pairs", make)


def _densities(topology: Topology, radial: _Radial) -> Tensor:
    """Densities of all atoms, (n_atoms, C)."""
    return topology.sum_to_atoms(radial.at_i[0], topology.centre).index_add(0, topology.neighbour, radial.at_j[0])


def _along_pairs(topology: Topology, radial: _Radial, slopes: Tensor, order: int) -> Tensor:
    """Derivative of the total energy by each pair's distance, (n_pairs,), where the sites' `slopes` are held fixed."""
    at_i = (slopes.index_select(0, topology.centre) * radial.at_i[order]).sum(1)
    at_j = (slopes.index_select(0, topology.neighbour) * radial.at_j[order]).sum(1)
    return radial.pair[order] + at_i + at_j


def _bounded(x: Tensor) -> Tensor:
    return MAX_LOG * torch.tanh(x / MAX_LOG)


def _window(r: Tensor, cutoff: float, order: int) -> list[Tensor]:
    """`polynomial_envelope` of distances (n, 1), and its derivatives up to the second."""
    x = (r / cutoff).clamp(max=1.0)
    derivatives = [polynomial_envelope(r, cutoff)]
    if order >= 1:
        derivatives.append(-168.0 / cutoff * x.pow(5) * (1.0 - x).square())
    if order >= 2:
        derivatives.append(-168.0 / cutoff**2 * x.pow(4) * (1.0 - x) * (5.0 - 7.0 * x))
    return derivatives


def _exponentials(log: Tensor, rate: Tensor, r: Tensor, window: list[Tensor]) -> Tensor:
    """e^(log - rate r) w(r) and as many derivatives as the window comes with, (order + 1, n, m)."""
    bare = torch.exp(log - rate * r)
    values = [bare * window[0]]
    if len(window) > 1:
        values.append(bare * (window[1] - rate * window[0]))
    if len(window) > 2:
        values.append(bare * (window[2] - 2.0 * rate * window[1] + rate.square() * window[0]))
    return torch.stack(values)
