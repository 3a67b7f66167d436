"""`relaxrl relax`: relax the structures of a file with an agent."""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaxrl.cli.interrupts import is_read, sigterm_as_ctrl_c
from relaxrl.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from relaxrl.optimize import RelaxCell
    from relaxrl.optimize.campaign import Campaign, Relaxed
    from relaxrl.potentials import CalculatorSpec
    from relaxrl.structures import Crystal
    from relaxrl.training import OnlineLearning

DESCRIPTION = """\
Relax all structures of FILE with an agent, and write them, in the same order, with energies and forces where the format
holds them. Constraints that FILE holds (fixed atoms) are respected; the cell stays as it is, unless --cell is given. An
agent that makes no progress hands over to a quasi-Newton method, so the result is a minimum in any case, or an error.

Each structure that is done is remembered in OUT.journal until OUT is written: the same command goes on after a kill,
and relaxes nothing twice. What failed is listed at the end, with reasons.

Exit status: 0 if all structures converged, 1 if not (they are written as far as they came), 2 for bad input.
"""

EPILOG = """\
An OUT that exists is replaced, at once and only when all is done. After Ctrl-C, too, the structures are written as far
as they came, but not where FILE is read from. The format of OUT follows from its name: all that ASE writes, databases
(results.db) included.

examples:
  relaxrl relax POSCAR --agent metals --calculator emt --out CONTCAR
  relaxrl relax start.cif --agent runs/mine --calculator mypackage.calc:MyCalculator --fmax 0.05 --out relaxed.extxyz
  relaxrl relax one.extxyz --agent none --calculator lj,sigma=2.5 --out relaxed.extxyz --log -
  relaxrl relax start.cif --calculator mypackage.calc:MyCalculator --cell --out relaxed.cif
  relaxrl relax slab.extxyz --calculator emt --cell --free xx,yy,xy --smax 0.001 --out relaxed.extxyz
  relaxrl relax thousands/ --calculator mypackage.calc:MyCalculator --workers 8 --out relaxed.db --table relaxed.csv
  relaxrl relax hundreds/ --calculator mypackage.calc:MyCalculator --learn --out relaxed.extxyz
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `relaxrl`."""
    parser = subparsers.add_parser(
        "relax",
        help="relax structures with an agent",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="structures: a file in any format that ASE reads, or a folder")
    parser.add_argument(
        "--agent",
        default="auto",
        metavar="NAME_OR_PATH",
        help="a shipped agent, a run or a model folder; `none` for the quasi-Newton method alone; `,verifier=on` "
        "after it lets the agent's energy over actions choose its steps (default: auto, for each structure the shipped "
        "agent that was trained on all of its elements, none where there is no such agent)",
    )
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="emt, lj, eam:FILE, chgnet, lammps:FILE, ... or package.module:Class, with arguments as in lj,sigma=2.5; "
        "`stored` for the one that each structure of a set names",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="OUT", help="file for the relaxed structures")
    parser.add_argument("--fmax", type=float, default=0.01, help="converged below this force, eV/Å (default: 0.01)")
    parser.add_argument("--steps", type=int, default=500, help="limit of each relaxation (default: 500)")
    cell = parser.add_argument_group("variable cells")
    cell.add_argument("--cell", action="store_true", help="relax cells, too; of slabs, their periodic directions")
    cell.add_argument("--free", metavar="XX,YY,...", help="strains that are free, of xx,yy,zz,yz,xz,xy (default: all)")
    cell.add_argument("--hydrostatic", action="store_true", help="change the size of cells, not their shape")
    cell.add_argument("--constant-volume", action="store_true", help="change the shape of cells, not their size")
    cell.add_argument("--pressure", type=float, metavar="P", help="from outside, eV/Å³ (default: 0; 1 GPa is 0.00624)")
    cell.add_argument(
        "--smax",
        type=float,
        metavar="S",
        help="converged when no stress exceeds it, eV/Å³ (default: as ASE's cell filters count it, stress times volume "
        "over the number of atoms below --fmax)",
    )
    learn = parser.add_argument_group("learning on the way", "see docs/finetuning.md")
    learn.add_argument(
        "--learn",
        action="store_true",
        help="improve the agent by what is done, for what is not; the improved one is saved in OUT.agent",
    )
    learn.add_argument("--learn-every", type=int, metavar="N", help="after this many structures (default: 10)")
    learn.add_argument("--learn-updates", type=int, metavar="N", help="updates each time (default: 60)")
    learn.add_argument("--learn-seconds", type=float, metavar="T", help="longest time each time (default: 60)")
    learn.add_argument("--learn-replay", metavar="FILE", help="frames of the agent's own training, as in finetune")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="relaxations side by side (default: 1)")
    parser.add_argument("--restart", action="store_true", help="forget what an interrupted run has done")
    parser.add_argument("--table", type=Path, metavar="CSV", help="one row per structure: outcome, evaluations, reason")
    parser.add_argument(
        "--log", metavar="LOG", help="log of each step, as ASE's optimizers write it; - for the terminal"
    )
    parser.add_argument("--trajectory", type=Path, metavar="TRAJ", help="ASE trajectory of all accepted geometries")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Relax and write; returns 0 if all structures converged, else 1."""
    from relaxrl.optimize.campaign import Campaign, Conditions
    from relaxrl.optimize.policy import check_size, load_policy, untrained_elements
    from relaxrl.potentials import parse_calculator
    from relaxrl.structures import read_structures
    from relaxrl.structures.write import unheld_constraints

    _check_arguments(args)
    cell = _cell(args)
    spec = parse_calculator(args.calculator)
    crystals = read_structures(args.file)
    _check_room(args.out, len(crystals))
    if lost := unheld_constraints(args.out, [crystal.atoms for crystal in crystals]):
        print(f"relaxrl: {lost}", file=sys.stderr)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
    agent = None if args.agent == "none" else args.agent
    learning = _learning(args)
    if learning is not None and agent == "auto":
        agent = _one_agent(crystals)
    policy = None if agent == "auto" else load_policy(agent)
    for crystal in crystals:
        check_size(policy, len(crystal.atoms), crystal.id)
    if agent == "auto":
        print(_choice(crystals), flush=True)
    if cell is not None:
        _check_cells(crystals, cell, spec)
    if note := untrained_elements(policy, {symbol for crystal in crystals for symbol in crystal.atoms.symbols}):
        print(f"relaxrl: {note}", file=sys.stderr)
    options = {"logfile": args.log}
    if args.trajectory is not None:
        options |= {"trajectory": args.trajectory, "append_trajectory": True}
    journal = args.out.with_name(f"{args.out.name}.journal")
    if args.restart:
        journal.unlink(missing_ok=True)
    structures = [(crystal.id, crystal.atoms) for crystal in crystals]
    campaign = Campaign(structures, Conditions(agent, spec, args.fmax, args.steps, cell), journal, learning)
    n_before = len(structures) - len(campaign.waiting)
    if args.trajectory is not None and not n_before:
        args.trajectory.unlink(missing_ok=True)
    if n_before:
        print(f"{n_before} of {len(structures)} were done before, see {journal}")
    if args.workers > 1:
        print(f"relaxing {len(structures) - n_before} structures, {args.workers} side by side", flush=True)
    with sigterm_as_ctrl_c():
        try:
            for number, done in enumerate(campaign.run(args.workers, **options), start=n_before + 1):
                print(_line(done, number, len(structures)), flush=True)
                if learning is not None and learning.rounds and learning.rounds[-1].taken == number:
                    print(learning.rounds[-1].text, flush=True)
        except KeyboardInterrupt:
            if is_read(args.out, [args.file]):
                kept = f"what is done is in {journal}, {args.file} is as it was"
            else:
                _write(args.out, campaign)
                kept = f"the structures as far as they came are in {args.out}"
            print(f"relaxrl: {kept}; the same command goes on", file=sys.stderr)
            raise
    _write(args.out, campaign)
    if args.table is not None:
        _write_table(args.table, campaign)
    journal.unlink(missing_ok=True)
    if learning is not None:
        learning.finish()
        print(_learned(learning))
    return _conclude(args, campaign)


def _choice(crystals: Sequence[Crystal]) -> str:
    """Which agents relax what, in one line."""
    from relaxrl.agents import default_agent

    counts: Counter[str | None] = Counter()
    foreign: set[str] = set()
    for crystal in crystals:
        symbols = set(crystal.atoms.symbols)
        name = default_agent(symbols)
        counts[name] += 1
        if name is None:
            foreign |= {symbol for symbol in symbols if default_agent([symbol]) is None} or symbols
    parts = [f"{name} for {number} of {len(crystals)}" for name, number in counts.items() if name is not None]
    if counts[None]:
        parts.append(
            f"none for {counts[None]} of {len(crystals)} (no shipped agent was trained on {' '.join(sorted(foreign))}; "
            "the quasi-Newton method alone relaxes them)"
        )
    return f"agent: {', '.join(parts)}"


def _learning(args: argparse.Namespace) -> OnlineLearning | None:
    """What improves the agent on the way."""
    given = {
        "every": args.learn_every,
        "updates": args.learn_updates,
        "seconds": args.learn_seconds,
        "replay": args.learn_replay,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if not args.learn:
        if given:
            raise ConfigError(f"--learn-{next(iter(given))} is about learning on the way; add --learn")
        return None
    from relaxrl.training import OnlineLearning

    return OnlineLearning(args.out.with_name(f"{args.out.name}.agent"), **given)


def _one_agent(crystals: Sequence[Crystal]) -> str:
    """The agent that suits all structures, since one learns from all."""
    from relaxrl.agents import default_agent
    from relaxrl.training.finetuning.origin import which_can_learn

    symbols = {symbol for crystal in crystals for symbol in crystal.atoms.symbols}
    name = default_agent(symbols)
    if name is None:
        raise ConfigError(
            f"no shipped agent was trained on all of {' '.join(sorted(symbols))}; say with --agent which one is to "
            f"learn, {which_can_learn()}"
        )
    return name


def _check_cells(crystals: Sequence[Crystal], cell: RelaxCell, spec: CalculatorSpec) -> None:
    """Refuse cells that can't strain, and calculators without stress, before anything is written."""
    from relaxrl.structures.check import check_strainable

    check_strainable(crystals, spec)
    for crystal in crystals:
        try:
            cell.directions(crystal.atoms.cell.array, crystal.atoms.pbc)
        except StructureError as error:
            raise StructureError(f"{crystal.id}: {error}") from error


def _check_arguments(args: argparse.Namespace) -> None:
    """Find out now, not after hours of relaxation, what can't work."""
    if not args.fmax > 0 or args.steps < 0:
        raise ConfigError(f"expected --fmax > 0 and --steps >= 0, got {args.fmax} and {args.steps}")
    if args.workers < 1:
        raise ConfigError(f"expected --workers >= 1, got {args.workers}")
    if args.workers > 1 and (args.log is not None or args.trajectory is not None):
        raise ConfigError("--log and --trajectory are for one relaxation after the other; leave them out or --workers")
    _check_output(args.out)
    log = None if args.log in (None, "-") else Path(args.log)
    for option, file in (("--table", args.table), ("--log", log), ("--trajectory", args.trajectory)):
        if file is not None and not file.parent.is_dir():
            raise StructureError(f"{option} {file}: folder {file.parent} does not exist; create it first")


def _line(done: Relaxed, number: int, total: int) -> str:
    """What the user reads of one relaxation."""
    place = f" [{number}/{total}]" if total > 1 else ""
    ending = done.reason
    if done.atoms.calc is not None:
        ending += f", fmax {done.fmax:.4g} eV/Å, energy {done.atoms.get_potential_energy():.6f} eV"
    if done.note:
        ending += f"; {done.note}"
    formula = done.atoms.get_chemical_formula()
    plural = "" if done.force_evaluations == 1 else "s"
    return f"{done.name} {formula}: {done.force_evaluations} force evaluation{plural}, {ending}{place}"


def _learned(learning: OnlineLearning) -> str:
    """What the user reads of the agent in the end."""
    if learning.version:
        return f"the agent as it has become: {learning.folder}"
    stays = "the agent stayed as it was"
    if learning.folder is not None and learning.folder.exists():
        stays += f"; {learning.folder} is from another campaign"
    return stays


def _conclude(args: argparse.Namespace, campaign: Campaign) -> int:
    """The last lines, and the exit status."""
    results = [done for done in campaign.results if done is not None]
    failed = [done for done in results if not done.converged]
    if failed and len(results) > 1:
        print("not converged:")
        for done in failed:
            print(f"  {done.name}: {done.reason}")
    evaluations = sum(done.force_evaluations for done in results)
    print(f"{len(results) - len(failed)} of {len(results)} converged in {evaluations} evaluations; wrote {args.out}")
    return 1 if failed else 0


def _cell(args: argparse.Namespace) -> RelaxCell | None:
    """What of the cells relaxes."""
    from relaxrl.config import from_dict
    from relaxrl.optimize import RelaxCell

    names = ("xx", "yy", "zz", "yz", "xz", "xy")
    given = (args.free, args.hydrostatic, args.constant_volume, args.pressure, args.smax)
    if not args.cell:
        if any(value not in (None, False) for value in given):
            raise ConfigError(
                "--free, --hydrostatic, --constant-volume, --pressure and --smax are about cells; add --cell"
            )
        return None
    free = names if args.free is None else tuple(name.strip() for name in args.free.split(","))
    if unknown := [name for name in free if name not in names]:
        raise ConfigError(f"--free {args.free}: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    settings = {
        "mask": [name in free for name in names],
        "hydrostatic_strain": args.hydrostatic,
        "constant_volume": args.constant_volume,
        "scalar_pressure": args.pressure or 0.0,
        "smax": args.smax,
    }
    return from_dict(RelaxCell, settings, source="--cell")


def _check_output(out: Path) -> None:
    """Find out now, not after hours of relaxation, that the result can't be written."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    if not out.parent.is_dir():
        raise StructureError(f"--out {out}: folder {out.parent} does not exist; create it first")
    if out.is_dir():
        raise StructureError(f"--out {out}: expected a file, got a folder")
    try:
        known = ioformats[filetype(str(out), read=False)].can_write
    except (UnknownFileTypeError, KeyError):
        known = False
    if not known:
        raise StructureError(f"--out {out}: can't tell a format from this name; try one such as relaxed.extxyz")


def _check_room(out: Path, n_structures: int) -> None:
    """Find out now that the format holds one structure, where there are more."""
    from ase.io.formats import filetype, ioformats

    if n_structures > 1 and ioformats[filetype(str(out), read=False)].single:
        raise StructureError(
            f"--out {out}: this format holds one structure, got {n_structures}; try one that holds several, such as "
            "relaxed.extxyz"
        )


def _write(out: Path, campaign: Campaign) -> None:
    """Write all structures to a file that appears complete or not at all.

    Raises:
        StructureError: The format can't hold them.
    """
    import ase.io
    from ase.db import connect

    from relaxrl.structures.write import database_row

    structures = campaign.structures_as_they_are()
    # In a folder of its own, under its own name: from that ASE knows the format.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".relaxrl-") as folder:
        part = Path(folder) / out.name
        try:
            if out.suffix == ".db":
                with connect(part) as database:
                    for (name, _), atoms, done in zip(campaign.structures, structures, campaign.results, strict=True):
                        pairs, data = database_row(atoms.info)
                        database.write(atoms, pairs | {"structure": name} | _outcome(done), data)
            else:
                ase.io.write(part, structures if len(structures) > 1 else structures[0])
        except Exception as error:  # writers of dozens of formats raise whatever they like
            raise StructureError(
                f"--out {out}: this format can't hold the {len(structures)} structures ({type(error).__name__}: "
                f"{error}); try relaxed.extxyz"
            ) from error
        part.replace(out)


def _outcome(done: Relaxed | None) -> dict[str, Any]:
    """What a database or a table says of a relaxation."""
    if done is None:
        return {"converged": False, "reason": "not done", "force_evaluations": 0}
    return {"converged": done.converged, "reason": done.reason, "force_evaluations": done.force_evaluations}


def _write_table(path: Path, campaign: Campaign) -> None:
    """One row per structure."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["structure", "formula", "natoms", "converged", "reason", "force_evaluations", "fmax", "energy", "seconds"]
    )
    for done in campaign.results:
        if done is not None:
            atoms = done.atoms
            energy = "" if atoms.calc is None else f"{atoms.get_potential_energy():.9g}"
            row = [done.name, atoms.get_chemical_formula(), len(atoms), done.converged, done.reason]
            table.writerow([*row, done.force_evaluations, f"{done.fmax:.6g}", energy, f"{done.seconds:.4g}"])
    from relaxrl.checkpoint import write_atomically

    write_atomically(path, text.getvalue().encode())
