"""Effective medium theory, equal to ASE's EMT calculator to round-off."""

from __future__ import annotations

import math

import torch
from ase.calculators.emt import beta, parameters
from ase.data import atomic_numbers
from ase.units import Bohr
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import MAX_ATOMIC_NUMBER, TorchPotential

_BETA = float(beta)
_WIDTH_BEYOND_MIDPOINT = 0.5
"""Å from the midpoint of the switching function to the cutoff of the neighbour search."""
_VALUE_AT_FOURTH_SHELL = 1e-4
"""What the switching function falls to at the fourth shell of the largest element's fcc crystal."""
_SHELL_ATOMS = (12.0, 6.0, 24.0)
_SHELL_DISTANCES = (1.0, math.sqrt(2.0), math.sqrt(3.0))


class EMT(TorchPotential):
    """Effective medium theory for Al, Ni, Cu, Pd, Ag, Pt, Au (and, for fun only, H, C, N, O).

    Parameters, switching function and the convention that atoms in their own fcc crystal have energy 0 are those of
    `ase.calculators.emt.EMT`: neighbours count up to 5.9 Å, where they end with a jump of 7e-6 of their weight. First
    derivatives are written out: an evaluation takes 5 ms rather than 7 (64 structures of 32 atoms, one core).

    Args:
        skin: Å; see `TorchPotential`.

    References:
        K. W. Jacobsen, P. Stoltze, J. K. Nørskov, Surf. Sci. 366, 394 (1996), doi:10.1016/0039-6028(96)00816-3.
    """

    def __init__(self, skin: float = 0.5) -> None:
        largest = max(row[1] for row in parameters.values()) * Bohr
        self._midpoint = _BETA * largest * 0.5 * (math.sqrt(3.0) + 2.0)
        self._slope = math.log(1.0 / _VALUE_AT_FOURTH_SHELL - 1.0) / (2.0 * _BETA * largest - self._midpoint)
        super().__init__(
            "emt",
            cutoff=self._midpoint + _WIDTH_BEYOND_MIDPOINT,
            elements=[atomic_numbers[symbol] for symbol in parameters],
            skin=skin,
        )
        self._table = _parameter_table(self._slope, self._midpoint)
        self._pair_table = _pair_table(self._table)

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        r = torch.linalg.vector_norm(vectors, dim=1)
        w = torch.sigmoid(self._slope * (self._midpoint - r)) * (r < self.cutoff)
        eta_j, eta_i, a_j, a_i, kappa_j, kappa_i, b_j, b_i = self._on_edges(topology, vectors)
        at_i, at_j = torch.exp(a_j - eta_j * r) * w, torch.exp(a_i - eta_i * r) * w
        pair = -(torch.exp(b_j - kappa_j * r) + torch.exp(b_i - kappa_i * r)) * w
        sigma = topology.sum_to_atoms(at_i, topology.centre).index_add(0, topology.neighbour, at_j)
        embedding, _ = self._embedding(topology, sigma)
        return embedding + topology.share_pairs(pair)

    def energy_gradients(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each atom and derivative of the total energy by each vector, without autograd."""
        with torch.no_grad():
            r = torch.linalg.vector_norm(vectors, dim=1)
            w = torch.sigmoid(self._slope * (self._midpoint - r))
            log_w_slope = (w - 1.0).mul_(self._slope)
            w.mul_(r < self.cutoff)
            eta_j, eta_i, a_j, a_i, kappa_j, kappa_i, b_j, b_i = self._on_edges(topology, vectors)
            at_i = torch.addcmul(a_j, eta_j, r, value=-1.0).exp_().mul_(w)
            at_j = torch.addcmul(a_i, eta_i, r, value=-1.0).exp_().mul_(w)
            pair_j = torch.addcmul(b_j, kappa_j, r, value=-1.0).exp_().mul_(w)
            pair_i = torch.addcmul(b_i, kappa_i, r, value=-1.0).exp_().mul_(w)
            sigma = topology.sum_to_atoms(at_i, topology.centre).index_add_(0, topology.neighbour, at_j)
            pair = pair_j + pair_i
            pair_energies = topology.share_pairs(pair)
            embedding, slope = self._embedding(topology, sigma)
            # dE/dr of each pair: every term is an exponential times w, whose derivative is (w'/w - rate) times itself.
            slope_at_i = at_i.mul_(slope.index_select(0, topology.centre))
            slope_at_j = at_j.mul_(slope.index_select(0, topology.neighbour))
            rates = pair_j.mul_(kappa_j).addcmul_(pair_i, kappa_i)
            rates.addcmul_(slope_at_i, eta_j, value=-1.0).addcmul_(slope_at_j, eta_i, value=-1.0)
            by_r = slope_at_i.add_(slope_at_j).sub_(pair).mul_(log_w_slope).add_(rates)
            return embedding - pair_energies, vectors * by_r.div_(r)[:, None]

    def _embedding(self, topology: Topology, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each atom in the density of its neighbours, and the derivative by that density `sigma`."""
        table = self._table.to(sigma)[topology.atomic_numbers]
        e0, six_v0, eta, kappa, lam, gamma = table[:, :6].unbind(dim=1)
        alone = sigma == 0.0
        density = torch.where(alone, 1.0, sigma)
        ds = -torch.log(density / (12.0 * gamma)) / (_BETA * eta)
        cohesive, atomic_sphere = e0 * torch.exp(-lam * ds), six_v0 * torch.exp(-kappa * ds)
        energy = cohesive * (1.0 + lam * ds) + atomic_sphere
        slope = (cohesive * lam**2 * ds + kappa * atomic_sphere) / (_BETA * eta * density)
        return torch.where(alone, 0.0, energy) - e0, torch.where(alone, 0.0, slope)

    def _on_edges(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, ...]:
        """Decay rates and logarithmic prefactors of the densities and of the pair energies of each edge.

        Subscript j: what the neighbour brings to the centre; i: what the centre brings to the neighbour.
        """

        def make() -> tuple[Tensor, ...]:
            numbers = topology.atomic_numbers
            pairs = numbers[topology.centre] * (MAX_ATOMIC_NUMBER + 1) + numbers[topology.neighbour]
            return tuple(column.index_select(0, pairs) for column in self._pair_table.to(vectors))

        return topology.once("emt", make)


def _parameter_table(slope: float, midpoint: float) -> Tensor:
    """Per atomic number: E0, 6 V0, eta2, kappa, lambda, gamma1, log n0, log(V0 / (2 gamma2)), s0; eV and Å."""
    table = torch.full((MAX_ATOMIC_NUMBER + 1, 9), torch.nan, dtype=torch.float64)
    for symbol, (e0, s0, v0, eta2, kappa, lam, n0) in parameters.items():
        radius, eta, k = s0 * Bohr, eta2 / Bohr, kappa / Bohr
        gamma1 = gamma2 = 0.0
        for count, distance in zip(_SHELL_ATOMS, _SHELL_DISTANCES, strict=True):
            r = _BETA * radius * distance
            weight = count / 12.0 / (1.0 + math.exp(slope * (r - midpoint)))
            gamma1 += weight * math.exp(-eta * (r - _BETA * radius))
            gamma2 += weight * math.exp(-k / _BETA * (r - _BETA * radius))
        row = (e0, 6.0 * v0, eta, k, lam / Bohr, gamma1, math.log(n0), math.log(0.5 * v0 / gamma2), radius)
        table[atomic_numbers[symbol]] = torch.tensor(row, dtype=torch.float64)
    return table


def _pair_table(table: Tensor) -> Tensor:
    """Decay rates and logarithmic prefactors, (8, pairs of atomic numbers); see `EMT._on_edges`."""
    _, _, eta, kappa, _, _, log_n0, log_half, s0 = table.T
    ones = torch.ones_like(table[:, :1])
    chi = log_n0 - log_n0[:, None]  # log of n0_j / n0_i
    of_j = torch.stack([eta * ones, _BETA * eta * s0 + chi, kappa / _BETA * ones, kappa * s0 + chi + log_half[:, None]])
    rate, prefactor, pair_rate, pair_prefactor = of_j
    columns = (rate, rate.T, prefactor, prefactor.T, pair_rate, pair_rate.T, pair_prefactor, pair_prefactor.T)
    return torch.stack(columns).flatten(1)
