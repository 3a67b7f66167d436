"""Which crystals a run trains on, and on which it is judged."""

from __future__ import annotations

import numpy as np

from relaxrl.agents import ExpertConfig
from relaxrl.errors import ConfigError
from relaxrl.potentials import parse_calculator
from relaxrl.structures import Crystal, read_structures, split_by_parent
from relaxrl.training.config import TrainConfig

_TRAIN, _DEVELOPMENT = "metals:train", "metals:dev"


def load_crystals(config: TrainConfig, generator: np.random.Generator) -> tuple[list[Crystal], list[Crystal]]:
    """Training and development crystals of a run; they share no parent.

    Args:
        config: Names the files.
        generator: Splits where no development set is named.

    Raises:
        StructureError: A file can't be used.
        CalculatorError: The calculator does not know an element.
        ConfigError: There are too few crystals to split, or no minima for an expert that needs them.
    """
    crystals = read_structures(config.structures, kind=config.kind)
    named = config.evaluation.structures
    if named is None and config.structures in (_TRAIN, (_TRAIN,)):
        named = _DEVELOPMENT
    if named is not None:
        train, development = crystals, read_structures(named)
    else:
        fraction = config.evaluation.fraction
        parts = split_by_parent(crystals, {"train": 1 - fraction, "development": fraction}, generator)
        train, development = parts["train"], parts["development"]
        if not train or not development:
            raise ConfigError(
                f"can't split {len(crystals)} crystals into training and development crystals; give more, or name a "
                "development set in `evaluation.structures` (for a first try: the same files)"
            )
    calculator = parse_calculator(config.calculator)
    for crystal in (*train, *development):
        calculator.check(crystal.atoms, crystal.id)
    _check_expert(config.expert, train)
    return train, development


def _check_expert(config: ExpertConfig, crystals: list[Crystal]) -> None:
    unknown = [crystal.id for crystal in crystals if crystal.kind != "minimum"]
    if config.name == "teleport" and unknown:
        raise ConfigError(
            f"expert.name: `teleport` needs the minimum of each crystal, but {unknown[0]} "
            f"{f'and {len(unknown) - 1} others are' if len(unknown) > 1 else 'is'} of kind `start`; "
            "set `kind=minimum` if the files hold relaxed crystals, or use `expert.name=bfgs`"
        )
