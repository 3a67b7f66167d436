"""`relaxrl structures`: make sets of crystals, look at them, split and convert them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relaxrl.cli.interrupts import collected, sigterm_as_ctrl_c
from relaxrl.cli.structures_generate import GENERATE, add_arguments, generate
from relaxrl.cli.structures_make import progress_bars, run_frames, run_make

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from relaxrl.structures import Crystal
    from relaxrl.structures.curvature import HessianFunction
    from relaxrl.structures.describe import Description

_PIPED_WIDTH = 160
"""Columns of a table that goes into a file or another program."""

DESCRIPTION = """\
Make sets of crystals to train on and to compare with, look at them, split and convert them.

Wherever a FILE of structures is expected, here and in the other commands, it may be
  a file      in any format that ASE reads, with all its frames (extxyz, CIF, POSCAR, traj, db, ...; FILE@0:10 picks)
  a table     CSV with CIF text in one column
  a folder    of such files, subfolders included
  a name      of a shipped set: metals:train, metals:more, metals:dev, metals:test, metals:large, metals:unseen
The structure with number INDEX (from 0) in it is called FILE#INDEX in all output.
"""

EPILOG = """\
examples:
  relaxrl structures inspect crystals.cif                 what is in a file, and is it fit to be used?
  relaxrl structures inspect metals:train --calculator emt --hessian
  relaxrl structures minimize crystals.extxyz --calculator emt --out minima.extxyz
  relaxrl structures split minima.extxyz --parts train=0.8,dev=0.1,test=0.1 --out sets
  relaxrl structures generate --elements Al,Ni --count 100 --out alloys.extxyz
  relaxrl structures generate --kind compounds rule=charges charge_table=pmmcs --count 50 --out oxides.extxyz
  relaxrl structures generate --kind random 'formulas=[SrTiO3,Y2O3]' --atoms 30-40 --count 20 --out random.extxyz
  relaxrl structures make configs/structures/metals.yaml --out sets
  relaxrl structures convert table.csv --out crystals.extxyz

`relaxrl structures COMMAND --help` explains each.
"""

MAKE = """\
Make a set from a recipe: alloys, known crystals with other elements or random ones, relaxed with rattle and
re-relaxation to true minima (no direction leads down, checked with the Hessian), at fixed cell or with it, split so
that no parent crystal is in two parts. Writes one file NAME-PART.npz per part, to be used as FILE in all commands, and
NAME.md, which says what is in them. The same recipe and seed give the same files. The same command goes on after a
kill.

A recipe (configs/structures/metals.yaml makes the shipped set) names a calculator, or several, and splits; each split
has groups, and each group a count and what to draw: alloys, compounds or random. docs/structures.md has all keys.
"""

MINIMIZE = """\
Turn crystals into true minima of your calculator, at fixed cell or with it: displace, relax, displace and relax again
until nothing lower is found, then leave every saddle point along the direction that its Hessian shows. Agents are best
trained on such minima. Structures that lead to none, or for which the calculator fails, are named with the reason and
left out. Structures with constraints (fixed atoms) are refused, since all atoms move: `relaxrl relax` respects them.
After Ctrl-C what is done is written.
"""

INSPECT = """\
Show what is in files: formulas, sizes, densities, closest pairs, and what is odd about a structure. With a calculator
also the largest force; with --hessian also whether the structure is a true minimum or a saddle point.
"""

FRAMES = """\
Label geometries around the minima of a set, for training on calculators that are too expensive to be called there:
displaced starts, every second one strained, and what relaxations from some of them evaluate on their way back.
Structures must be minima of the calculator, with relaxed cells if starts are strained.
"""

SPLIT = """\
Split structures into parts so that variants of one crystal never part. Writes one file PART.extxyz for each part.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser(
        "structures",
        help="make, inspect, split and convert sets of crystals",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, summary: str, description: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.set_defaults(run=run)
        return made

    inspect = command("inspect", "show what is in files", INSPECT, run_inspect)
    _add_files(inspect)
    inspect.add_argument("--calculator", metavar="NAME", help="evaluate forces: emt, lj, ..., or an import path")
    inspect.add_argument(
        "--hessian", action="store_true", help="find minima and saddle points (6 evaluations per atom)"
    )
    inspect.add_argument("--rows", type=int, default=30, help="structures listed at most (default: %(default)s)")

    minimize = command("minimize", "relax crystals to true minima", MINIMIZE, run_minimize)
    _add_files(minimize)
    minimize.add_argument("--calculator", required=True, metavar="NAME", help="emt, lj, ..., or an import path")
    minimize.add_argument("--rattle", type=float, default=0.1, help="Å, random displacement (default: %(default)s)")
    minimize.add_argument(
        "--fmax",
        type=float,
        help="eV/Å, of the minima (default: 1e-4; 2e-3, which suits single precision, with --check rattle)",
    )
    minimize.add_argument("--cell", action="store_true", help="relax the cells, too; the calculator must give stress")
    minimize.add_argument(
        "--check",
        choices=["hessian", "rattle"],
        default="hessian",
        help="what shows that it is a minimum: its hessian, or, where that is too expensive, that it comes back when "
        "displaced (default: %(default)s)",
    )
    _add_seed_and_jobs(minimize)
    minimize.add_argument("--out", required=True, metavar="FILE", help="any format that ASE writes; extxyz keeps all")

    split = command("split", "split by parent crystal", SPLIT, run_split)
    _add_files(split)
    split.add_argument(
        "--parts", default="train=0.8,dev=0.1,test=0.1", metavar="NAME=SHARE,...", help="default: %(default)s"
    )
    split.add_argument("--seed", type=int, default=0, help="decides who goes where (default: %(default)s)")
    split.add_argument("--out", required=True, metavar="DIR", help="folder for the files")

    add_arguments(
        command("generate", "draw alloys, known crystals with other elements, random ones", GENERATE, run_generate)
    )

    make = command("make", "make a set from a recipe", MAKE, run_make)
    make.add_argument("recipe", metavar="RECIPE", help="YAML file")
    make.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, such as seed=1")
    make.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    make.add_argument("--out", required=True, metavar="DIR", help="folder for the files")

    frames = command("frames", "label displaced minima and what relaxations meet", FRAMES, run_frames)
    _add_files(frames)
    frames.add_argument(
        "--calculator",
        default="stored",
        metavar="NAME",
        help="labels; `stored`, the default, is the one that each crystal names",
    )
    frames.add_argument("--displacements", type=int, default=6, help="starts of each minimum (default: %(default)s)")
    frames.add_argument("--rattle", default="0.02-0.4", metavar="MIN-MAX", help="Å, of starts (default: %(default)s)")
    frames.add_argument(
        "--strain", type=float, default=0.06, help="of every second start; 0 needs no stress (default: %(default)s)"
    )
    frames.add_argument("--relaxations", type=int, default=1, help="starts that are relaxed (default: %(default)s)")
    frames.add_argument("--fmax", type=float, default=0.02, help="eV/Å, where these end (default: %(default)s)")
    _add_seed_and_jobs(frames)
    frames.add_argument("--out", required=True, metavar="FILE-frames.npz", help="file to write")

    convert = command("convert", "write structures in another format", "Read anything, write one file.", run_convert)
    _add_files(convert)
    convert.add_argument("--out", required=True, metavar="FILE", help="any format that ASE writes")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="file, folder, table, database or shipped set")
    parser.add_argument("--cif-column", metavar="NAME", help="column of CSV tables with CIF text; found if not given")
    parser.add_argument(
        "--parents",
        choices=("id", "file", "formula"),
        default="id",
        help="what counts as one crystal where files don't say: each structure, each file (for trajectories), or each "
        "reduced formula (default: %(default)s)",
    )


def _add_seed_and_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="decides all that is random (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def run_generate(args: argparse.Namespace) -> int:
    """Draw crystals."""
    crystals = generate(args, progress_bars)
    print(f"{args.out}: {_summary(crystals)}")
    return 0


def run_minimize(args: argparse.Namespace) -> int:
    """Relax crystals to true minima; exit status 1 if some of them lead to none."""
    from relaxrl.config import from_dict
    from relaxrl.structures.jobs import worker_pool
    from relaxrl.structures.minima import MinimumConfig
    from relaxrl.structures.minimize import search_minima
    from relaxrl.structures.write import check_writable

    crystals = _read(args)
    check_writable(args.out, crystals)
    settings = {name: getattr(args, name) for name in ("rattle", "cell", "check")}
    settings["fmax"] = {"hessian": 1e-4, "rattle": 2e-3}[args.check] if args.fmax is None else args.fmax
    config = from_dict(MinimumConfig, settings, source="options")
    with worker_pool(args.jobs) as executor, progress_bars() as progress, sigterm_as_ctrl_c():
        made = search_minima(crystals, args.calculator, config, args.seed, executor)
        tracked = progress.track(made, total=len(crystals), description="minima")
        found = collected(tracked, len(crystals), args.out, args.files, partial(_write_minima, crystals))
    print(_write_minima(crystals, args.out, found))
    return 1 if any(isinstance(outcome, str) for outcome in found.values()) else 0


def _write_minima(crystals: list[Crystal], out: str, found: dict[int, Crystal | str]) -> str:
    """Name what was left out, write the others in order of the crystals, and say what was written."""
    from relaxrl.structures.write import write_structures

    minima = []
    for number, outcome in sorted(found.items(), key=lambda item: item[0]):
        if isinstance(outcome, str):
            print(f"{crystals[number].id}: {outcome}; left out")
        else:
            minima.append(outcome)
    if not minima:
        return f"{out}: not written, there are no minima"
    write_structures(out, minima)
    return f"{out}: {_summary(minima)}"


def run_inspect(args: argparse.Namespace) -> int:
    """Show what is in files."""
    from relaxrl.errors import StructureError
    from relaxrl.potentials import parse_calculator
    from relaxrl.structures.curvature import surface
    from relaxrl.structures.describe import describe

    if args.hessian and not args.calculator:
        raise StructureError("--hessian needs forces: name a --calculator as well")
    crystals = _read(args)
    surfaces: dict[str, tuple[Calculator, HessianFunction | None]] = {}
    if args.calculator:
        spec = parse_calculator(args.calculator)
        for crystal in crystals:
            spec.check(crystal.atoms, crystal.id)
            name = spec.of(crystal.atoms, crystal.id).text
            if name not in surfaces:
                calculator, hessian = surface(name)
                surfaces[name] = calculator, hessian if args.hessian else None
    descriptions = []
    with progress_bars() as progress:
        for crystal in progress.track(crystals, description="structures"):
            own = surfaces[spec.of(crystal.atoms, crystal.id).text] if args.calculator else (None, None)
            descriptions.append(describe(crystal, *own))
    _print_table(descriptions[: args.rows])
    if len(descriptions) > args.rows:
        print(f"... and {len(descriptions) - args.rows} more (--rows shows more of them)")
    print(_summary(crystals))
    for remark, count in Counter(remark for one in descriptions for remark in one.remarks[:1]).most_common(5):
        print(f"  {count} x {remark}")
    if args.hessian:
        counts = Counter(one.stationary for one in descriptions)
        print("  " + ", ".join(f"{count} x {name}" for name, count in counts.most_common()))
    return 0


def run_split(args: argparse.Namespace) -> int:
    """Split by parent crystal."""
    from relaxrl.errors import StructureError
    from relaxrl.seeding import Generators
    from relaxrl.structures import split_by_parent

    shares = {}
    for part in args.parts.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError as error:
            raise StructureError(
                f"--parts: expected NAME=SHARE,..., such as train=0.8,test=0.2, got {part!r}"
            ) from error
    try:
        parts = split_by_parent(_read(args), shares, Generators(args.seed).numpy("split"))
    except ValueError as error:
        raise StructureError(f"--parts: {error}") from error
    for name, crystals in parts.items():
        file = Path(args.out) / f"{name}.extxyz"
        if crystals:
            _write(file, crystals)
        print(f"{file}: {_summary(crystals) if crystals else 'not written, no parent is left for it'}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write structures in another format."""
    crystals = _read(args)
    _write(args.out, crystals)
    print(f"{args.out}: {_summary(crystals)}")
    return 0


def _read(args: argparse.Namespace) -> list[Crystal]:
    from relaxrl.structures import read_structures

    return read_structures(args.files, parents=args.parents, cif_column=args.cif_column)


def _write(out: str | Path, crystals: list[Crystal]) -> None:
    """Write structures, and say in one line which constraints the format does not hold."""
    from relaxrl.structures.write import ConstraintsLostWarning, write_structures

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConstraintsLostWarning)
        write_structures(out, crystals)
    for one in said:
        if issubclass(one.category, ConstraintsLostWarning):
            print(f"relaxrl: {one.message}", file=sys.stderr)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _summary(crystals: list[Crystal]) -> str:
    sizes = [len(crystal.atoms) for crystal in crystals]
    elements = sorted({symbol for crystal in crystals for symbol in crystal.atoms.symbols})
    kinds = Counter(crystal.kind for crystal in crystals)
    named = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    parents = len({crystal.parent for crystal in crystals})
    return (
        f"{len(crystals)} structures ({named}) of {parents} parents, {min(sizes)} to {max(sizes)} atoms, "
        f"elements {' '.join(elements)}"
    )


def _print_table(descriptions: list[Description]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("structure", "formula"):
        table.add_column(heading, overflow="fold")
    for heading in ("atoms", "g/cm³", "closest Å", "fmax eV/Å"):
        table.add_column(heading, justify="right")
    table.add_column("remarks", overflow="fold")
    for one in descriptions:
        remarks = [one.stationary or one.kind, *one.remarks]
        table.add_row(
            one.id,
            one.formula,
            str(one.n_atoms),
            "" if one.density is None else f"{one.density:.2f}",
            f"{one.closest[0]:.2f}",
            "" if one.fmax is None else f"{one.fmax:.4g}",
            "; ".join(remarks),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=max([_PIPED_WIDTH, *(len(one.id) + 100 for one in descriptions)]))
    console.print(table)
