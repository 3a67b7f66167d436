"""The Tersoff bond-order potential for covalent crystals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential, type_table
from relaxrl.potentials.triplet_file import TripletParameters, read_triplets, require
from relaxrl.potentials.triplets import Bonds

NAMES = ("m", "gamma", "lambda3", "c", "d", "h", "n", "beta", "lambda2", "B", "R", "D", "lambda1", "A")
"""Parameters of a triplet, in the order of LAMMPS's files."""

_LARGEST_EXPONENT = 69.0776
"""ln(1e30): LAMMPS and ASE cap the distance term there."""


class TersoffForm(TorchPotential):
    """Pair energies whose attraction weakens with the number and the angles of competing bonds.

    Formula and parameters are those of LAMMPS's `pair_style tersoff` and `ase.calculators.tersoff.Tersoff`; a pair
    (i, j) takes the parameters of the entry i j j, and a third atom's cutoff those of i j k. The first derivative of
    the energy is continuous, its second is not where a bond enters or leaves the range R ± D of the cutoff function.

    Args:
        name: What messages call it.
        parameters: Of all triplets of some elements; columns are `NAMES`.
        skin: Å; see `TorchPotential`.

    References:
        J. Tersoff, Phys. Rev. B 37, 6991 (1988), doi:10.1103/PhysRevB.37.6991; Phys. Rev. B 39, 5566 (1989),
        doi:10.1103/PhysRevB.39.5566.
    """

    def __init__(self, name: str, parameters: TripletParameters, skin: float = 0.5) -> None:
        n = len(parameters.elements)
        reach = (parameters.column("R") + parameters.column("D")).reshape(n, n, n).amax(dim=1).flatten()
        super().__init__(name, cutoff=float(reach.max()), elements=parameters.elements, undirected=False, skin=skin)
        self.parameters = parameters
        self._types = type_table(parameters.elements)
        self._triplets = parameters.values
        self._pairs = parameters.values[parameters.pairs()]
        self._reach = reach

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        bonds = Bonds.within(topology, vectors, self._types, self._reach)
        n_elements = round(len(self._pairs) ** 0.5)
        of_pair = dict(
            zip(
                NAMES,
                self._pairs.to(vectors)[bonds.centre_type * n_elements + bonds.neighbour_type].unbind(dim=1),
                strict=True,
            )
        )
        fade = _cutoff(bonds.lengths, of_pair["R"], of_pair["D"])
        repulsion = of_pair["A"] * torch.exp(-of_pair["lambda1"] * bonds.lengths)
        attraction = of_pair["B"] * torch.exp(-of_pair["lambda2"] * bonds.lengths)
        order = _bond_order(self._competition(bonds, n_elements), of_pair["beta"], of_pair["n"])
        return 0.5 * topology.sum_to_atoms(fade * (repulsion - order * attraction), bonds.centre)

    def _competition(self, bonds: Bonds, n_elements: int) -> Tensor:
        """For each bond zeta: how much the other bonds of its centre weaken it, (n_bonds,)."""
        one, other = bonds.angles()
        bond, third = torch.cat([one, other]), torch.cat([other, one])
        cosine = bonds.cosines(one, other)
        cosine = torch.cat([cosine, cosine])
        row = bonds.centre_type[bond] * n_elements + bonds.neighbour_type[bond]
        row = row * n_elements + bonds.neighbour_type[third]
        m, gamma, lambda3, c, d, h, _, _, _, _, r, width, _, _ = self._triplets.to(cosine)[row].unbind(dim=1)
        angular = gamma * (1.0 + c**2 / d**2 - c**2 / (d**2 + (h - cosine) ** 2))
        stretch = lambda3 * (bonds.lengths[bond] - bonds.lengths[third])
        exponent = torch.where(m > 2.0, stretch**3, stretch).clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        terms = _cutoff(bonds.lengths[third], r, width) * angular * torch.exp(exponent)
        return terms.new_zeros(len(bonds.lengths)).index_add(0, bond, terms)


class Tersoff(TersoffForm):
    """The Tersoff potential of a file, in LAMMPS's format.

    Args:
        path: The file.
        elements: Symbols to read entries of; all elements in the file if None.
        skin: Å; see `TorchPotential`.

    Raises:
        CalculatorError: The file is missing or malformed, or lacks an entry.
    """

    def __init__(self, path: str | Path, elements: Sequence[str] | None = None, skin: float = 0.5) -> None:
        parameters = read_triplets(path, NAMES, elements)
        for name in ("c", "R", "D", "n", "beta", "A", "B", "lambda1", "lambda2"):
            require(path, parameters, name, least=0.0)
        super().__init__(f"tersoff:{path}", parameters, skin)
        self.path = Path(path)


def _cutoff(r: Tensor, middle: Tensor, width: Tensor) -> Tensor:
    """1 below R - D, 0 above R + D, and half a sine between."""
    phase = ((r - middle) / width).clamp(-1.0, 1.0)
    return 0.5 * (1.0 - torch.sin(0.5 * math.pi * phase))


def _bond_order(zeta: Tensor, beta: Tensor, n: Tensor) -> Tensor:
    """(1 + (beta zeta)^n)^(-1/2n); 1 where no bond competes, or none is let to by beta = 0."""
    product = beta * zeta
    weakened = product > 0.0
    safe = torch.where(weakened, product, 1.0)  # powers below 1 have no derivative at 0
    exponent = torch.where(weakened, n, 1.0)
    return torch.where(weakened, (1.0 + safe**exponent) ** (-0.5 / exponent), 1.0)
