"""TD3 on graphs (Fujimoto, van Hoof, Meger, arXiv:1802.09477), to be read beside its Algorithm 1.

Where it deviates from the paper:

1. A state is a batch of structures, an action one displacement per atom; the critic's value is one per structure.
2. Target policy smoothing is relative and equivariant: each atom's displacement gets an isotropic random vector in
   units of its own length, clipped by length instead of by component, and the sum is limited to `max_step` by length.
3. Truncated episodes bootstrap; only success terminates.
4. The actor's loss has two more terms: `L_pi = q_weight * (-Q) + deviation_weight * |A_pred - A_actual|²
   + bc_weight(t) * |π(s) - a_expert|²`, the last one on expert samples only.
5. Q in the actor's loss is divided by the batch's mean |Q| (TD3+BC, arXiv:2106.06860), optional.
6. The critic's loss is Huber's by default, with importance weights from a prioritised replay (the actor's loss has
   none).
7. Gradients are clipped by norm; targets optionally to a range.
8. Batches join the agent's and the expert's transitions.
9. Returns over several steps (`Transition.steps`) discount the bootstrap value accordingly.
10. Optionally the critic values atoms one by one, each with its own reward and target.

As in the paper, the actor and all targets are updated once every `policy_delay` *updates*, whatever the episodes.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from relaxrl.agents.exploration import add_relative, limit_radially
from relaxrl.agents.replay import Sample
from relaxrl.agents.schedules import Schedule
from relaxrl.agents.transition import Transition
from relaxrl.config import configclass
from relaxrl.errors import RelaxRLError
from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.losses import (
    CloningLoss,
    CriticLoss,
    cloning_loss,
    critic_loss,
    deviation_penalty,
    q_objective,
    td3_target,
)
from relaxrl.neighbors import with_edges
from relaxrl.typing import FloatArray, StateDict


@configclass
class TD3Config:
    """Settings of TD3; the paper's where a field doesn't say otherwise."""

    gamma: float = 0.99
    """Discount per step."""
    tau: float = 0.005
    """Share of the new parameters in the targets at each of their updates."""
    policy_delay: int = 2
    """Critic updates per update of actor and targets."""
    actor_lr: float = 3e-4
    """Learning rate of Adam; below the paper's 1e-3 because equivariant networks are deeper."""
    critic_lr: float = 3e-4
    """Learning rate of Adam."""
    target_noise: float = 0.2
    """Root-mean-square length of the target policy's noise in units of each atom's displacement."""
    target_noise_clip: float = 0.5
    """The longest noise vector in the same units."""
    max_step: float = 0.5
    """Å, the longest displacement of an atom. 0.3 costs a few per cent of evaluations, 1.0 gains nothing."""
    critic_loss: CriticLoss = "huber"
    """`huber` (rewards far from the minimum are large), `mse` (the paper's), or `lap` with the LAP replay."""
    huber_delta: float = 1.0
    """Kink of `huber` and `lap`, units of the reward; with LAP the replay's `min_priority`."""
    target_clip: tuple[float, float] | None = None
    """Range that targets are clipped to, units of the reward; null leaves them."""
    max_grad_norm: float | None = 10.0
    """Largest norm of either network's gradient; null leaves it."""
    normalize_q: bool = True
    """Divide Q by mean |Q| in the actor's loss, so that the weights below hold for any scale of rewards."""
    q_weight: Schedule = Schedule(start=1.0)
    """Weight of -Q against environment steps. 0 is the control: cloning only, the critic being trained all the same. A
    rise from 0 lets the critic learn first."""
    deviation_weight: float = 1.0
    """1/Å²; weight of the action deviation penalty. Where few moves are taken back, as in metals, 1 and 0 do not differ
    (docs/ablations.md)."""
    deviation_on: Literal["all", "corrected"] = "all"
    """States that the penalty counts for. `all` also holds the policy near the actions in the buffer, noise included;
    `corrected` only acts where the environment took a move (partly) back."""
    bc_weight: Schedule = Schedule(kind="exponential", start=100.0, end=1.0, steps=10_000)
    """Weight of behaviour cloning against environment steps: imitate first, then search for something better. In 1/Å²
    for `mse` (a typical squared error is 1e-3 Å² to 1e-2 Å²); `relative` has no unit and wants about 1."""
    bc_loss: CloningLoss = "mse"
    """`mse`, or `relative`, which weighs the small steps near convergence as much as the large ones."""
    critic_action: Literal["proposed", "applied"] = "proposed"
    """Which action the critic values. The penalty of a correction depends on the proposal, so that is the default."""
    per_atom: bool = False
    """Value atoms one by one, with per-atom rewards: against the credit assignment problem of large structures."""
    atom_reduction: Literal["mean", "sum"] = "mean"
    """How per-atom values make the actor's objective. `sum` lets large structures count more."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("gamma", "tau"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}")
        for name in ("actor_lr", "critic_lr", "max_step", "huber_delta"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        for name in ("target_noise", "target_noise_clip", "deviation_weight"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        for name in ("q_weight", "bc_weight"):
            if getattr(self, name).bounds[0] < 0.0:
                raise ValueError(f"`{name}` must not become negative, got {getattr(self, name).bounds[0]}")
        if self.policy_delay < 1:
            raise ValueError(f"`policy_delay` must be at least 1, got {self.policy_delay}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0.0:
            raise ValueError(f"`max_grad_norm` must be positive or null, got {self.max_grad_norm}")
        if self.target_clip is not None and self.target_clip[0] >= self.target_clip[1]:
            raise ValueError(f"`target_clip` must be (low, high) with low < high, got {self.target_clip}")


class TD3:
    """Actor, twin critics, their targets and optimizers.

    Args:
        actor: Called with a graph, gives displacements (n_atoms, 3), Å.
        critic: Called with a graph and displacements, gives two values (n_graphs,); with `per_atom`, its method
            `per_atom` gives two values (n_atoms,).
        config: Settings.
    """

    def __init__(self, actor: nn.Module, critic: nn.Module, config: TD3Config | None = None) -> None:
        self.config = config if config is not None else TD3Config()
        self.actor, self.critic = actor, critic
        self.target_actor = copy.deepcopy(actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(critic).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), lr=self.config.actor_lr)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=self.config.critic_lr)
        self.updates = 0
        self.agent_td_errors: FloatArray | None = None
        """(n,), |TD error| of the agent's samples in the last update; for a prioritised replay."""
        self.expert_td_errors: FloatArray | None = None
        """(n,), the same for the expert's."""

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """The policy's displacements without noise, (n_atoms, 3), Å, in the graph's precision and on its device."""
        displacement: Tensor = self.actor(graph)
        return limit_radially(displacement.to(graph.positions), self.config.max_step)

    def update(
        self,
        agent: Sample | None,
        expert: Sample | None,
        generator: torch.Generator,
        t: int = 0,
        cloning_only: bool = False,
    ) -> dict[str, float]:
        """One update of the critics, and at every `policy_delay`-th one of actor and targets.

        Args:
            agent: Transitions of the agent's buffer, or None.
            expert: Transitions of the expert's buffer, or None.
            generator: Source of the smoothing noise, on the CPU.
            t: Environment steps so far, for the schedules.
            cloning_only: Leave Q out of the actor's loss, whatever `q_weight` says: imitation before the critic has
                learned. The critics are trained all the same.

        Returns:
            Losses and values for the log; those of the actor only where it was updated.

        Raises:
            ValueError: Neither buffer gave anything.
            RelaxRLError: A loss or its gradient is not finite.
        """
        batch, weights, is_expert = self._joined(agent, expert)
        self.updates += 1
        metrics, errors = self._update_critic(batch, weights, generator)
        if self.updates % self.config.policy_delay == 0:
            metrics |= self._update_actor(batch, is_expert, t, cloning_only)
            polyak_update(self.actor, self.target_actor, self.config.tau)
            polyak_update(self.critic, self.target_critic, self.config.tau)
        absolute = errors.detach().cpu().double().numpy()
        from_expert = is_expert.cpu().numpy()
        self.agent_td_errors = absolute[~from_expert] if agent is not None else None
        self.expert_td_errors = absolute[from_expert] if expert is not None else None
        return metrics

    def _update_critic(
        self, batch: Transition, weights: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, float], Tensor]:
        """Fit both critics to the clipped double-Q target; also gives each structure's |TD error|, (n_graphs,)."""
        config = self.config
        target = self._target(batch, generator)
        action = batch.proposed if config.critic_action == "proposed" else batch.applied
        q1, q2 = self._values(self.critic, batch.graph, action)
        losses = critic_loss(q1, target, config.critic_loss, config.huber_delta)
        losses = losses + critic_loss(q2, target, config.critic_loss, config.huber_delta)
        loss = (weights.to(losses.dtype) * self._per_structure(losses, batch.graph)).mean()
        norm = self._step(self.critic, self.critic_optimizer, loss, "critic")
        errors = self._per_structure(torch.maximum((q1 - target).abs(), (q2 - target).abs()), batch.graph)
        metrics = {
            "critic_loss": float(loss.detach()),
            "critic_grad_norm": norm,
            "q_mean": float(q1.detach().mean()),
            "q_target_mean": float(target.mean()),
            "td_error": float(errors.detach().mean()),
        }
        return metrics, errors

    @torch.no_grad()
    def _target(self, batch: Transition, generator: torch.Generator) -> Tensor:
        """Bellman targets with the smoothed target policy; (n_graphs,), or (n_atoms,) where the critic values atoms."""
        config, graph = self.config, batch.next_graph
        action: Tensor = self.target_actor(graph)
        noise = torch.randn(action.shape, generator=generator, dtype=action.dtype).to(action.device)
        action = add_relative(action, noise, config.target_noise, clip=config.target_noise_clip)
        q1, q2 = self._values(self.target_critic, graph, limit_radially(action, config.max_step))
        reward, terminated, discount = batch.reward, batch.terminated, config.gamma ** batch.steps.to(q1.dtype)
        if config.per_atom:
            reward = batch.atom_reward
            terminated, discount = terminated[graph.graph_index], discount[graph.graph_index]
        target = td3_target(reward, terminated, q1, q2, discount)
        return target if config.target_clip is None else target.clamp(*config.target_clip)

    def _update_actor(self, batch: Transition, is_expert: Tensor, t: int, cloning_only: bool) -> dict[str, float]:
        """Climb the first critic, drawn towards moves that are not taken back and towards the expert's."""
        config, graph = self.config, batch.graph
        q_weight, bc_weight = 0.0 if cloning_only else config.q_weight.at(t), config.bc_weight.at(t)
        action = limit_radially(self.actor(graph), config.max_step)

        deviation = deviation_penalty(action, batch.applied, graph.graph_index, graph.n_graphs)
        if config.deviation_on == "corrected":
            difference = (batch.proposed - batch.applied).square().sum(-1)
            corrected = scatter_mean(difference, graph.graph_index, graph.n_graphs) > 0
            deviation = torch.where(corrected, deviation, torch.zeros_like(deviation))
        cloning = cloning_loss(action, batch.applied, graph.graph_index, is_expert, config.bc_loss)
        loss = config.deviation_weight * deviation.mean() + bc_weight * cloning.mean()
        metrics = {
            "deviation_loss": float(deviation.detach().mean()),
            "bc_loss": float(cloning.detach().sum() / is_expert.sum().clamp(min=1)),
            "bc_weight": bc_weight,
            "action_length": float(torch.linalg.vector_norm(action.detach(), dim=-1).mean()),
        }
        if q_weight > 0.0:
            q1, _ = self._values(self.critic, graph, action)
            value = self._per_structure(q1, graph)
            if config.per_atom and config.atom_reduction == "sum":
                value = value * graph.atoms_per_graph
            loss = loss + q_weight * q_objective(value, config.normalize_q).mean()
            metrics["actor_q"] = float(value.detach().mean())
        metrics["actor_loss"] = float(loss.detach())
        metrics["actor_grad_norm"] = self._step(self.actor, self.actor_optimizer, loss, "actor")
        return metrics

    def state_dict(self) -> StateDict:
        """Networks, targets, optimizers and counters."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target_actor": self.target_actor.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.target_actor.load_state_dict(state["target_actor"])
        self.target_critic.load_state_dict(state["target_critic"])
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.updates = state["updates"]

    def _joined(self, agent: Sample | None, expert: Sample | None) -> tuple[Transition, Tensor, Tensor]:
        """Both samples as one batch with edges, its importance weights, and which transitions are the expert's."""
        parts = [part for part in (agent, expert) if part is not None and len(part)]
        if not parts:
            raise ValueError("an update needs transitions, got none from either buffer")
        device = next(self.actor.parameters()).device
        batch = Transition.cat([part.transition for part in parts])
        weights = torch.from_numpy(np.concatenate([part.weights for part in parts])).to(device)
        n_agent = len(agent) if agent is not None else 0
        is_expert = torch.arange(len(batch), device=device) >= n_agent
        reach = _common_reach(self.actor, self.critic)
        if reach is not None:
            batch = batch.replace_graphs(with_edges(batch.graph, *reach), with_edges(batch.next_graph, *reach))
        return batch.to(device), weights, is_expert

    def _values(self, critic: Any, graph: AtomGraph, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both critics' values of structures, or of atoms; first and second."""
        if self.config.per_atom:
            q1, q2 = critic.per_atom(graph, action)
        else:
            q1, q2 = critic(graph, action)
        return q1, q2

    def _per_structure(self, values: Tensor, graph: AtomGraph) -> Tensor:
        """Values of atoms averaged over each structure; values of structures as they are."""
        return scatter_mean(values, graph.graph_index, graph.n_graphs) if self.config.per_atom else values

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, name: str) -> float:
        """One clipped gradient step of this network alone; gives the gradient's norm before clipping."""
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer.zero_grad()
        # Only this network's gradients: the actor's loss must leave none in the critic.
        torch.autograd.backward(loss, inputs=parameters)
        limit = self.config.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        if not bool(torch.isfinite(norm)):
            raise RelaxRLError(
                f"the {name}'s gradient at update {self.updates} must be finite, got {float(norm)} (loss "
                f"{float(loss.detach())}); lower `{name}_lr` or `max_grad_norm`, or set `target_clip`"
            )
        optimizer.step()
        return float(norm)


@torch.no_grad()
def polyak_update(network: nn.Module, target: nn.Module, tau: float) -> None:
    """Move a target network towards its network: θ' ← τ θ + (1 - τ) θ'; buffers are copied."""
    for parameter, target_parameter in zip(network.parameters(), target.parameters(), strict=True):
        target_parameter.lerp_(parameter, tau)
    for buffer, target_buffer in zip(network.buffers(), target.buffers(), strict=True):
        target_buffer.copy_(buffer)


def _common_reach(*networks: nn.Module) -> tuple[float, int | None] | None:
    """Cutoff (Å) and neighbour limit with which edges can be made once for all networks; None if they can't be."""
    # Networks keep these where their trunk's configuration is; those that read no edges have none.
    trunks = [getattr(getattr(network, "config", None), "trunk", network) for network in networks]
    cutoffs = [getattr(trunk, "cutoff", None) for trunk in trunks]
    limits = {getattr(trunk, "max_neighbors", None) for trunk in trunks}
    if None in cutoffs or len(limits) > 1:
        return None
    limit = limits.pop()
    # Networks ignore edges beyond their cutoff, but a limited number of neighbours may be spent on them.
    if limit is not None and len(set(cutoffs)) > 1:
        return None
    return max(float(cutoff) for cutoff in cutoffs if cutoff is not None), limit
