"""What a run begins with: a pretrained trunk, an agent, or the checkpoint of another run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_checkpoint
from relaxrl.errors import CheckpointError
from relaxrl.nn import Actor, PlanningActor, VerifiedActor
from relaxrl.nn.pretrained import fill_trunk
from relaxrl.training.supervised.parameters import KIND, exported, fill

_TRUNK, _READOUT = "trunk.", "readout."
"""Prefixes of a potential's parameters; no actor has the second."""
_HEADS = ("policy_heads.", "environment_gate.")
"""Prefixes of an actor's parameters that other agents may lack; they begin without effect."""


def begin_with(module: nn.Module, source: str) -> None:
    """Give a module parameters that were trained before.

    An actor takes all parameters of an agent, or the trunk of a pretrained potential; an energy model takes those of
    another one, which may be a planning agent's.

    Args:
        module: Changed in place.
        source: A checkpoint (`agent_0.pt`, `pretrain_0.pt`), whose averaged parameters are taken; or the folder of an
            agent, of a run, or of `relaxrl pretrain`; or the name of a shipped agent.

    Raises:
        CheckpointError: There is nothing, or it belongs to another architecture; names the parameter.
    """
    try:
        _fill(module, source)
    except CheckpointError as error:
        raise CheckpointError(f"`trainer.ckpt_file`: {error}") from error


def _fill(module: nn.Module, source: str) -> None:
    tensors = _tensors(source)
    if not isinstance(module, Actor):
        fill(module, tensors, source)
    elif any(name.startswith(_READOUT) for name in tensors):
        trunk = {name.removeprefix(_TRUNK): value for name, value in tensors.items() if name.startswith(_TRUNK)}
        fill_trunk(module, trunk, source)
    else:
        heads = {name: value for name, value in module.state_dict().items() if name.startswith(_HEADS)}
        fill(module, heads | tensors, source)


def _tensors(source: str) -> dict[str, Tensor]:
    """Parameters by name."""
    if source.endswith(".pt"):
        return exported(load_checkpoint(Path(source), KIND))
    actor = load_agent(source).actor
    if isinstance(actor, PlanningActor):
        return dict(actor.energy.state_dict())
    if isinstance(actor, VerifiedActor):
        actor = actor.base
    if not isinstance(actor, Actor):
        raise CheckpointError(f"{source}: expected a policy or a potential, got an actor that ranks candidates")
    return dict(actor.state_dict())
