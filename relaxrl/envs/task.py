"""What is to be relaxed, and with what: the arguments that all views of the environment share, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms

from relaxrl.config import from_dict
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.errors import StructureError
from relaxrl.potentials import CalculatorSpec, parse_calculator
from relaxrl.structures import Crystal, read_structures
from relaxrl.structures.check import require_usable
from relaxrl.structures.crystal import KIND_KEY

Structures: TypeAlias = str | Path | Atoms | Crystal | Sequence[str | Path | Atoms | Crystal]
"""A name or path that `relaxrl.structures.read_structures` knows, ASE's `Atoms`, a crystal, or several of any of them.
Atoms are taken as they are, unless their `info["relaxrl_kind"]` says "minimum": then they are displaced at random."""

Calculator: TypeAlias = str | CalculatorSpec | Callable[..., Any]
"""A name that `relaxrl.potentials.parse_calculator` knows, such as "emt", or what makes an ASE calculator."""


@dataclass(frozen=True)
class Task:
    """Structures, calculator and options; picklable, so that each process makes a potential of its own.

    Attributes:
        crystals: Where episodes begin.
        calculator: How to make the calculator.
        config: Options of the environment.
        n_max: Number of atoms that arrays of fixed shape have room for.
    """

    crystals: Sequence[Crystal]
    calculator: CalculatorSpec
    config: EnvConfig
    n_max: int

    @classmethod
    def of(
        cls,
        structures: Structures,
        calculator: Calculator,
        config: EnvConfig | Mapping[str, Any] | None,
        n_max: Any,
    ) -> Task:
        """The task that a user's arguments ask for.

        Args:
            structures: See `Structures`.
            calculator: See `Calculator`.
            config: Options; as a mapping, keys of `EnvConfig`.
            n_max: That of the largest structure if None.

        Raises:
            StructureError: The structures can't be read, or one has more than `n_max` atoms.
            CalculatorError: There is no such calculator, or it does not know an element.
            ConfigError: The config has a wrong key or value.
        """
        crystals = _crystals(structures)
        options = config if isinstance(config, EnvConfig) else from_dict(EnvConfig, config or {}, source="config")
        largest = max(crystals, key=lambda crystal: len(crystal.atoms))
        room = len(largest.atoms) if n_max is None else n_max
        if not isinstance(room, int | np.integer) or isinstance(room, bool):
            raise StructureError(f"`n_max` must be a whole number of atoms or None, got {n_max!r}")
        if len(largest.atoms) > room:
            raise StructureError(
                f"crystal {largest.id} has {len(largest.atoms)} atoms, more than n_max = {room}; "
                "raise n_max, or leave the structure out"
            )
        spec = parse_calculator(calculator)
        for crystal in crystals:
            spec.check(crystal.atoms, crystal.id)
        return cls(crystals, spec, options, int(room))

    def core(self, generator: np.random.Generator, n_envs: int = 1) -> RelaxationEnv:
        """A new environment, without any library's interface."""
        return RelaxationEnv(self.crystals, self.calculator.potential(), self.config, generator, n_envs)

    def asked(self, options: Mapping[str, Any] | None, known: Sequence[str] = ("structure",)) -> Any:
        """What `reset(options={"structure": ...})` asks for; None for a draw.

        Raises:
            ValueError: There is an option of another name than the `known` ones.
        """
        given = options or {}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(f"`options` of reset may have {' and '.join(known)}, got {unknown[0]!r}")
        return given.get("structure")

    def index(self, asked: Any) -> int:
        """Which crystal is asked for, by its place or id.

        Raises:
            ValueError: There is none of this id, or at this place.
        """
        if isinstance(asked, str):
            for index, crystal in enumerate(self.crystals):
                if crystal.id == asked:
                    return index
            raise ValueError(
                f"there is no structure `{asked}` among the {len(self.crystals)}; the first is `{self.crystals[0].id}`"
            )
        if not isinstance(asked, int | np.integer) or not 0 <= asked < len(self.crystals):
            raise ValueError(f"`structure` must be an id or a number from 0 to {len(self.crystals) - 1}, got {asked!r}")
        return int(asked)


def _crystals(structures: Any) -> Sequence[Crystal]:  # from the user: it may be anything
    if isinstance(structures, str | Path):
        return read_structures([structures])  # with the weights of its crystals
    several = [structures] if isinstance(structures, Atoms | Crystal) else structures
    if not isinstance(several, Sequence):
        raise StructureError(
            f"`structures` must be a name, a path, Atoms or crystals, or several of them, got {structures!r}"
        )
    crystals: list[Crystal] = []
    for number, item in enumerate(several):
        if isinstance(item, Crystal):
            crystals.append(item)
        elif isinstance(item, Atoms):
            crystals.append(_crystal(item, f"atoms#{number}"))
        elif isinstance(item, str | Path):
            crystals.extend(read_structures([item]))
        else:
            raise StructureError(f"`structures` must be names, paths, Atoms or crystals, got {item!r}")
    if not crystals:
        raise StructureError("`structures` is empty; the environment needs at least one")
    return crystals


def _crystal(atoms: Atoms, name: str) -> Crystal:
    require_usable(atoms, name)
    kind = atoms.info.get(KIND_KEY, "start")
    if kind not in ("minimum", "start"):
        raise StructureError(f"{name}: `{KIND_KEY}` must be 'minimum' or 'start', got {kind!r}")
    own = atoms.copy()
    own.calc = None
    return Crystal(name, own, parent=name, kind=kind)
