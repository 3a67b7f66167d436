"""`relaxrl relax`: relax the structures of a file with an agent."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaxrl.errors import CalculatorError, ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

    from relaxrl.optimize import Policy
    from relaxrl.potentials import CalculatorSpec

DESCRIPTION = """\
Relax all structures of FILE with an agent, and write them, in the same order, with energies and forces where the format
holds them. Constraints that FILE holds (fixed atoms) are respected; the cell stays as it is. An agent that makes no
progress hands over to a quasi-Newton method, so the result is a minimum in any case, or an error.

Exit status: 0 if all structures converged, 1 if not (they are written as far as they came), 2 for bad input.
"""

EPILOG = """\
An OUT that exists is replaced, at once and only when all is done. After Ctrl-C, too, the structures are written as far
as they came. The format of OUT follows from its name.

examples:
  relaxrl relax POSCAR --agent metals --calculator emt --out CONTCAR
  relaxrl relax start.cif --agent runs/mine --calculator mypackage.calc:MyCalculator --fmax 0.05 --out relaxed.extxyz
  relaxrl relax many.extxyz --agent none --calculator lj,sigma=2.5 --out relaxed.extxyz --log -
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
    parser.add_argument("file", metavar="FILE", help="structures, in any format that ASE reads")
    parser.add_argument(
        "--agent",
        default="metals",
        metavar="NAME_OR_PATH",
        help="a shipped agent, a run or a model folder; `none` for the quasi-Newton method alone; `,verifier=on` "
        "after it lets the agent's energy over actions choose its steps (default: metals)",
    )
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="emt, lj, eam:FILE, ... or package.module:Class, with arguments as in lj,sigma=2.5",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="OUT", help="file for the relaxed structures")
    parser.add_argument("--fmax", type=float, default=0.01, help="converged below this force, eV/Å (default: 0.01)")
    parser.add_argument("--steps", type=int, default=500, help="limit of each relaxation (default: 500)")
    parser.add_argument(
        "--log", metavar="LOG", help="log of each step, as ASE's optimizers write it; - for the terminal"
    )
    parser.add_argument("--trajectory", type=Path, metavar="TRAJ", help="ASE trajectory of all accepted geometries")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Relax and write; returns 0 if all structures converged, else 1."""
    from relaxrl.optimize.policy import check_size, load_policy, untrained_elements
    from relaxrl.potentials import parse_calculator
    from relaxrl.structures import read_structures

    if not args.fmax > 0 or args.steps < 0:
        raise ConfigError(f"expected --fmax > 0 and --steps >= 0, got {args.fmax} and {args.steps}")
    _check_output(args.out)
    spec = parse_calculator(args.calculator)
    crystals = read_structures(args.file)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
    policy = None if args.agent == "none" else load_policy(args.agent)
    for crystal in crystals:
        check_size(policy, len(crystal.atoms), crystal.id)
    if note := untrained_elements(policy, {symbol for crystal in crystals for symbol in crystal.atoms.symbols}):
        print(f"relaxrl: {note}", file=sys.stderr)
    if args.trajectory is not None:
        args.trajectory.unlink(missing_ok=True)
    results = [crystal.atoms.copy() for crystal in crystals]
    n_converged = 0
    try:
        for crystal, atoms in zip(crystals, results, strict=True):
            n_converged += _relax(crystal.id, atoms, policy, spec, args)
    except KeyboardInterrupt:
        _write(args.out, results)
        print(f"relaxrl: the structures as far as they came are in {args.out}", file=sys.stderr)
        raise
    _write(args.out, results)
    print(f"{n_converged} of {len(results)} converged; wrote {args.out}")
    return 0 if n_converged == len(results) else 1


def _relax(name: str, atoms: Atoms, policy: Policy | None, spec: CalculatorSpec, args: argparse.Namespace) -> bool:
    """Relax in place and print one line; whether it converged. Energy and forces stay with the atoms."""
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from relaxrl.optimize import RLOptimizer, UntrainedElementWarning
    from relaxrl.potentials import CountedCalculator

    atoms.calc = CountedCalculator(spec.create(), structure=name)
    converged, ending, optimizer = False, "not converged", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedElementWarning)  # said once for the whole file
            optimizer = RLOptimizer(
                atoms, agent=policy, logfile=args.log, trajectory=args.trajectory, append_trajectory=True
            )
        converged = optimizer.run(fmax=args.fmax, steps=args.steps)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        fmax = np.linalg.norm(atoms.get_forces(), axis=1).max()
        ending = f"{'converged' if converged else 'not converged'}, fmax {fmax:.4g} eV/Å, energy {energy:.6f} eV"
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    except CalculatorError as error:
        ending = str(error)
        atoms.calc = None
    except BaseException:
        atoms.calc = None  # the file is still to be written
        raise
    count = 0 if optimizer is None else optimizer.force_evaluations
    if optimizer is not None and converged and optimizer.calculator_failures:
        ending += (
            f"; {optimizer.calculator_failures} of the evaluations failed, cured by shorter steps "
            f"({optimizer.last_failure})"
        )
    print(f"{name} {atoms.get_chemical_formula()}: {count} force evaluations, {ending}")
    return converged


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


def _write(out: Path, structures: list[Atoms]) -> None:
    """Write all structures to a file that appears complete or not at all.

    Raises:
        StructureError: The format can't hold them.
    """
    import ase.io

    # In a folder of its own, under its own name: from that ASE knows the format.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".relaxrl-") as folder:
        part = Path(folder) / out.name
        try:
            ase.io.write(part, structures if len(structures) > 1 else structures[0])
        except Exception as error:  # writers of dozens of formats raise whatever they like
            raise StructureError(
                f"--out {out}: this format can't hold the {len(structures)} structures ({type(error).__name__}: "
                f"{error}); try relaxed.extxyz"
            ) from error
        part.replace(out)
