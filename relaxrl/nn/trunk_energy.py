"""The trunk as a potential: an invariant read-out gives each atom an energy, forces are its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from relaxrl.config import configclass, with_defaults
from relaxrl.nn.config import TrunkConfig
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.trunk import Trunk
from relaxrl.potentials.topology import Topology
from relaxrl.potentials.torch_potential import MAX_ATOMIC_NUMBER, TorchPotential
from relaxrl.typing import FloatArray, IntArray

_TRUNK: dict[str, Any] = {"layers": 2, "forces": False, "history": False}


@configclass
class TrunkEnergyConfig:
    """Size of a potential made of a trunk.

    Attributes:
        kind: Tells energy models apart in files.
        trunk: The geometric trunk, by default that of the learned-Hessian actor, which can go on from its parameters.
        head_channels: Width of the read-out.
    """

    kind: Literal["trunk"] = "trunk"
    trunk: Annotated[TrunkConfig, with_defaults(**_TRUNK)] = field(default_factory=lambda: TrunkConfig(**_TRUNK))
    head_channels: int = 32

    def __post_init__(self) -> None:
        if self.trunk.forces or self.trunk.history:
            raise ValueError("`trunk.forces` and `trunk.history` must be false: an energy depends on positions alone")
        if self.trunk.max_neighbors is not None:
            raise ValueError("`trunk.max_neighbors` must be null: an energy jumps where an atom passes another")
        if self.head_channels < 1:
            raise ValueError(f"`head_channels` must be at least 1, got {self.head_channels}")


class TrunkEnergyModel(nn.Module, TorchPotential):
    r"""Energy of each atom from the invariants of the last layer.

    $$ E = \sum_i \big( e_{Z_i} + s \, \epsilon_\theta(h_i) \big) $$

    with a reference energy $e_Z$ of each element and a scale $s$ that `calibrate` takes from data, so that the network
    has to give numbers of order 1. The derivatives up to the second vanish at the cutoff.

    Args:
        config: Sizes.
        skin: Å; see `TorchPotential`.
    """

    def __init__(self, config: TrunkEnergyConfig, skin: float = 0.5) -> None:
        nn.Module.__init__(self)
        TorchPotential.__init__(self, "the pretrained potential", config.trunk.cutoff, undirected=False, skin=skin)
        self.config = config
        self.trunk = Trunk(config.trunk)
        n_scalars, width = self.trunk.n_scalars, config.head_channels
        self.readout = nn.Sequential(
            nn.LayerNorm(n_scalars) if config.trunk.layer_norm else nn.Identity(),
            nn.Linear(n_scalars, width),
            nn.SiLU(),
            last := nn.Linear(width, 1),
        )
        with torch.no_grad():
            # Near the reference energies at first: forces, which weigh most, would be slow to correct an offset.
            last.weight.mul_(0.1)
            last.bias.zero_()
        # In double precision: total energies are large numbers whose differences matter.
        self.register_buffer("reference", torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def atom_energies(self, topology: Topology, vectors: Tensor) -> Tensor:
        """Energy of each atom, (n_atoms,), eV; see `TorchPotential.atom_energies`."""
        parameter = next(self.parameters())
        centre, neighbour = topology.centre, topology.neighbour
        if bool((centre[1:] < centre[:-1]).any()):
            order = torch.argsort(centre, stable=True)
            centre, neighbour, vectors = centre[order], neighbour[order], vectors[order]
        n_atoms = len(topology.atomic_numbers)
        nothing = vectors.new_zeros((n_atoms, 3), dtype=parameter.dtype)
        inputs = NetworkInputs(
            atomic_numbers=topology.atomic_numbers,
            graph_index=torch.zeros_like(topology.atomic_numbers),  # energies are of atoms
            n_graphs=1,
            edge_index=torch.stack([centre, neighbour]),
            edge_vectors=vectors.to(parameter.dtype),
            forces=nothing,
            previous_displacement=nothing,
            force_change=nothing,
            features=None,
        )
        features = self.trunk(inputs).node_features
        energies: Tensor = self.readout(features[:, : self.trunk.n_scalars]).squeeze(1)
        reference = self.get_buffer("reference")[topology.atomic_numbers]
        return reference + self.get_buffer("scale") * energies.to(reference.dtype)

    @torch.no_grad()
    def calibrate(self, numbers: Sequence[IntArray], energies: FloatArray, forces: Sequence[FloatArray]) -> None:
        """Take reference energies and scale from labels.

        Reference energies are the least-squares fit of the energies by composition; elements that do not occur get
        the mean of those that do. The scale is the root mean square of the force components times 1 Å.

        Args:
            numbers: Atomic numbers of each structure.
            energies: (n_structures,), eV.
            forces: (n_atoms, 3) of each structure, eV/Å.
        """
        squares = torch.cat([torch.as_tensor(f).double().flatten() for f in forces]).square().mean()
        self.get_buffer("scale").copy_(squares.sqrt().clamp(min=1e-3))
        self.fit_reference(numbers, energies)

    @torch.no_grad()
    def fit_reference(self, numbers: Sequence[IntArray], energies: FloatArray) -> None:
        """Take reference energies from energies (n_structures,), eV, that the network does not account for."""
        total = torch.tensor(energies, dtype=torch.float64)
        rows = [torch.bincount(torch.as_tensor(z), minlength=MAX_ATOMIC_NUMBER + 1) for z in numbers]
        counts = torch.stack(rows).double()
        present = counts.sum(0) > 0
        # Least-norm, so that elements which always occur together share what they have; gelsd copes with that.
        fitted = torch.linalg.lstsq(counts[:, present], total.unsqueeze(1), driver="gelsd").solution.squeeze(1)
        reference = self.get_buffer("reference")
        reference.fill_(float(fitted.mean()))
        reference[present] = fitted.to(reference)
