"""The relaxations that an agent is adapted by: which starts, and what they taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from relaxrl.errors import ConfigError
from relaxrl.optimize import Relaxed
from relaxrl.potentials import CalculatorSpec
from relaxrl.structures import Crystal
from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.config import FEWEST, FinetuneConfig
from relaxrl.training.finetuning.examples import frames_of
from relaxrl.training.straining import displaced, strained


@dataclass(frozen=True)
class Lessons:
    """Frames of each relaxation that taught something.

    Attributes:
        train: Those that are trained on.
        held_out: Those that are judged by; they share no parent with the others where there are parents enough.
        by_parent: Whether that is so.
    """

    train: list[list[Frame]]
    held_out: list[list[Frame]]
    by_parent: bool


def starts(crystals: Sequence[Crystal], config: FinetuneConfig, generator: np.random.Generator) -> list[Crystal]:
    """The structures that are relaxed: starts as they are, minima displaced, several times if there are too few.

    Raises:
        ConfigError: There are too few.
    """
    waiting = [crystal for crystal in crystals if crystal.kind == "start"]
    minima = [crystal for crystal in crystals if crystal.kind == "minimum"]
    if len(waiting) > config.relaxations:
        chosen = np.sort(generator.permutation(len(waiting))[: config.relaxations])
        waiting = [waiting[k] for k in chosen]
    copies: list[Crystal] = []
    minima = [minima[k] for k in generator.permutation(len(minima))]
    while minima and len(waiting) + len(copies) < config.relaxations:
        crystal = minima[len(copies) % len(minima)]
        name = f"{crystal.id}~{len(copies) // len(minima)}"
        copies.append(Crystal(name, _displaced(crystal.atoms, config, generator), crystal.parent, "start"))
    found = waiting + copies
    if len(found) < FEWEST:
        raise ConfigError(
            f"expected at least {FEWEST} structures to relax, a few dozen are usual, got {len(found)}; give more "
            "starts, or relaxed crystals (`--kind minimum`), which are displaced as often as it takes"
        )
    return found


def learned(
    results: Sequence[Relaxed],
    crystals: Sequence[Crystal],
    calculator: CalculatorSpec,
    config: FinetuneConfig,
    generator: np.random.Generator,
) -> Lessons:
    """What relaxations teach, split by parent.

    Raises:
        ConfigError: Too few of them taught anything.
    """
    taught: list[tuple[str, list[Frame]]] = []
    for done in results:
        crystal = crystals[done.index]
        name = calculator.of(crystal.atoms, crystal.id).text
        if frames := frames_of(done, name, config.fmax, crystal.parent):
            taught.append((crystal.parent, frames))
    if len(taught) < FEWEST:
        failed = [done for done in results if not done.converged]
        why = f"; {len(failed)} did not converge, the first because: {failed[0].reason}" if failed else ""
        held = ""
        if config.cell:
            held = "; where symmetry holds all atoms in place, the cell alone teaches nothing: displace them"
        raise ConfigError(
            f"expected at least {FEWEST} relaxations that teach something, got {len(taught)} of {len(results)}{why}. "
            f"Give more structures, or starts that are farther from their minima{held}"
        )
    wanted = max(1, round(config.held_out * len(taught)))
    parents = list(dict.fromkeys(parent for parent, _ in taught))
    by_parent = len(parents) >= FEWEST
    chosen: set[int] = set()
    if by_parent:
        for k in generator.permutation(len(parents)):
            if len(chosen) < wanted:
                chosen |= {place for place, (parent, _) in enumerate(taught) if parent == parents[k]}
    if not by_parent or len(chosen) > len(taught) // 2:
        by_parent = False
        chosen = set(generator.permutation(len(taught))[:wanted].tolist())
    train = [frames for place, (_, frames) in enumerate(taught) if place not in chosen]
    return Lessons(train, [taught[place][1] for place in sorted(chosen)], by_parent)


def _displaced(atoms: Atoms, config: FinetuneConfig, generator: np.random.Generator) -> Atoms:
    moved = strained(atoms, config.strain, generator) if config.cell else atoms
    return displaced(moved, float(generator.uniform(*config.rattle)), generator)
