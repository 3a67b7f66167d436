"""The Lennard-Jones pair potential, equal to ASE's calculator to round-off."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import TorchPotential


class LennardJones(TorchPotential):
    """4 epsilon ((sigma/r)¹² - (sigma/r)⁶), the same for all elements, shifted or switched to zero at the cutoff.

    Arguments have the names and defaults of `ase.calculators.lj.LennardJones`.

    Args:
        sigma: Å; where the pair energy crosses zero.
        epsilon: eV; depth of the minimum at 2^(1/6) sigma.
        rc: Å; cutoff, 3 sigma if None.
        ro: Å; where switching starts if `smooth`, 0.66 rc if None.
        smooth: Switch energy and force to zero between `ro` and `rc`, rather than shift the energy by its value at
            `rc`, which leaves a jump in the force.
        skin: Å; see `TorchPotential`.

    Raises:
        ValueError: A length is not positive, or `ro` is not below `rc`.

    References:
        J. E. Lennard-Jones, Proc. R. Soc. Lond. A 106, 463 (1924), doi:10.1098/rspa.1924.0082.
    """

    def __init__(
        self,
        sigma: float = 1.0,
        epsilon: float = 1.0,
        rc: float | None = None,
        ro: float | None = None,
        smooth: bool = False,
        skin: float = 0.5,
    ) -> None:
        rc = 3.0 * sigma if rc is None else rc
        ro = 0.66 * rc if ro is None else ro
        if sigma <= 0.0 or rc <= 0.0:
            raise ValueError(f"`sigma` and `rc` must be positive, got sigma={sigma}, rc={rc}")
        if smooth and not 0.0 <= ro < rc:
            raise ValueError(f"`ro` must lie between 0 and rc={rc}, got {ro}")
        super().__init__("lj", cutoff=rc, skin=skin)
        self.sigma = sigma
        self.epsilon = epsilon
        self.ro = ro
        self.smooth = smooth

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        squared, rc2, ro2 = vectors.square().sum(dim=1), self.cutoff**2, self.ro**2
        sixth = (self.sigma**2 / squared) ** 3
        pair = 4.0 * self.epsilon * (sixth**2 - sixth)
        if self.smooth:
            switched = (rc2 - squared) ** 2 * (rc2 + 2.0 * squared - 3.0 * ro2) / (rc2 - ro2) ** 3
            pair = pair * torch.where(squared < ro2, 1.0, switched)
        else:
            end = (self.sigma / self.cutoff) ** 6
            pair = pair - 4.0 * self.epsilon * (end**2 - end)
        return topology.share_pairs(torch.where(squared <= rc2, pair, 0.0))
