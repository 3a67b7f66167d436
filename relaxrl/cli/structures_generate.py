"""`relaxrl structures generate`: draw crystals of any kind that recipes know, without relaxing them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from relaxrl.structures import Crystal
    from relaxrl.structures.draw import Drawable

GENERATE = """\
Draw crystals, of one of three kinds:

  alloys      a structure type, a supercell of random shape, elements, strain, perhaps a vacancy. Types with one species
              (fcc, hcp, bcc) are decorated at random, ordered ones (L1_2, L1_0, B2, D0_3, C15, ...) keep their order
  compounds   prototypes of AFLOW and minerals with other elements: rule=any, rule=charges or rule=similar
  random      cells of given compositions with atoms thrown in and pushed apart: formulas=[SrTiO3,Y2O3]

key=value sets any key that such a group has in a recipe (docs/structures.md). The crystals are not relaxed;
`relaxrl structures minimize` and `relaxrl relax` do that.
"""

_PATIENCE = 20
"""Draws per crystal wanted: some have no volume of lowest energy under a calculator."""

_STRAIN = 0.03
_VACANCIES = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the kind, as in recipes")
    parser.add_argument("--kind", choices=("alloys", "compounds", "random"), default="alloys", help="default: alloys")
    parser.add_argument("--elements", metavar="A,B,...", help="symbols to draw from; needed for alloys, not for random")
    parser.add_argument("--prototypes", metavar="P,...", help="default: fcc,hcp,bcc for alloys, all for compounds")
    parser.add_argument("--atoms", metavar="MIN-MAX", help="sizes of cells (default: 4-16 for alloys)")
    parser.add_argument("--strain", type=float, help=f"largest component (default: {_STRAIN}; not for random)")
    parser.add_argument("--vacancies", type=float, help=f"share with a vacancy (default: {_VACANCIES} for alloys)")
    parser.add_argument("--rattle", type=float, help="Å, displacement (default: 0; not for random)")
    parser.add_argument("--count", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument(
        "--calculator",
        metavar="NAME",
        help="use its equilibrium volumes, not those of the elements; random ones keep theirs",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", required=True, metavar="FILE", help="any format that ASE writes")


def generate(args: argparse.Namespace, progress: Callable[[], AbstractContextManager[Progress]]) -> list[Crystal]:
    """Draw crystals and write them; returns them.

    Raises:
        StructureError: Nothing can be drawn, or too little.
    """
    from relaxrl.errors import StructureError
    from relaxrl.structures.write import check_format, make_folder_of, write_structures

    if args.count < 1:
        raise StructureError(f"--count: expected at least 1, got {args.count}")
    config = _config(args)
    check_format(args.out, args.count)
    make_folder_of(args.out)
    with progress() as bar:
        crystals = list(bar.track(_draws(args, config), total=args.count, description=args.kind))
    write_structures(args.out, crystals)
    return crystals


def _draws(args: argparse.Namespace, config: Drawable) -> Iterator[Crystal]:
    from ase import Atoms

    from relaxrl.errors import StructureError
    from relaxrl.potentials import parse_calculator
    from relaxrl.seeding import Generators
    from relaxrl.structures import Crystal
    from relaxrl.structures.archive import PROTOTYPE_KEY
    from relaxrl.structures.draw import SOURCE_KEY, draw, elements_of

    draw(config, Generators(args.seed).numpy("trial"))  # what can't be drawn at all is an error, not a lost draw
    calculator = None
    if args.calculator:
        spec = parse_calculator(args.calculator)
        spec.check(Atoms(elements_of(config)), "elements to draw from")
        calculator = spec.create()
    generator = Generators(args.seed).numpy(args.kind)
    made = 0
    for _ in range(_PATIENCE * args.count):
        try:
            drawn = draw(config, generator, calculator)
        except StructureError as error:
            last = error
            continue
        drawn.atoms.info[PROTOTYPE_KEY] = drawn.prototype
        if drawn.source:
            drawn.atoms.info[SOURCE_KEY] = drawn.source
        yield Crystal(f"{args.out}#{made}", drawn.atoms, drawn.parent, "start")
        made += 1
        if made == args.count:
            return
    raise StructureError(
        f"{_PATIENCE * args.count} draws gave {made} of {args.count} crystals; the last failed: {last}"
    )


def _config(args: argparse.Namespace) -> Drawable:
    from relaxrl.config import from_dict
    from relaxrl.errors import StructureError
    from relaxrl.structures import AlloyConfig, CompoundConfig, RandomCrystalConfig

    values: dict[str, Any] = {}
    if args.atoms is not None or args.kind == "alloys":
        smallest, _, largest = (args.atoms or "4-16").partition("-")
        if not smallest.isdigit() or not (largest or smallest).isdigit():
            raise StructureError(f"--atoms: expected MIN-MAX, such as 4-16, got {args.atoms!r}")
        values |= {"min_atoms": int(smallest), "max_atoms": int(largest or smallest)}
    if args.kind == "random":
        _refuse_ignored(args)
        return from_dict(RandomCrystalConfig, values, args.overrides, source="options")
    values |= {"strain": _STRAIN if args.strain is None else args.strain, "rattle": args.rattle or 0.0}
    if args.elements is not None:
        values["elements"] = args.elements.split(",")
    if args.prototypes is not None:
        values["prototypes"] = args.prototypes.split(",")
    if args.kind == "compounds":
        values |= {} if args.vacancies is None else {"vacancy_probability": args.vacancies}
        return from_dict(CompoundConfig, values, args.overrides, source="options")
    if args.elements is None:
        raise StructureError("--elements: alloys need symbols to draw from, such as --elements Al,Ni")
    values["vacancy_probability"] = _VACANCIES if args.vacancies is None else args.vacancies
    return from_dict(AlloyConfig, values, args.overrides, source="options")


def _refuse_ignored(args: argparse.Namespace) -> None:
    """Refuse options that random crystals make no use of."""
    from relaxrl.errors import StructureError

    hints = {
        "elements": "their compositions are formulas=[SrTiO3,Y2O3]",
        "prototypes": "they have none",
        "strain": "their cells are random anyway, see angles=[60,120] and max_elongation=2",
        "vacancies": "say it in formulas=[...]",
        "rattle": "their atoms are at random places anyway",
    }
    for name, hint in hints.items():
        if getattr(args, name) is not None:
            raise StructureError(f"--{name}: random crystals make no use of it: {hint}; leave it out")
