"""The Stillinger-Weber potential for covalent crystals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential, type_table
from relaxrl.potentials.triplet_file import TripletParameters, read_triplets, require
from relaxrl.potentials.triplets import Bonds

NAMES = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")
"""Parameters of a triplet, in the order of LAMMPS's files."""


class StillingerWeberForm(TorchPotential):
    """Pair energies, and a penalty on each angle that differs from the tetrahedral one.

    Formula and parameters are those of LAMMPS's `pair_style sw`; a pair (i, j) takes the parameters of the entry i j j,
    an angle the mean of i j k and i k j, which agree in sound parameters. `tol`, by which LAMMPS cuts off tails of
    that relative size, is not applied: the energy stays smooth.

    Args:
        name: What messages call it.
        parameters: Of all triplets of some elements; columns are `NAMES`.
        skin: Å; see `TorchPotential`.

    References:
        F. H. Stillinger, T. A. Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262.
    """

    def __init__(self, name: str, parameters: TripletParameters, skin: float = 0.5) -> None:
        pairs = parameters.values[parameters.pairs()]
        reach = pairs[:, NAMES.index("a")] * pairs[:, NAMES.index("sigma")]
        super().__init__(name, cutoff=float(reach.max()), elements=parameters.elements, undirected=False, skin=skin)
        self.parameters = parameters
        self._types = type_table(parameters.elements)
        self._pairs = pairs
        n = len(parameters.elements)
        strength = parameters.column("lambda") * parameters.column("epsilon")
        angles = torch.stack([strength, parameters.column("costheta0")], dim=1).reshape(n, n, n, 2)
        self._angles = 0.5 * (angles + angles.transpose(1, 2)).reshape(-1, 2)
        self._reach = reach

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        bonds = Bonds.within(topology, vectors, self._types, self._reach)
        n = round(len(self._pairs) ** 0.5)
        of_pair = self._pairs.to(vectors)[bonds.centre_type * n + bonds.neighbour_type]
        epsilon, sigma, a, _, gamma, _, big_a, big_b, p, q, _ = of_pair.unbind(dim=1)
        scaled, beyond = sigma / bonds.lengths, bonds.lengths - a * sigma
        pair = big_a * epsilon * (big_b * scaled**p - scaled**q) * torch.exp(sigma / beyond)
        damping = torch.exp(gamma * sigma / beyond)

        first, second = bonds.angles()
        row = (bonds.centre_type[first] * n + bonds.neighbour_type[first]) * n + bonds.neighbour_type[second]
        strength, cosine = self._angles.to(vectors)[row].unbind(dim=1)
        deviation = bonds.cosines(first, second) - cosine
        angle = strength * deviation**2 * damping[first] * damping[second]
        pair_energies = 0.5 * topology.sum_to_atoms(pair, bonds.centre)
        return pair_energies + topology.sum_to_atoms(angle, bonds.centre[first])


class StillingerWeber(StillingerWeberForm):
    """The Stillinger-Weber potential of a file, in LAMMPS's format.

    Args:
        path: The file.
        elements: Symbols to read entries of; all elements in the file if None.
        skin: Å; see `TorchPotential`.

    Raises:
        CalculatorError: The file is missing or malformed, or lacks an entry.
    """

    def __init__(self, path: str | Path, elements: Sequence[str] | None = None, skin: float = 0.5) -> None:
        parameters = read_triplets(path, NAMES, elements)
        for name, least in (("epsilon", 0.0), ("sigma", 0.0), ("a", 0.0)):
            require(path, parameters, name, least)
        super().__init__(f"sw:{path}", parameters, skin)
        self.path = Path(path)
