"""An energy over actions: low where an action fits what an actor's trunk knows of the structure, high elsewhere."""

from __future__ import annotations

import dataclasses

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxrl.graph import scatter_mean
from relaxrl.nn.action_energy_config import ActionEnergyConfig
from relaxrl.nn.actor import limited
from relaxrl.nn.config import TrunkConfig
from relaxrl.nn.convolution import natural_irreps
from relaxrl.nn.edges import Edges
from relaxrl.nn.embedding import VectorEmbedding, unit_vectors
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.trunk import Layer, TrunkOutput

QUIET = 1e-4
"""eV/Å; root mean square forces well below it count as this large when actions are compared with them."""
FARTHEST = 10.0
"""Actions and forces are shortened smoothly to this many times the ordinary length."""


class ActionEnergy(nn.Module):
    r"""E(h, a) of each structure, invariant when crystal and action are rotated together.

    $$ E = s \, \sigma(\tfrac12 r) + e_0, \qquad r = \frac1n \sum_i r_i(h, a, F) $$

    with scale $s$ = 2 and offset $e_0$ = 0.1, so that 0.1 < E < 2.1; or E = r where it is unbounded. Each $r_i$ is read
    from invariants of the atom's context $h_i$, its action and its force, after a few rounds of messages about those
    of its neighbours, along the edges and with the radial functions of the trunk that $h$ comes from. Actions and
    forces are seen on the scale of the structure's forces, so that the first step of a relaxation and the last one
    look alike.

    `forward` takes ragged batches as actors' trunks give them, `padded` the tensors of the literature.

    Args:
        config: Sizes and range.
        context: The trunk that the context comes from.
    """

    def __init__(self, config: ActionEnergyConfig, context: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.context = context
        n_scalars = 2 * config.channels
        tensors = natural_irreps(config.channels, context.lmax, lmin=1)
        self.irreps = o3.Irreps([(n_scalars, (0, 1)), *tensors])
        known = o3.Irreps([(2 * context.channels, (0, 1)), *natural_irreps(context.channels, context.lmax, lmin=1)])
        self.n_scalars = n_scalars
        self.context_dim: int = known.dim
        self.of_context = o3.Linear(known, self.irreps)
        self.vectors = VectorEmbedding(2)
        self.scalars = nn.Sequential(
            nn.Linear(self.vectors.dim + 3, n_scalars), nn.SiLU(), nn.Linear(n_scalars, n_scalars + config.channels)
        )
        self.directions = o3.Linear(o3.Irreps([(2, (1, -1))]), o3.Irreps([(config.channels, (1, -1))]))
        # Half as many channels travel along edges: there are many, and as many copies of them as actions.
        sizes = dataclasses.replace(context, channels=config.channels, message_channels=max(1, config.channels // 2))
        self.layers = nn.ModuleList(Layer(sizes, self.irreps) for _ in range(config.layers))
        self.read = nn.Sequential(
            nn.LayerNorm(n_scalars) if context.layer_norm else nn.Identity(),
            nn.Linear(n_scalars, config.head_channels),
            nn.SiLU(),
            nn.Linear(config.head_channels, 1),
        )

    def forward(self, inputs: NetworkInputs, output: TrunkOutput, actions: Tensor) -> Tensor:
        """Energies (n_actions, n_graphs) of several actions for each structure.

        Args:
            inputs: The structures.
            output: What the actor's trunk makes of them.
            actions: (n_actions, n_atoms, 3), Å; gradients flow back into them.

        Raises:
            ValueError: A shape is not as above.
        """
        return self.energy(self.raw(inputs, output, actions))

    def raw(self, inputs: NetworkInputs, output: TrunkOutput, actions: Tensor) -> Tensor:
        """What `forward` maps to energies, (n_actions, n_graphs)."""
        return self._raw(
            output.node_features, output.edges, inputs.forces, actions, inputs.graph_index, inputs.n_graphs
        )

    def energy(self, raw: Tensor) -> Tensor:
        """Energies of raw outputs (...): within the range where bounded, the same otherwise."""
        if not self.config.bounded:
            return raw
        return torch.sigmoid(0.5 * raw) * self.config.energy_scale + self.config.energy_offset

    def padded(
        self,
        context: Tensor,
        action: Tensor,
        pad_mask: Tensor,
        forces: Tensor | None = None,
        edges: Edges | None = None,
    ) -> Tensor:
        """Energies (B,) of one action each, or (B, M) of several.

        Args:
            context: (B, S, D); features of a trunk's atoms, padded to S atoms.
            action: (B, H, Da) or (B, M, H, Da), Å, with H = S atoms and Da = 3.
            pad_mask: (B, S), bool; True where there is an atom. What stands elsewhere is never read.
            forces: (B, S, 3), eV/Å; None for no forces.
            edges: Of the real atoms, counted in the order of `pad_mask`, as in the ragged batch. None lets no atom know
                of its neighbours' actions.

        Raises:
            ValueError: A shape is not as above, or a structure has no atoms.
        """
        shape = (*pad_mask.shape, self.context_dim)
        if pad_mask.dim() != 2 or pad_mask.dtype != torch.bool:
            raise ValueError(
                f"`pad_mask` must be bool of shape (B, S), got {pad_mask.dtype} of shape {tuple(pad_mask.shape)}"
            )
        if context.shape != shape:
            raise ValueError(f"`context` must have shape (B, S, D) = {shape}, got {tuple(context.shape)}")
        batch, length = pad_mask.shape
        stacked = action.unsqueeze(1) if action.dim() == 3 else action
        if stacked.dim() != 4 or stacked.shape != (batch, stacked.shape[1], length, 3):
            raise ValueError(
                f"`action` must have shape (B={batch}, H={length}, 3) or (B={batch}, M, H={length}, 3), "
                f"got {tuple(action.shape)}"
            )
        if forces is not None and forces.shape != (batch, length, 3):
            raise ValueError(f"`forces` must have shape (B={batch}, S={length}, 3), got {tuple(forces.shape)}")
        if not bool(pad_mask.any(dim=1).all()):
            raise ValueError("`pad_mask` must be True for at least one atom of each structure")
        features = context[pad_mask]
        index = torch.arange(batch, device=pad_mask.device).unsqueeze(1).expand(batch, length)[pad_mask]
        pulls = features.new_zeros(len(features), 3) if forces is None else forces[pad_mask]
        actions = stacked.transpose(0, 1)[:, pad_mask]
        energies = self.energy(
            self._raw(features, self._no_edges(features) if edges is None else edges, pulls, actions, index, batch)
        ).transpose(0, 1)
        return energies.squeeze(1) if action.dim() == 3 else energies

    def swapped(
        self,
        context: Tensor,
        action: Tensor,
        pad_mask: Tensor,
        forces: Tensor | None = None,
        edges: Edges | None = None,
    ) -> Tensor:
        """E_ij = E(h_i, a_j), (B, B), of structures with equally many atoms; see `padded` for the arguments.

        Raises:
            ValueError: A shape is wrong, or numbers of atoms differ: actions of other shapes can't be swapped.
        """
        if bool((pad_mask != pad_mask[:1]).any()):
            raise ValueError(
                "actions can be swapped between structures of equally many atoms only, got "
                f"{pad_mask.sum(dim=1).tolist()} (`pad_mask` must be the same in each row); see "
                "`relaxrl.losses.swap_partners` for batches of several sizes"
            )
        return self.padded(context, action.unsqueeze(0).expand(len(action), *action.shape), pad_mask, forces, edges)

    def _raw(
        self, features: Tensor, edges: Edges, forces: Tensor, actions: Tensor, graph_index: Tensor, n_graphs: int
    ) -> Tensor:
        n_atoms = len(features)
        if actions.dim() != 3 or actions.shape[1:] != (n_atoms, 3):
            raise ValueError(f"`actions` must have shape (n_actions, n_atoms={n_atoms}, 3), got {tuple(actions.shape)}")
        if features.shape[1] != self.context_dim:
            raise ValueError(
                f"the context must have {self.context_dim} features per atom, got {features.shape[1]}: it comes from "
                "another trunk than this energy was made for"
            )
        n = len(actions)
        actions, forces = actions.to(features), forces.to(features)
        known = self.of_context(features).repeat(n, 1)
        size = (scatter_mean(forces.square().sum(-1), graph_index, n_graphs) + QUIET**2).sqrt()
        scale = size[graph_index].unsqueeze(-1)
        repeated = forces.expand(n, n_atoms, 3)
        vectors = torch.stack([actions, repeated], dim=2).flatten(0, 1)
        ordinary = torch.stack([actions * (self.config.stiffness / scale), repeated / scale], dim=2).flatten(0, 1)
        ordinary = limited(ordinary, FARTHEST)
        action, force = ordinary.unbind(1)
        products = torch.stack([(action * action).sum(-1), (action * force).sum(-1), (force * force).sum(-1)], dim=1)
        invariants = torch.cat([self.vectors(vectors, unit_vectors(vectors)), torch.asinh(products)], dim=1)
        scalars, gates = self.scalars(invariants).split([self.n_scalars, self.config.channels], dim=1)
        directions = self.directions(ordinary.flatten(1)).view(n * n_atoms, -1, 3) * gates.unsqueeze(-1)
        higher = scalars.new_zeros(n * n_atoms, self.irreps.dim - self.n_scalars - 3 * self.config.channels)
        nodes = known + torch.cat([scalars, directions.flatten(1), higher], dim=1)
        copies = _copies(edges, n, n_atoms)
        for layer in self.layers:
            nodes = layer(nodes, copies)
        each = self.read(nodes[:, : self.n_scalars]).view(n, n_atoms)
        return scatter_mean(each.transpose(0, 1), graph_index, n_graphs).transpose(0, 1)

    def _no_edges(self, features: Tensor) -> Edges:
        """Those of atoms that are alone."""
        n, rows = len(features), (self.context.lmax + 1) ** 2
        none = features.new_zeros(0)
        index = torch.zeros(2, 0, dtype=torch.int64, device=features.device)
        return Edges(
            index=index,
            vectors=none.view(0, 3),
            lengths=none,
            envelope=none,
            scalars=none.view(0, 1),
            radial=none.view(0, self.context.radial_functions),
            harmonics=none.view(0, rows),
            neighbours=index.new_zeros(n, 0),
            basis=features.new_zeros(n, rows * self.context.radial_functions, 0),
        )


def _copies(edges: Edges, n: int, n_atoms: int) -> Edges:
    """Edges of n copies of the batch, as far as convolutions read them: rows of neighbours and their basis."""
    if n == 1:
        return edges
    offsets = torch.arange(n, device=edges.neighbours.device).view(n, 1, 1) * n_atoms
    neighbours = (edges.neighbours + offsets).flatten(0, 1)
    return dataclasses.replace(edges, neighbours=neighbours, basis=edges.basis.repeat(n, 1, 1))
