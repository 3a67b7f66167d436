"""The Morse pair potential, equal to ASE's calculator to round-off."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential


class Morse(TorchPotential):
    """ε (exp(-2 ρ₀ (r/r₀ - 1)) - 2 exp(-ρ₀ (r/r₀ - 1))), the same for all elements, switched to zero at the cutoff.

    Arguments have the names and defaults of `ase.calculators.morse.MorsePotential`.

    Args:
        epsilon: eV; depth of the minimum.
        rho0: Steepness; the force constant at the minimum is 2 ε (ρ₀/r₀)².
        r0: Å; distance of the minimum.
        rcut1: Start of the switching, in units of `r0`.
        rcut2: Its end, in units of `r0`.
        skin: Å; see `TorchPotential`.

    Raises:
        ValueError: `r0` is not positive, or `rcut1` is not below `rcut2`.

    References:
        P. M. Morse, Phys. Rev. 34, 57 (1929), doi:10.1103/PhysRev.34.57.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        rho0: float = 6.0,
        r0: float = 1.0,
        rcut1: float = 1.9,
        rcut2: float = 2.7,
        skin: float = 0.5,
    ) -> None:
        if r0 <= 0.0:
            raise ValueError(f"`r0` must be positive, got {r0}")
        if not 0.0 <= rcut1 < rcut2:
            raise ValueError(f"`rcut1` must lie between 0 and rcut2={rcut2}, got {rcut1}")
        super().__init__("morse", cutoff=rcut2 * r0, skin=skin)
        self.epsilon = epsilon
        self.rho0 = rho0
        self.r0 = r0
        self.onset = rcut1 * r0

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        r = torch.linalg.vector_norm(vectors, dim=1)
        decay = torch.exp(self.rho0 * (1.0 - r / self.r0))
        s = ((self.cutoff - r) / (self.cutoff - self.onset)).clamp(0.0, 1.0)
        switch = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
        return topology.share_pairs(self.epsilon * decay * (decay - 2.0) * switch)
