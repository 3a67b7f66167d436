"""Entry point of the `relaxrl` command."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence

from relaxrl import __version__
from relaxrl.errors import RelaxRLError

COMMANDS = ("train", "pretrain", "finetune", "evaluate", "report", "relax", "structures", "agents")
"""Each is a module beside this one with `add_parser(subparsers)`; the parser sets `run`, args in, exit status out."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0 if all went well, 1 if the job ended without success (not converged), 2 for bad input, 130 after Ctrl-C.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    # Reports say how to repeat them.
    args.command = shlex.join(["relaxrl", *(sys.argv[1:] if argv is None else argv)])
    try:
        return int(args.run(args))
    except RelaxRLError as error:
        print(f"relaxrl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("relaxrl: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="relaxrl",
        description="Train and use agents that relax atomic structures in far fewer force evaluations than BFGS.",
        epilog="`relaxrl COMMAND --help` explains each command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"relaxrl {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        importlib.import_module(f"relaxrl.cli.{command}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
