"""Which crystals a run trains on, and on which it is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relaxrl.agents import ExpertConfig
from relaxrl.errors import ConfigError
from relaxrl.potentials import parse_calculator
from relaxrl.structures import Crystal, Kind, read_structures, split_by_parent
from relaxrl.training.config import EvaluationConfig
from relaxrl.typing import FloatArray

_TRAIN, _DEVELOPMENT = ("metals:train", "metals:more"), "metals:dev"


def load_crystals(
    structures: Sequence[str] | str,
    kind: Kind | None,
    calculator: str,
    evaluation: EvaluationConfig,
    generator: np.random.Generator,
) -> tuple[list[Crystal], list[Crystal]]:
    """Training and development crystals of a run; they share no parent.

    Args:
        structures: Files, folders or shipped sets to train on.
        kind: What they are; None goes by what the files say. `minimum` holds for the development set as well: minima
            taken for starts would be judged without having been displaced, and there is nothing to relax.
        calculator: Has to know their elements.
        evaluation: Names the development set, or the share to split off.
        generator: Splits where no development set is named.

    Raises:
        StructureError: A file can't be used.
        CalculatorError: The calculator does not know an element.
        ConfigError: There are too few crystals to split.
    """
    crystals = read_structures(structures, kind=kind)
    named = evaluation.structures
    if named is None and set([structures] if isinstance(structures, str) else structures) <= set(_TRAIN):
        named = _DEVELOPMENT
    if named is not None:
        train, development = crystals, read_structures(named, kind="minimum" if kind == "minimum" else None)
    else:
        fraction = evaluation.fraction
        parts = split_by_parent(crystals, {"train": 1 - fraction, "development": fraction}, generator)
        train, development = parts["train"], parts["development"]
        if not train or not development:
            raise ConfigError(
                f"can't split {len(crystals)} crystals into training and development crystals; give more, or name a "
                "development set in `evaluation.structures` (for a first try: the same files)"
            )
    spec = parse_calculator(calculator)
    for crystal in (*train, *development):
        spec.check(crystal.atoms, crystal.id)
    return train, development


def odds(crystals: Sequence[Crystal], structures: Sequence[str] | str, weights: Sequence[float]) -> FloatArray:
    """Probability of each crystal, (n_crystals,), so that those of each file or set are drawn as its weight says.

    Args:
        crystals: What was read of `structures`, or a part of it.
        structures: Files, folders or shipped sets.
        weights: One of each.

    Raises:
        ConfigError: Nothing that has a weight is left.
    """
    names = [structures] if isinstance(structures, str) else list(structures)
    places = np.array([_entry(crystal.id.rpartition("#")[0], names) for crystal in crystals])
    counts = np.bincount(places, minlength=len(names))
    shares = np.where(counts > 0, np.asarray(weights, dtype=np.float64), 0.0)
    if not shares.sum() > 0:
        raise ConfigError("`weights` leave no crystal to train on; give one of the files in `structures` a weight")
    chances: FloatArray = (shares / shares.sum() / np.maximum(counts, 1))[places]
    return chances


def _entry(file: str, names: Sequence[str]) -> int:
    """Which of the given paths a file was found in: itself, or the innermost folder."""
    fits = [k for k, name in enumerate(names) if file == name or file.startswith(f"{name.rstrip('/')}/")]
    return max(fits, key=lambda k: len(names[k]))


def check_expert(config: ExpertConfig, crystals: Sequence[Crystal]) -> None:
    """`ConfigError` if the expert needs minima that are not known."""
    if config.name == "teleport":
        require_minima(crystals, "expert.name: `teleport`", "use `expert.name=bfgs`")


def require_minima(crystals: Sequence[Crystal], who: str, instead: str) -> None:
    """`ConfigError` if a crystal is not known to be a minimum.

    Args:
        crystals: The training set.
        who: Needs minima.
        instead: What to do where they are not known.
    """
    unknown = [crystal.id for crystal in crystals if crystal.kind != "minimum"]
    if unknown:
        raise ConfigError(
            f"{who} needs the minimum of each crystal, but {unknown[0]} "
            f"{f'and {len(unknown) - 1} others are' if len(unknown) > 1 else 'is'} of kind `start`; "
            f"set `kind=minimum` if the files hold relaxed crystals, or {instead}"
        )
