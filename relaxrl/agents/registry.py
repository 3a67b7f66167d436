"""Agents by name: those shipped with the package, folders, and training runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from relaxrl.agents.agent import Agent
from relaxrl.checkpoint import MODEL_FILE
from relaxrl.errors import CheckpointError, ConfigError

SHIPPED = Path(__file__).parent / "shipped"
SWITCH = ",verifier="
"""After an agent's name or path: whether its verifier chooses."""
STATES = {"on": True, "off": False}
BEST = "best"
"""Folder of a training run that holds the agent of the best evaluation."""

AUTO = "auto"
"""In place of an agent's name: the one that suits each structure."""
PREFERRED = ("metals", "universal")
"""Shipped agents, best first; each suits structures all of whose elements it was trained on."""


def shipped_agents() -> dict[str, Path]:
    """Names and folders of the agents that come with the package."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{MODEL_FILE}"))}


def default_agent(symbols: Iterable[str]) -> str | None:
    """The shipped agent that suits a structure: the first of `PREFERRED` that was trained on all of its elements.

    Args:
        symbols: Elements of the structure.

    Returns:
        Its name; None where none does, so that the quasi-Newton method alone is the better choice.

    Examples:
        >>> default_agent(["Cu", "Au"])
        'metals'
    """
    wanted = set(symbols)
    shipped = shipped_agents()
    return next((name for name in PREFERRED if name in shipped and wanted <= _elements(shipped[name])), None)


@lru_cache
def _elements(folder: Path) -> frozenset[str]:
    """What a saved agent was trained on; without loading its weights."""
    header = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    return frozenset(header["meta"].get("metadata", {}).get("elements", ()))


def load_agent(name_or_path: str | Path) -> Agent:
    """An agent by name or from a folder.

    Args:
        name_or_path: The name of a shipped agent; a folder written by `Agent.save`; or the folder of a training run,
            which means the agent of its best evaluation. A shipped name wins over a folder of the same name: write
            `./NAME` for that. `,verifier=off` or `,verifier=on` after it switches the choice among candidates of an
            agent with an energy over actions; without it that is as saved.

    Raises:
        CheckpointError: There is no such agent, or its files can't be used.
        ConfigError: A verifier is to be switched and there is none, or to something else than `on` or `off`.
    """
    place, switch, state = str(name_or_path).partition(SWITCH)
    if not switch:
        return Agent.load(find_agent(name_or_path))
    if state not in STATES:
        raise ConfigError(f"agent {str(name_or_path)!r}: expected {SWITCH}on or {SWITCH}off, got {SWITCH}{state}")
    agent = Agent.load(find_agent(place))
    try:
        agent.switch_verifier(STATES[state])
    except ConfigError as error:
        raise ConfigError(f"agent {str(name_or_path)!r}: {error}") from error
    return agent


def find_agent(name_or_path: str | Path) -> Path:
    """The folder that `load_agent` reads.

    Raises:
        CheckpointError: There is none.
    """
    shipped = shipped_agents()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if path.name == MODEL_FILE and path.is_file():
        return path.parent
    if path.is_dir():
        for folder in (path, path / BEST):
            if (folder / MODEL_FILE).is_file():
                return folder
        raise CheckpointError(
            f"{path}: expected an agent ({MODEL_FILE}) or a training run with a best evaluation "
            f"({BEST}/{MODEL_FILE}), found neither; a run has one after its first evaluation"
        )
    if str(name_or_path) == AUTO:
        raise CheckpointError(
            f"`{AUTO}` chooses an agent for each structure that is relaxed, and here one is needed for all; name it: "
            f"{', '.join(shipped) or 'none is shipped'}, or a folder with a saved agent"
        )
    close = difflib.get_close_matches(str(name_or_path), shipped, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(shipped) if shipped else "none"
    raise CheckpointError(
        f"no agent {str(name_or_path)!r}: expected a shipped one ({known}), a folder with a saved agent, "
        f"or a run folder{hint}"
    )
