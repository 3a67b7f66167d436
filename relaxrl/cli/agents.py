"""`relaxrl agents`: which trained agents there are, and what is known of one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaxrl.agents import Agent

EPILOG = """\
examples:
  relaxrl agents                  list the agents that come with relaxrl
  relaxrl agents metals           describe one of them
  relaxrl agents runs/mine        describe the best agent of a training run
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "agents",
        help="list trained agents, or describe one",
        description="List the agents that come with relaxrl, or describe one: what it was trained on, how large it is.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "agent", nargs="?", metavar="NAME_OR_PATH", help="a shipped agent, a folder with a saved one, or a run folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from relaxrl.agents.registry import load_agent, shipped_agents

    if args.agent is not None:
        facts = _facts(load_agent(args.agent))
        print(json.dumps(facts, indent=2) if args.json else _as_text(facts))
        return 0
    descriptions = {name: load_agent(path).metadata.get("description", "") for name, path in shipped_agents().items()}
    if args.json:
        print(json.dumps(descriptions, indent=2))
    elif not descriptions:
        print("No agents come with this version. Train one with `relaxrl train`, then use its run folder.")
    else:
        width = max(len(name) for name in descriptions)
        print("\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in descriptions.items()))
    return 0


def _facts(agent: Agent) -> dict[str, Any]:
    """What is known of an agent."""
    actor = agent.actor
    return {
        "actor": type(actor).__name__,
        "parameters": sum(parameter.numel() for parameter in actor.parameters()),
        "precision": str(next(actor.parameters()).dtype).removeprefix("torch."),
        "cutoff (Å)": actor.cutoff,
        "max_step (Å)": agent.max_step,
        **({} if agent.verifier is None else {"verifier": "on" if agent.verifier else "off"}),
        **agent.metadata,
    }


def _as_text(facts: dict[str, Any]) -> str:
    width = max(len(name) for name in facts)
    return "\n".join(f"{name:<{width}}  {_value(value)}" for name, value in facts.items())


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) if value else "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)
