"""`Agent`: a trained actor with what is known of its origin, saved and loaded without running foreign code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy import sparse
from torch import Tensor

from relaxrl import __version__
from relaxrl.agents.exploration import limit_radially
from relaxrl.checkpoint import MODEL_FILE, load_model, save_model
from relaxrl.config import from_dict, to_dict
from relaxrl.errors import CheckpointError, ConfigError, RelaxRLError
from relaxrl.graph import AtomGraph
from relaxrl.nn import (
    Actor,
    ActorConfig,
    DirectActorConfig,
    HessianActorConfig,
    PlanningActor,
    PlanningConfig,
    RankedActor,
    RankedActorConfig,
    TrunkEnergyModel,
    VerifiedActor,
    VerifiedActorConfig,
    build_actor,
    build_planning_actor,
    build_ranked_actor,
    build_verified_actor,
    load_pretrained,
)
from relaxrl.typing import FloatArray

AnyActor = Actor | RankedActor | VerifiedActor | PlanningActor
AnyActorConfig = ActorConfig | RankedActorConfig | VerifiedActorConfig | PlanningConfig
ACTOR_CONFIGS: dict[str, type[AnyActorConfig]] = {
    "direct": DirectActorConfig,
    "hessian": HessianActorConfig,
    "ranked": RankedActorConfig,
    "verified": VerifiedActorConfig,
    "planning": PlanningConfig,
}
"""Configuration class of each kind of actor, by the name that saved agents bear."""


class Agent:
    """An actor that proposes displacements, for use after training.

    Args:
        actor: Made from a configuration, which it keeps as `config`.
        max_step: Å; no atom is asked to move farther.
        metadata: What is known of its origin, as JSON can hold it. `feature_names`, a list, names the environment
            features that the graph must carry; `elements`, a list of symbols, those that it was trained on;
            `description`, one line, is shown in listings.
    """

    def __init__(
        self,
        actor: AnyActor,
        max_step: float = 0.5,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not max_step > 0.0 or not math.isfinite(max_step):
            raise ValueError(f"`max_step` must be positive, got {max_step}")
        self.actor = actor
        self.max_step = max_step
        self.metadata = dict(metadata) if metadata is not None else {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Environment features that the graph must carry, in order."""
        return tuple(self.metadata.get("feature_names", ()))

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """Proposed displacements.

        Args:
            graph: Structures with forces, and with history and environment features where the actor uses them.

        Returns:
            (n_atoms, 3), Å, float64, on the graph's device; each no longer than `max_step`.

        Raises:
            ValueError: The graph has no forces or lacks environment features.
            RelaxRLError: Forces are not finite, or the actor's answer is not.
        """
        if graph.forces is not None and not bool(torch.isfinite(graph.forces).all()):
            raise RelaxRLError("an agent needs finite forces, got NaN or infinity; check the calculator")
        displacement: Tensor = self.actor(graph)
        displacement = displacement.to(device=graph.positions.device, dtype=torch.float64)
        if not bool(torch.isfinite(displacement).all()):
            raise RelaxRLError(
                "the agent proposed a displacement that is not finite; expected one within "
                f"{self.max_step} Å. Its training may have diverged, or the structure is far from any it has seen"
            )
        return limit_radially(displacement, self.max_step)

    @torch.no_grad()
    def act_with_strain(self, graph: AtomGraph, strains: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Proposed displacements u and strains ε: positions become x (1 + ε) + u, the cell becomes cell (1 + ε).

        Args:
            graph: Structures with forces and stress.
            strains: (n_graphs,), bool; whose cell moves. None for all that are periodic in three directions.

        Returns:
            (n_atoms, 3), Å, each no longer than `max_step`, and (n_graphs, 6) in `relaxrl.strain.STRAIN_BASIS`, both
            float64, on the graph's device; None from actors that move no cells.

        Raises:
            ValueError: The graph has no forces or no stress.
            RelaxRLError: The actor's answer is not finite.
        """
        propose = getattr(self.actor, "displacement_and_strain", None)
        if propose is None:
            return None
        displacement, strain = (part.to(graph.positions.device, torch.float64) for part in propose(graph, strains))
        if not bool(torch.isfinite(displacement).all() and torch.isfinite(strain).all()):
            raise RelaxRLError(
                "the agent proposed a displacement or a strain that is not finite; check forces and stress of the "
                "calculator. Its training may have diverged, or the structure is far from any it has seen"
            )
        return limit_radially(displacement, self.max_step), strain

    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array | None:
        """The curvature that the actor predicts for one structure, for those who want to correct it.

        Args:
            graph: One structure.

        Returns:
            (3 n_atoms, 3 n_atoms), eV/Å², symmetric, perhaps indefinite; sparse for large structures; None from actors
            that predict none.
        """
        predict = getattr(self.actor, "hessian", None)
        predicted: FloatArray | sparse.csr_array | None = None if predict is None else predict(graph)
        return predicted

    def hessian_with_strain(self, graph: AtomGraph) -> FloatArray | None:
        """The curvature that the actor predicts for one structure and its cell.

        Args:
            graph: One structure.

        Returns:
            (3 n_atoms + 6, 3 n_atoms + 6), see `HessianActor.hessian_with_strain`; None from actors that predict none.
        """
        predict = getattr(self.actor, "hessian_with_strain", None)
        predicted: FloatArray | None = None if predict is None else predict(graph)
        return predicted

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements that it was trained on; empty where its metadata don't say."""
        return frozenset(self.metadata.get("elements", ()))

    @property
    def verifier(self) -> bool | None:
        """Whether an energy over actions chooses among candidates before each step; None where there is none."""
        return self.actor.enabled if isinstance(self.actor, VerifiedActor) else None

    def switch_verifier(self, on: bool) -> None:
        """Let the energy over actions choose among candidates before each step, or make the actor's own step.

        Raises:
            ConfigError: It has none.
        """
        if not isinstance(self.actor, VerifiedActor):
            raise ConfigError(
                "this agent has no verifier to switch; one is trained by `method: cloning` with an `action_energy` "
                "section"
            )
        self.actor.enabled = on

    def save(self, folder: str | Path) -> None:
        """Write the agent as safetensors and JSON; a reader sees the old agent or the new one, never half of each."""
        config = getattr(self.actor, "config", None)
        if not isinstance(config, tuple(ACTOR_CONFIGS.values())):
            known = ", ".join(ACTOR_CONFIGS)
            raise TypeError(
                f"can't save an actor of type {type(self.actor).__name__}; expected one of the kinds {known}"
            )
        meta = {
            "actor": to_dict(config),
            "max_step": self.max_step,
            "relaxrl": __version__,
            "metadata": self.metadata,
        }
        save_model(folder, self.actor.state_dict(), meta)

    @staticmethod
    def load(folder: str | Path) -> Agent:
        """The agent saved in a folder, in the precision it was saved in, on the CPU.

        A pretrained potential, or the run folder of one, counts as an agent that plans in it.

        Raises:
            CheckpointError: The folder holds no agent, a damaged one, or one of another architecture.
        """
        tensors, meta = load_model(folder)
        if "energy_model" in meta:
            return _planning_in(load_pretrained(folder, torch.float64), dict(meta.get("metadata", {})))
        try:
            values = dict(meta["actor"])
            kind = str(values["kind"])
            max_step, metadata = float(meta["max_step"]), dict(meta["metadata"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: not an agent: missing or wrong entry {error} in {MODEL_FILE}") from error
        if kind not in ACTOR_CONFIGS:
            raise CheckpointError(
                f"{folder}: unknown kind of actor {kind!r}; this relaxrl knows {', '.join(ACTOR_CONFIGS)}"
            )
        try:
            actor = _build(from_dict(ACTOR_CONFIGS[kind], values, source=str(folder)))
            floating = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
            actor.to(floating[0] if floating else None)
            actor.load_state_dict(tensors)
        except (ConfigError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{folder}: the saved parameters don't fit their architecture: {error}") from error
        return Agent(actor.eval().requires_grad_(False), max_step, metadata)


def _planning_in(model: TrunkEnergyModel, metadata: dict[str, Any]) -> Agent:
    """The agent that relaxes in a pretrained potential."""
    config = PlanningConfig(energy=model.config)
    actor = build_planning_actor(config).to(torch.float64)
    actor.energy = model
    return Agent(actor.eval().requires_grad_(False), config.max_step, metadata)


def _build(config: AnyActorConfig) -> AnyActor:
    if isinstance(config, PlanningConfig):
        return build_planning_actor(config)
    if isinstance(config, VerifiedActorConfig):
        return build_verified_actor(config)
    return build_ranked_actor(config) if isinstance(config, RankedActorConfig) else build_actor(config)
