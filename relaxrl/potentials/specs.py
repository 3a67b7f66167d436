"""Calculators by name or import path, made by a factory that pickles."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import get_calculator_class
from ase.calculators.names import names as ase_names

from relaxrl.errors import CalculatorError
from relaxrl.potentials.arguments import nearest, split_arguments, warn_of_unknown_arguments
from relaxrl.potentials.ase_potential import ASEPotential
from relaxrl.potentials.base import Potential
from relaxrl.potentials.drawn import DrawnStillingerWeber, DrawnTersoff
from relaxrl.potentials.eam import EAM
from relaxrl.potentials.emt import EMT
from relaxrl.potentials.lammps_files import read_lammps_file
from relaxrl.potentials.lennard_jones import LennardJones
from relaxrl.potentials.machine_learned import MPTRJ_ELEMENTS, sevennet_elements
from relaxrl.potentials.morse import Morse
from relaxrl.potentials.parameter_files import find_parameter_file
from relaxrl.potentials.pmmcs import PMMCS
from relaxrl.potentials.stillinger_weber import StillingerWeber
from relaxrl.potentials.tersoff import Tersoff
from relaxrl.potentials.torch_calculator import TorchCalculator
from relaxrl.potentials.torch_potential import TorchPotential, missing_elements

CALCULATOR_KEY = "relaxrl_calculator"
"""Key of `atoms.info` with the name of the calculator that a structure is a minimum of, or to be relaxed under."""

STORED = "stored"
"""Stands for the calculator that each structure names itself."""

_OWN = "relaxrl."
"""Import paths of this package: to look at them runs nobody else's code."""


@dataclass(frozen=True)
class _Named:
    """A calculator known by name.

    Attributes:
        arguments: Keyword arguments it takes.
        torch: The potential written in torch; None where there is none.
        torch_arguments: Those of the arguments that `torch` takes.
        ase: Import path of its ASE calculator; None where the torch potential serves as one.
        needs_file: Whether the name goes with a file, as `NAME:FILE`.
        elements: Atomic numbers it knows, from file and arguments, where there is no torch potential to ask.
    """

    arguments: tuple[str, ...]
    torch: Callable[..., TorchPotential] | None = None
    torch_arguments: tuple[str, ...] = ()
    ase: str | None = None
    needs_file: bool = False
    elements: Callable[..., frozenset[int] | None] | None = None


def _chgnet_elements(**_: Any) -> frozenset[int]:
    return MPTRJ_ELEMENTS


def _lammps_elements(file: str, **arguments: Any) -> frozenset[int]:
    return read_lammps_file(file, **arguments).elements


_LJ = ("sigma", "epsilon", "rc", "ro", "smooth")
_MORSE = ("epsilon", "rho0", "r0", "rcut1", "rcut2")
_EAM = ("form", "interpolation")
_MODEL = ("model", "device")
_PMMCS = ("cutoff", "coulomb_cutoff", "damping", "iron")
_NAMED = {
    "emt": _Named(("asap_cutoff",), EMT, (), ase="ase.calculators.emt:EMT"),
    "lj": _Named(_LJ, LennardJones, _LJ, ase="ase.calculators.lj:LennardJones"),
    "morse": _Named(_MORSE, Morse, _MORSE, ase="ase.calculators.morse:MorsePotential"),
    "pmmcs": _Named(_PMMCS, PMMCS, _PMMCS),
    "eam": _Named(_EAM, EAM, _EAM, needs_file=True),
    "sw": _Named(("elements",), StillingerWeber, ("elements",), needs_file=True),
    "drawn-sw": _Named(("elements", "seed"), DrawnStillingerWeber, ("elements", "seed")),
    "drawn-tersoff": _Named(("elements", "seed"), DrawnTersoff, ("elements", "seed")),
    "tersoff": _Named(("elements",), Tersoff, ("elements",), needs_file=True),
    "chgnet": _Named(_MODEL, ase="relaxrl.potentials.machine_learned:chgnet", elements=_chgnet_elements),
    "sevenn": _Named(_MODEL, ase="relaxrl.potentials.machine_learned:sevennet", elements=sevennet_elements),
    "lammps": _Named(
        ("style", "elements", "library"),
        ase="relaxrl.potentials.lammps_calculator:LammpsCalculator",
        needs_file=True,
        elements=_lammps_elements,
    ),
}


@dataclass(frozen=True)
class CalculatorSpec:
    """What calculator to make, as text and arguments; picklable, so that other processes can make it too.

    Attributes:
        target: A name (`emt`), a name with a file (`eam:FILE`), an import path (`package.module:Class`), or a class or
            function that makes calculators.
        arguments: Its keyword arguments.
    """

    target: str | Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def is_stored(self) -> bool:
        """Whether each structure names its own."""
        return self.target == STORED

    def of(self, atoms: Atoms, structure: str | None = None) -> CalculatorSpec:
        """The calculator of a structure: this one, or the one that the structure names where this is `stored`.

        Args:
            atoms: The structure; `info["relaxrl_calculator"]` is the name.
            structure: What messages call it; its formula if None.

        Raises:
            CalculatorError: It names none, or one that is unknown.
        """
        if not self.is_stored:
            return self
        name, where = atoms.info.get(CALCULATOR_KEY), structure or atoms.get_chemical_formula()
        if not isinstance(name, str) or not name or name == STORED:
            raise CalculatorError(
                f"{where}: calculator `{STORED}` is the one that each structure names in info[{CALCULATOR_KEY!r}], and "
                "this one names none; give a calculator for all, or take a set that `relaxrl structures make` made"
            )
        try:
            return parse_calculator(name)
        except CalculatorError as error:
            raise CalculatorError(f"{where}: {error}") from error

    @property
    def text(self) -> str:
        """Name and arguments as `parse_calculator` reads them."""
        return ",".join([self.name, *(f"{key}={value!r}" for key, value in self.arguments.items())])

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        if isinstance(self.target, str):
            return self.target
        return str(getattr(self.target, "__name__", self.target))

    def create(self) -> Any:
        """A new ASE calculator.

        Raises:
            CalculatorError: It can't be imported, or does not take the arguments.
        """
        self._require_one()
        factory = self._factory()
        try:
            made = factory(**self.arguments)
        except CalculatorError:
            raise
        except Exception as error:  # importing and making a calculator runs foreign code: anything may come
            given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items()) or "no arguments"
            raise CalculatorError(
                f"can't make the calculator `{self.name}` with {given}: {type(error).__name__}: {error}"
            ) from error
        if self._named is None:  # those of names were checked before
            warn_of_unknown_arguments(factory, self.arguments, self.name)
        return made

    def potential(self, workers: int = 0) -> Potential:
        """A potential for batches: the one written in torch where there is one, else the ASE calculator's.

        Args:
            workers: Processes for an ASE calculator; a torch potential needs none.

        Raises:
            CalculatorError: It does not take the arguments.
        """
        self._require_one()
        torch_potential = self._torch_potential()
        return ASEPotential(self, workers) if torch_potential is None else torch_potential

    def supports(self, numbers: Iterable[int]) -> bool:
        """Whether it knows all these elements; True where that can't be told without an evaluation."""
        elements = self.elements
        return elements is None or set(map(int, numbers)) <= elements

    def check(self, atoms: Atoms, structure: str | None = None) -> None:
        """Raise where the structure has an element without parameters.

        Args:
            atoms: The structure.
            structure: What the message calls it; its formula if None.

        Raises:
            CalculatorError: Names element, calculator and structure.
        """
        if self.is_stored:
            self.of(atoms, structure).check(atoms, structure)
            return
        elements = self.elements
        missing = set() if elements is None else set(map(int, atoms.numbers)) - elements
        if elements is not None and missing:
            where = structure or atoms.get_chemical_formula()
            raise CalculatorError(f"{missing_elements(f'calculator {self.name}', missing, elements)}; got {where}")

    @cached_property
    def elements(self) -> frozenset[int] | None:
        """Atomic numbers it knows; None where that can't be told without an evaluation.

        Raises:
            CalculatorError: Its file can't be read.
        """
        if self.is_stored:
            return None
        if self.target == "emt":  # with any argument
            return EMT().elements
        if self._named is not None and self._named.elements is not None:
            return self._named.elements(*self._file, **self.arguments)
        torch_potential = self._torch_potential()
        return None if torch_potential is None else torch_potential.elements

    def _require_one(self) -> None:
        if self.is_stored:
            raise CalculatorError(
                f"calculator `{STORED}` means each structure's own, and here one is needed for all; name one"
            )

    @property
    def _file(self) -> list[str]:
        """What follows a name that goes with a file."""
        needed = isinstance(self.target, str) and self._named is not None and self._named.needs_file
        return [str(self.target).partition(":")[2]] if needed else []

    @property
    def _named(self) -> _Named | None:
        return _NAMED.get(self.target.partition(":")[0]) if isinstance(self.target, str) else None

    def _factory(self) -> Callable[..., Any]:
        if not isinstance(self.target, str):
            return self.target
        if self._named is not None:
            return (
                self._torch_calculator if self._named.ase is None else partial(_imported(self._named.ase), *self._file)
            )
        if ":" in self.target:
            return _imported(self.target)
        try:
            factory: Callable[..., Any] = get_calculator_class(self.target)
        except (ImportError, AttributeError) as error:
            raise CalculatorError(f"can't import ASE's calculator `{self.target}`: {error}") from error
        return factory

    def _torch_calculator(self, **_: Any) -> TorchCalculator:
        return TorchCalculator(self.potential())

    def _torch_potential(self) -> TorchPotential | None:
        named = self._named
        if named is None and self._makes_torch_calculators():
            potential = self.create().potential
            return potential if isinstance(potential, TorchPotential) else None
        if named is None or named.torch is None or not set(self.arguments) <= set(named.torch_arguments):
            return None
        file = [find_parameter_file(file) for file in self._file]
        try:
            return named.torch(*file, **self.arguments)
        except (TypeError, ValueError) as error:
            raise CalculatorError(f"can't make the potential `{self.name}`: {error}") from error

    def _makes_torch_calculators(self) -> bool:
        """Whether the target is a class of this package's calculators, whose potential can be had without them."""
        factory = self.target
        if isinstance(factory, str) and factory.startswith(_OWN):
            factory = _imported(factory)
        return isinstance(factory, type) and issubclass(factory, TorchCalculator)


def parse_calculator(text: str | CalculatorSpec | Callable[..., Any], **arguments: Any) -> CalculatorSpec:
    """The calculator that `text` asks for.

    Args:
        text: `NAME`, `NAME:FILE` or `package.module:Class`, and then arguments: `lj,sigma=3.4,epsilon=0.01`. Values are
            Python literals; what is none is text. Names are those of this package, most of which come with a potential
            in torch, and those of ASE; `stored` stands for the one that each structure names. A class or function that
            makes calculators is taken as it is.
        **arguments: More keyword arguments of the calculator; they override those in `text`.

    Raises:
        CalculatorError: The name or an argument is unknown, or the text can't be read.

    Examples:
        >>> parse_calculator("lj,sigma=3.4,smooth=true", epsilon=0.01).arguments
        {'sigma': 3.4, 'smooth': True, 'epsilon': 0.01}
    """
    if isinstance(text, CalculatorSpec):
        return CalculatorSpec(text.target, text.arguments | arguments)
    if not isinstance(text, str):
        if not callable(text):
            raise CalculatorError(
                f"expected a calculator's name, an import path or a function that makes calculators, got {text!r}; "
                "a ready calculator can't be sent to other processes: pass its class"
            )
        return CalculatorSpec(text, arguments)
    target, given = split_arguments(text)
    spec = CalculatorSpec(target, given | arguments)
    name, _, file = target.partition(":")
    if target == STORED and spec.arguments:
        raise CalculatorError(f"calculator `{STORED}` takes no arguments: structures name their own, got {text!r}")
    if name in _NAMED:
        _check_file(name, file, _NAMED[name].needs_file)
        _check_arguments(name, spec.arguments, _NAMED[name].arguments)
    elif ":" not in target:
        _check_name(target)
    return spec


def calculator_names(torch_only: bool = False) -> list[str]:
    """The names of this package, as the user would write them.

    Args:
        torch_only: Only those that come with a potential written in torch.
    """
    named = {name: one for name, one in _NAMED.items() if one.torch is not None or not torch_only}
    return sorted(f"{name}:FILE" if one.needs_file else name for name, one in named.items())


def _check_name(name: str) -> None:
    if name not in _NAMED and name not in ase_names and name != STORED:
        raise CalculatorError(
            f"unknown calculator {name!r}{nearest(name, [*_NAMED, *ase_names])}; expected one of "
            f"{', '.join(calculator_names())}, a name that ASE knows, or an import path such as "
            "ase.calculators.emt:EMT, followed by arguments such as ,sigma=3.4"
        )


def _check_file(name: str, file: str, needed: bool) -> None:
    if needed and not file:
        raise CalculatorError(f"calculator `{name}` needs a file with its parameters: {name}:FILE")
    if file and not needed:
        raise CalculatorError(
            f"calculator `{name}` takes no file, got {file!r}; arguments follow a comma: {name},key=value"
        )


def _check_arguments(name: str, given: Collection[str], known: Collection[str]) -> None:
    # ASE's calculators take any keyword in silence.
    for key in given:
        if key not in known:
            raise CalculatorError(
                f"calculator `{name}` has no argument {key!r}{nearest(key, known)}; it takes {', '.join(known)}"
            )


def _imported(path: str) -> Callable[..., Any]:
    """The class or function at `package.module:name`.

    Raises:
        CalculatorError: There is none.
    """
    module_name, _, attribute = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the `relaxrl` command would not see a module that lies where it is called
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs foreign code: anything may come
        raise CalculatorError(f"can't import `{module_name}` of the calculator `{path}`: {error}") from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        public = [name for name, value in inspect.getmembers(module, callable) if not name.startswith("_")]
        file = f" ({Path(module.__file__).name})" if module.__file__ else ""
        raise CalculatorError(
            f"module `{module_name}`{file} has no {attribute!r}{nearest(attribute, public)}"
        ) from None
    if not callable(found):
        raise CalculatorError(f"`{path}` must be a class or a function that makes calculators, got {found!r}")
    made: Callable[..., Any] = found
    return made
