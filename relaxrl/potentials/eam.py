"""The embedded-atom method from tabulated functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from relaxrl.potentials.eam_file import read_eam
from relaxrl.potentials.spline import CubicTable
from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential, type_table

INTERPOLATIONS = ("ase", "lammps")


class EAM(TorchPotential):
    """Sum over atoms of an embedding energy F(density of the neighbours), and of pair energies, from a file's tables.

    Files hold values, not functions, so that results depend on the interpolation: between `ase` and `lammps` energies
    differ by up to 1e-3 eV an atom where tables are coarse. The first is the default because its second derivatives are
    continuous.

    A structure that leaves the tables (a density above the largest, a distance below the smallest) fails with a message
    that names file, element and value; its differentiable energy is NaN.

    Args:
        path: The file.
        form: `alloy`, `fs` or `eam`; by the file's last suffix if None.
        interpolation: `ase` for smooth splines of the pair energy, as `ase.calculators.eam.EAM` has them; `lammps` for
            local cubics of r times the pair energy, as LAMMPS has them.
        skin: Å; see `TorchPotential`.

    Raises:
        CalculatorError: The file is missing or malformed.
        ValueError: The interpolation is unknown.

    References:
        M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984), doi:10.1103/PhysRevB.29.6443.
        M. W. Finnis, J. E. Sinclair, Phil. Mag. A 50, 45 (1984), doi:10.1080/01418618408244210.
    """

    def __init__(
        self, path: str | Path, form: str | None = None, interpolation: str = "ase", skin: float = 0.5
    ) -> None:
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}, got {interpolation!r}")
        tables = read_eam(path, form)
        super().__init__(f"eam:{path}", cutoff=tables.cutoff, elements=tables.elements, skin=skin)
        self.path = Path(path)
        self.interpolation = interpolation
        self._n_elements = len(tables.elements)
        self._types = type_table(tables.elements)
        flat_density = tables.density.reshape(-1, tables.density.shape[-1])
        flat_pair = tables.r_times_pair.reshape(flat_density.shape)
        if interpolation == "ase":
            r = tables.r_spacing * np.arange(flat_pair.shape[-1])
            pair = np.divide(flat_pair, r, out=np.zeros_like(flat_pair), where=r > 0.0)
            self._embedding = CubicTable.smooth(tables.embedding, tables.rho_spacing)
            self._density = CubicTable.smooth(flat_density, tables.r_spacing)
            self._pair = CubicTable.smooth(pair, tables.r_spacing, first=1)
        else:
            self._embedding = CubicTable.local(tables.embedding, tables.rho_spacing)
            self._density = CubicTable.local(flat_density, tables.r_spacing)
            self._pair = CubicTable.local(flat_pair, tables.r_spacing)

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        types, _, _ = self._on_edges(topology)
        r, near, pair, density = self._functions(topology, vectors)
        if self.interpolation == "lammps":
            pair = pair / r
        pair = torch.where(near, torch.where(r < self._pair.spacing, torch.nan, pair), 0.0)
        inside = density <= self._embedding.end
        embedding = self._embedding(types, torch.where(inside, density, 0.0))
        return torch.where(inside, embedding, torch.nan) + topology.share_pairs(pair)

    def explain(self, topology: Topology, vectors: Tensor, atoms: Tensor) -> str:
        """Which table was left, by which element and value; see `TorchPotential.explain`."""
        of_structure = atoms[topology.centre]
        r, near, _, density = self._functions(topology, vectors)
        if bool((near & of_structure & (r < self._pair.spacing)).any()):
            nearest = int(torch.where(of_structure, r, torch.inf).argmin())
            ends = (topology.centre[nearest], topology.neighbour[nearest])
            names = "-".join(chemical_symbols[int(topology.atomic_numbers[end])] for end in ends)
            return (
                f"{self.path}: a pair {names} at {float(r[nearest]):.3g} Å is below the table's first distance, "
                f"{self._pair.spacing:.3g} Å"
            )
        density = torch.where(atoms, density, -torch.inf)
        if bool((density > self._embedding.end).any()):
            worst = int(density.argmax())
            symbol = chemical_symbols[int(topology.atomic_numbers[worst])]
            return (
                f"{self.path}: the density {float(density[worst]):.4g} at an atom of {symbol} is beyond the table's "
                f"last, {self._embedding.end:.4g}"
            )
        return super().explain(topology, vectors, atoms)

    def _functions(self, topology: Topology, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distance of each pair, whether it is within the cutoff, its pair function, and the density at each atom."""
        _, i_at_j, j_at_i = self._on_edges(topology)
        r = torch.linalg.vector_norm(vectors, dim=1)
        near = r < self.cutoff
        at_i = torch.where(near, self._density(j_at_i, r), 0.0)
        at_j = torch.where(near, self._density(i_at_j, r), 0.0)
        density = topology.sum_to_atoms(at_i, topology.centre).index_add(0, topology.neighbour, at_j)
        return r, near, self._pair(i_at_j, r), density

    def _on_edges(self, topology: Topology) -> tuple[Tensor, ...]:
        """Element of each atom, and the functions of each edge: what i brings to j, and j to i."""

        def make() -> tuple[Tensor, ...]:
            types = self._types.to(topology.centre.device)[topology.atomic_numbers]
            of_i, of_j = types[topology.centre], types[topology.neighbour]
            return types, of_i * self._n_elements + of_j, of_j * self._n_elements + of_i

        return topology.once("eam", make)
