"""The Pedone (PMMCS) potential for oxides: rigid ions with a Morse well towards oxygen."""

from __future__ import annotations

import math

import torch
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential, type_table

_COULOMB = Hartree * Bohr
"""Energy of two unit charges at 1 Å, eV Å."""
_PARAMETERS = {
    #     charge  D0 (eV)   alpha (1/Å) r0 (Å)   C0 (eV Å^12)
    "Li": (0.6, 0.001114, 3.429506, 2.681360, 1.0),
    "Na": (0.6, 0.023363, 1.763867, 3.006315, 5.0),
    "K": (0.6, 0.011612, 2.062605, 3.305308, 5.0),
    "Be": (1.2, 0.239919, 2.527420, 1.815405, 1.0),
    "Mg": (1.2, 0.038908, 2.281000, 2.586153, 5.0),
    "Ca": (1.2, 0.030211, 2.241334, 2.923245, 5.0),
    "Sr": (1.2, 0.019623, 1.886000, 3.328330, 3.0),
    "Ba": (1.2, 0.065011, 1.547596, 3.393410, 5.0),
    "Sc": (1.8, 0.000333, 3.144445, 3.200000, 2.6),
    "Ti": (2.4, 0.024235, 2.254703, 2.708943, 1.0),
    "Zr": (2.4, 0.206237, 2.479675, 2.436997, 1.0),
    "Cr": (1.8, 0.399561, 1.785079, 2.340810, 1.0),
    "Mn": (1.2, 0.029658, 1.997543, 2.852075, 3.0),
    "Fe": (1.2, 0.078171, 1.822638, 2.658163, 2.0),
    "Co": (1.2, 0.012958, 2.361272, 2.756282, 3.0),
    "Ni": (1.2, 0.029356, 2.679137, 2.500754, 3.0),
    "Cu": (0.6, 0.090720, 3.802168, 2.055405, 1.0),
    "Ag": (0.6, 0.088423, 3.439162, 2.265956, 1.0),
    "Zn": (1.2, 0.001221, 3.150679, 2.851850, 1.0),
    "Al": (1.8, 0.361581, 1.900442, 2.164818, 0.9),
    "Si": (2.4, 0.340554, 2.006700, 2.100000, 1.0),
    "Ge": (2.4, 0.158118, 2.294230, 2.261313, 5.0),
    "Sn": (2.4, 0.079400, 2.156770, 2.633076, 3.0),
    "P": (3.0, 0.831326, 2.585833, 1.800790, 1.0),
    "Nd": (1.8, 0.014580, 1.825100, 3.398717, 3.0),
    "Gd": (1.8, 0.000132, 2.013000, 4.351589, 3.0),
    "Er": (1.8, 0.040448, 2.294078, 2.837722, 3.0),
    "O": (-1.2, 0.042395, 1.379316, 3.618701, 22.0),
}
_IRON_3 = (1.8, 0.418981, 1.620376, 2.382183, 2.0)


_UNIT = 0.6
"""Partial charge per unit of formal charge."""


def formal_charges(iron: int = 2) -> dict[str, int]:
    """Oxidation state that the potential gives each element: crystals whose states add up to zero are neutral in it.

    Args:
        iron: That of Fe, 2 or 3; see `PMMCS`.

    Examples:
        >>> formal_charges()["Ti"], formal_charges(iron=3)["Fe"]
        (4, 3)
    """
    rows = _PARAMETERS | ({"Fe": _IRON_3} if iron == 3 else {})
    return {symbol: round(row[0] / _UNIT) for symbol, row in rows.items()}


class PMMCS(TorchPotential):
    """Partial charges on all ions; between oxygen and any ion a Morse well and an r⁻¹² wall.

    The Coulomb sum is the damped, force-shifted one, whose energy and force vanish smoothly at its cutoff, as LAMMPS's
    `coul/dsf` with the settings of the package amorphouspy; the rest is `pair_style pedone`, shifted to zero at its
    cutoff. LAMMPS approximates the complementary error function to 1e-7, so that it agrees to 1e-6 only.

    Args:
        cutoff: Å; of the Morse well and the wall.
        coulomb_cutoff: Å.
        damping: 1/Å; the larger, the faster the Coulomb sum converges and the more it is distorted.
        iron: Oxidation state of Fe, 2 or 3; one for all of its ions.
        skin: Å; see `TorchPotential`.

    Raises:
        ValueError: `iron` is neither 2 nor 3, or a length or the damping is not positive.

    References:
        A. Pedone, G. Malavasi, M. C. Menziani, A. N. Cormack, U. Segre, J. Phys. Chem. B 110, 11780 (2006),
        doi:10.1021/jp0611018.
        C. J. Fennell, J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006), doi:10.1063/1.2206581.
    """

    def __init__(
        self,
        cutoff: float = 5.5,
        coulomb_cutoff: float = 8.0,
        damping: float = 0.25,
        iron: int = 2,
        skin: float = 0.5,
    ) -> None:
        if iron not in (2, 3):
            raise ValueError(f"`iron` must be 2 or 3, got {iron}")
        if min(cutoff, coulomb_cutoff, damping) <= 0.0:
            raise ValueError(
                "`cutoff`, `coulomb_cutoff` and `damping` must be positive, got "
                f"cutoff={cutoff}, coulomb_cutoff={coulomb_cutoff}, damping={damping}"
            )
        rows = _PARAMETERS | ({"Fe": _IRON_3} if iron == 3 else {})
        elements = [atomic_numbers[symbol] for symbol in rows]
        super().__init__("pmmcs", cutoff=max(cutoff, coulomb_cutoff), elements=elements, skin=skin)
        self.short_cutoff = cutoff
        self.coulomb_cutoff = coulomb_cutoff
        self.damping = damping
        self._types = type_table(elements)
        self._parameters = torch.tensor(list(rows.values()), dtype=torch.float64)
        self._oxygen = list(rows).index("O")

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        charge, product, depth, alpha, r0, wall, end = self._on_edges(topology, vectors)
        r = torch.linalg.vector_norm(vectors, dim=1)
        force_shift, energy_shift = self._shifts()
        coulomb = product * ((torch.erfc(self.damping * r) / r - energy_shift) - force_shift * r)
        short = _well_and_wall(r, depth, alpha, r0, wall) - end
        pair = torch.where(r < self.coulomb_cutoff, coulomb, 0.0) + torch.where(r < self.short_cutoff, short, 0.0)
        own: Tensor = -_COULOMB * (0.5 * energy_shift + self.damping / math.sqrt(math.pi)) * charge**2
        return own + topology.share_pairs(pair)

    def _shifts(self) -> tuple[float, float]:
        """Force and energy of the damped Coulomb term at its cutoff, per product of charges, as they are subtracted."""
        rc, a = self.coulomb_cutoff, self.damping
        force = -(math.erfc(a * rc) / rc**2 + 2.0 * a / math.sqrt(math.pi) * math.exp(-((a * rc) ** 2)) / rc)
        return force, math.erfc(a * rc) / rc - force * rc

    def _on_edges(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, ...]:
        """Charge of each atom; product of charges, D0, alpha, r0, C0 and energy at the cutoff of each edge."""

        def make() -> tuple[Tensor, ...]:
            parameters = self._parameters.to(vectors)
            types = self._types.to(vectors.device)[topology.atomic_numbers]
            of_i, of_j = types[topology.centre], types[topology.neighbour]
            charge = parameters[types, 0]
            product = _COULOMB * charge[topology.centre] * charge[topology.neighbour]
            with_oxygen = (of_i == self._oxygen) | (of_j == self._oxygen)
            other = torch.where(of_i == self._oxygen, of_j, of_i)
            _, depth, alpha, r0, wall = parameters[other].unbind(dim=1)
            depth, wall = depth * with_oxygen, wall * with_oxygen
            end = _well_and_wall(torch.full_like(r0, self.short_cutoff), depth, alpha, r0, wall)
            return charge, product, depth, alpha.contiguous(), r0.contiguous(), wall, end

        return topology.once("pmmcs", make)


def _well_and_wall(r: Tensor, depth: Tensor, alpha: Tensor, r0: Tensor, wall: Tensor) -> Tensor:
    decay = torch.exp(-alpha * (r - r0))
    return depth * decay * (decay - 2.0) + wall / r**12
