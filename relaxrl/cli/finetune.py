"""`relaxrl finetune`: an agent adapted to a system and its calculator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from relaxrl.errors import ConfigError

_DESCRIPTION = """\
Adapt an agent to your system and its calculator: relax a few dozen structures with it, learn from every point that was
evaluated on the way, and write the agent that comes of it. The relaxations are all that the calculator is asked for.

Structures are relaxed as they are; those that are relaxed already, as their files say or --kind minimum, are displaced
first, several times each if there are fewer than --relaxations.

After a kill or Ctrl-C the same command goes on: no relaxation is repeated, training continues from its last epoch.

Exit status: 0 if the agent has become better on held-out relaxations, 1 if not (OUT then holds it as it was), 2 for bad
input, 130 after Ctrl-C.
"""

_EPILOG = """\
examples:
  relaxrl finetune --agent metals --structures starts/ --calculator mypackage.calc:MyCalculator --out runs/tuned
  relaxrl finetune --agent metals --structures carbides.extxyz --calculator lammps:SiC.tersoff --out runs/carbides
  relaxrl finetune --agent runs/tuned --structures more.extxyz --calculator chgnet --fmax 0.02 --cell --out runs/more

then:
  relaxrl relax start.cif --agent runs/tuned --calculator mypackage.calc:MyCalculator --out relaxed.cif

What happens, and all settings: docs/finetuning.md
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "finetune",
        help="adapt an agent to a system and its calculator",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--agent", required=True, metavar="NAME_OR_PATH", help="to begin with; one with a learned Hessian"
    )
    parser.add_argument(
        "--structures", required=True, nargs="+", metavar="FILES", help="files, folders or sets such as metals:dev"
    )
    parser.add_argument("--kind", choices=("minimum", "start"), help="what they are, whatever the files say")
    parser.add_argument("--calculator", required=True, metavar="NAME", help="as for `relaxrl relax`")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the agent")
    parser.add_argument("--cell", action="store_true", help="relax cells, too")
    parser.add_argument("--relaxations", type=int, metavar="N", help="relax this many at most (default: 30)")
    parser.add_argument("--fmax", type=float, help="relaxations end below this force, eV/Å (default: 0.01)")
    parser.add_argument("--steps", type=int, help="limit of each relaxation (default: 500)")
    parser.add_argument(
        "--updates",
        type=int,
        metavar="N",
        help="of the parameters, rounded up to whole epochs (default: 1000); fewer where they help no more",
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="frames of the agent's own training, against forgetting (default: replay.npz in its folder, if any)",
    )
    parser.add_argument("--seed", type=int, help="all randomness comes from it (default: 0)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="relaxations side by side (default: 1)")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="key=value",
        help="other settings: held_out, batch_size, trainer.max_lr, ... (docs/finetuning.md)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Adapt, and say what came of it."""
    if args.workers < 1:
        raise ConfigError(f"expected --workers >= 1, got {args.workers}")
    # Imported here: torch takes seconds to load, and --help must not.
    from relaxrl.training import finetune
    from relaxrl.training.progress import TrainingProgress

    result = finetune(
        args.agent,
        args.structures,
        args.calculator,
        args.out,
        kind=args.kind,
        workers=args.workers,
        overrides=args.set,
        progress=TrainingProgress("fine-tuning", not args.quiet),
        **_given(args),
    )
    if result.interrupted:
        print(f"relaxrl: interrupted after {result.updates} updates; the same command goes on", file=sys.stderr)
        return 130
    print(
        f"{result.converged} of {result.relaxations} relaxations converged in {result.force_evaluations} evaluations "
        f"and {result.seconds:.1f} s; {result.updates} updates"
    )
    print(
        f"error of one step on {result.held_out} held-out relaxations: {result.error_before:.1%} of the way before, "
        f"{result.error:.1%} now"
    )
    if not result.improved:
        print(f"no better than before: {result.folder} holds the agent as it was; give more relaxations")
        return 1
    print(f"the agent: {result.folder}; use it with `--agent {result.folder}`")
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Settings that differ from their defaults."""
    names = ("relaxations", "fmax", "steps", "updates", "replay", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return given | ({"cell": True} if args.cell else {})
