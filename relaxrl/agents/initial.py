"""Training that goes on from another agent: its parameters by name, and what of the actor is trained."""

from __future__ import annotations

from relaxrl.agents.agent import Agent
from relaxrl.config import to_dict
from relaxrl.errors import ConfigError
from relaxrl.nn import Actor

_HEADS = ("policy_heads.", "environment_gate.")
"""Prefixes of the parameters that decide about a whole step."""
_OF_HEADS = ("env_input_dim", "policy_heads")
"""Keys of an actor's configuration that concern these alone."""


def start_from(actor: Actor, agent: Agent, name: str) -> None:
    """Give an actor the parameters of an agent, by name; heads that the agent lacks stay as they are.

    Args:
        actor: To be trained.
        agent: Trained before.
        name: What errors call the agent.

    Raises:
        ConfigError: The actor is another one than the agent's, apart from its gate and policy heads.
    """
    ours, theirs = to_dict(actor.config), to_dict(agent.actor.config)
    differing = [
        f"`actor.{key}` is {ours.get(key, 'not there')}, the agent's {theirs.get(key, 'not there')}"
        for key in sorted({*ours, *theirs} - set(_OF_HEADS))
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        raise ConfigError(
            f"init_agent: `{name}` is another actor than the one to be trained: {'; '.join(differing)}. Give `actor` "
            "the agent's values; they stand in its model.json"
        )
    parameters = agent.actor.state_dict()
    expected = actor.state_dict()
    for key, value in parameters.items():
        if key not in expected or expected[key].shape != value.shape:
            raise ConfigError(
                f"init_agent: `{name}` has a head with parameters `{key}` {tuple(value.shape)}, the actor to be "
                "trained has none of this shape; give `actor.policy_heads` and `actor.env_input_dim` as the agent has "
                "them"
            )
    missing = [key for key in expected if key not in parameters and not key.startswith(_HEADS)]
    if missing:
        raise ConfigError(f"init_agent: `{name}` lacks the parameters {', '.join(missing)}; expected all but heads")
    device = next(actor.parameters()).device
    actor.load_state_dict(expected | {key: value.to(device) for key, value in parameters.items()})


def train_only_heads(actor: Actor) -> None:
    """Freeze all parameters but those of the gate and the trust radius.

    Raises:
        ConfigError: There are none.
    """
    heads = 0
    for name, parameter in actor.named_parameters():
        is_head = name.startswith(_HEADS)
        parameter.requires_grad_(is_head)
        heads += is_head
    if not heads:
        raise ConfigError(
            "trained: `heads` needs an actor that has them; set `actor.policy_heads={}`, or `trained=actor`"
        )
