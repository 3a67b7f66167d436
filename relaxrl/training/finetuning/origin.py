"""The agent that is adapted: which can be, what ships beside it, and what becomes of what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from relaxrl.agents import AUTO, Agent, find_agent, load_agent, shipped_agents
from relaxrl.checkpoint import MODEL_FILE
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.integrations import is_foreign
from relaxrl.nn import HessianActor
from relaxrl.structures.frames import Frame, load_frames

REPLAY_FILE = "replay.npz"
"""Beside an agent: frames that it was trained on."""
LARGEST_REPLAY = 400
"""Frames that are kept for the next time."""


def load_learner(agent: str | None) -> Agent:
    """An agent that can be adapted.

    Raises:
        ConfigError: It has no learned Hessian; says which agents have.
        CheckpointError: There is no such agent.
    """
    if agent == AUTO:
        raise ConfigError(f"`{AUTO}` chooses an agent for each structure, and here one is adapted; {which_can_learn()}")
    if agent is None or agent == "none":
        raise ConfigError(f"there is no agent to adapt; {which_can_learn()}")
    if is_foreign(agent):
        raise ConfigError(f"agent {agent!r} belongs to another library and can't be adapted here; {which_can_learn()}")
    loaded = load_agent(agent)
    if not isinstance(loaded.actor, HessianActor):
        raise ConfigError(f"agent {agent!r} has no learned Hessian that could be adapted; {which_can_learn()}")
    if loaded.feature_names:
        raise ConfigError(
            f"agent {agent!r} looks at features of an environment ({', '.join(loaded.feature_names)}), which recorded "
            f"relaxations don't have; {which_can_learn()}"
        )
    return loaded


def hessian_actor(agent: Agent) -> HessianActor:
    """The actor of an agent that `load_learner` gave."""
    actor = agent.actor
    assert isinstance(actor, HessianActor)
    return actor


def load_replay(agent: str, replay: str | None) -> list[Frame]:
    """Frames of an agent's own training: those of a file, or those that ship beside the agent, if any.

    Raises:
        StructureError: The file is no file of frames.
    """
    if replay is not None:
        return load_frames(replay)
    beside = find_agent(agent) / REPLAY_FILE
    return load_frames(beside) if beside.is_file() else []


def fingerprint(agent: str) -> str:
    """The same for the same parameters."""
    return hashlib.sha256((find_agent(agent) / MODEL_FILE).read_bytes()).hexdigest()[:16]


def adapted(parent: Agent, name: str, elements: Iterable[str], **known: Any) -> dict[str, Any]:
    """Metadata of the agent that a parent has become.

    Args:
        parent: As it was.
        name: What it is called.
        elements: That it has learned of since.
        **known: What else there is to say.
    """
    before = parent.metadata
    return {
        **{key: value for key, value in before.items() if key in ("feature_names", "structures")},
        "elements": sorted({*parent.elements, *elements}) if parent.elements else [],
        "parent": name,
        "lineage": [*before.get("lineage", []), name],
        **known,
    }


def for_the_next_time(replay: Sequence[Frame], new: Sequence[Sequence[Frame]]) -> list[Frame]:
    """What to keep of replay and relaxations: of both, evenly spread, periodic crystals alone."""
    fresh = [frame for frames in new for frame in frames if frame.atoms.pbc.all()]
    half = LARGEST_REPLAY // 2
    old = _spread(replay, max(half, LARGEST_REPLAY - len(fresh)))
    return old + _spread(fresh, LARGEST_REPLAY - len(old))


def _spread(frames: Sequence[Frame], n: int) -> list[Frame]:
    if len(frames) <= n:
        return list(frames)
    return [frames[k * len(frames) // n] for k in range(n)]


def which_can_learn() -> str:
    """What to tell who gave no agent that can be adapted."""
    able = []
    for name in shipped_agents():
        try:
            if isinstance(load_agent(name).actor, HessianActor):
                able.append(name)
        except CheckpointError:
            continue
    return f"take one of kind `hessian`: {', '.join(able)}, or a run of `method: cloning` without an action energy"
