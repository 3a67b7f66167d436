"""What is to be relaxed, and with what: the arguments that all views of the environment share, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relaxrl.config import from_dict
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.errors import StructureError
from relaxrl.potentials import CalculatorSpec, parse_calculator
from relaxrl.structures import Crystal, read_structures

Structures = str | Sequence[str] | Sequence[Crystal]
"""A name or path that `relaxrl.structures.read_structures` knows, several of them, or crystals."""

Calculator = str | CalculatorSpec | Callable[..., Any]
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
        n_max: int | None,
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
        if len(largest.atoms) > room:
            raise StructureError(
                f"crystal {largest.id} has {len(largest.atoms)} atoms, more than n_max = {room}; "
                "raise n_max, or leave the structure out"
            )
        spec = parse_calculator(calculator)
        for crystal in crystals:
            spec.check(crystal.atoms, crystal.id)
        return cls(crystals, spec, options, room)

    def core(self, generator: np.random.Generator, n_envs: int = 1) -> RelaxationEnv:
        """A new environment, without any library's interface."""
        return RelaxationEnv(self.crystals, self.calculator.potential(), self.config, generator, n_envs)

    def index(self, asked: int | str) -> int:
        """Which crystal is asked for, by its place or id.

        Raises:
            ValueError: There is none of this id. (Places are checked by the core.)
        """
        if not isinstance(asked, str):
            return asked
        for index, crystal in enumerate(self.crystals):
            if crystal.id == asked:
                return index
        raise ValueError(
            f"there is no structure `{asked}` among the {len(self.crystals)}; the first is `{self.crystals[0].id}`"
        )


def _crystals(structures: Structures) -> Sequence[Crystal]:
    if isinstance(structures, str):
        return read_structures([structures])
    crystals: list[Crystal] = []
    for item in structures:
        crystals.extend([item] if isinstance(item, Crystal) else read_structures([item]))
    if not crystals:
        raise StructureError("`structures` is empty; the environment needs at least one")
    return crystals
