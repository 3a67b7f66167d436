"""Networks from their configuration, with initial parameters from a given generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relaxrl.nn.action_energy import ActionEnergy
from relaxrl.nn.action_energy_config import ActionEnergyConfig, VerifiedActorConfig
from relaxrl.nn.actor import Actor, DirectActor
from relaxrl.nn.candidates import RankedActor
from relaxrl.nn.config import ActorConfig, CriticConfig, HessianActorConfig, RankedActorConfig, TrunkConfig
from relaxrl.nn.critic import TwinCritic
from relaxrl.nn.energy import EnergyModel
from relaxrl.nn.hessian import HessianActor
from relaxrl.nn.planning import PlanningActor, make_energy_model
from relaxrl.nn.planning_config import EnergyModelConfig, PlanningConfig
from relaxrl.nn.trunk_energy import TrunkEnergyConfig, TrunkEnergyModel
from relaxrl.nn.verifier import VerifiedActor


def build_actor(config: ActorConfig, generator: torch.Generator | None = None) -> Actor:
    """The actor that a configuration describes.

    Args:
        config: Its type says which actor.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return HessianActor(config) if isinstance(config, HessianActorConfig) else DirectActor(config)


def build_ranked_actor(config: RankedActorConfig, generator: torch.Generator | None = None) -> RankedActor:
    """An actor with the critic that chooses among variations of its step.

    Args:
        config: Sizes, and what there is to choose from.
        generator: Where initial parameters come from, the actor's first; the global state of torch if None.
    """
    return RankedActor(config, build_actor(config.actor, generator), build_critic(config.critic, generator))


def build_action_energy(
    config: ActionEnergyConfig, context: TrunkConfig, generator: torch.Generator | None = None
) -> ActionEnergy:
    """An energy over actions.

    Args:
        config: Sizes and range.
        context: The trunk of the actor whose actions are judged.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return ActionEnergy(config, context)


def build_verified_actor(config: VerifiedActorConfig, generator: torch.Generator | None = None) -> VerifiedActor:
    """An actor with the energy over actions that chooses among variations of its step.

    Args:
        config: Sizes, and what there is to choose from.
        generator: Where initial parameters come from, the actor's first; the global state of torch if None.
    """
    actor = build_actor(config.actor, generator)
    return VerifiedActor(config, actor, build_action_energy(config.energy, config.actor.trunk, generator))


def build_planning_actor(config: PlanningConfig, generator: torch.Generator | None = None) -> PlanningActor:
    """A policy that plans in an energy model.

    Args:
        config: Sizes, and how it plans.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return PlanningActor(config)


def build_energy_model(
    config: EnergyModelConfig | TrunkEnergyConfig, generator: torch.Generator | None = None
) -> EnergyModel | TrunkEnergyModel:
    """An energy model.

    Args:
        config: Its size.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return make_energy_model(config)


def build_critic(config: CriticConfig, generator: torch.Generator | None = None) -> TwinCritic:
    """A twin critic.

    Args:
        config: Size of each of the two.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return TwinCritic(config)


def build_trunk_energy(config: TrunkEnergyConfig, generator: torch.Generator | None = None) -> TrunkEnergyModel:
    """A potential made of a trunk.

    Args:
        config: Sizes.
        generator: Where initial parameters come from; the global state of torch if None.
    """
    with _initialised_by(generator):
        return TrunkEnergyModel(config)


@contextmanager
def _initialised_by(generator: torch.Generator | None) -> Iterator[None]:
    """Torch's modules draw from the global state only: lend it to the generator, and restore it."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
