"""The reference of the command line, from its own help."""

from __future__ import annotations

import argparse
import os

from relaxrl.cli.main import build_parser


def commands_page() -> str:
    """What `--help` says, command by command."""
    os.environ["COLUMNS"] = "110"  # argparse wraps its help at the terminal's width
    parser = build_parser()
    parts = ["# Commands\n", _help(parser)]
    for name, command in _subcommands(parser).items():
        parts += [f"## relaxrl {name}\n", _help(command)]
        for inner, subcommand in _subcommands(command).items():
            parts += [f"### relaxrl {name} {inner}\n", _help(subcommand)]
    return "\n".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```\n"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
