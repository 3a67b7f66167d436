"""Recipes of sets: what to draw for each split, how to relax it, which starts to keep; and the work of cooking one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.seeding import Generators
from relaxrl.structures.alloys import AlloyConfig, parent_of_compound
from relaxrl.structures.archive import Entry
from relaxrl.structures.compounds import CompoundConfig
from relaxrl.structures.crystal import perturb
from relaxrl.structures.draw import Drawable, draw
from relaxrl.structures.minima import MinimumConfig, energy_and_forces, find_minimum, relax, surface
from relaxrl.structures.random_crystals import RandomCrystalConfig
from relaxrl.structures.read import read_structures
from relaxrl.typing import FloatArray

Progress = Callable[[str, int, int], None]
"""Called with the split, the entries made and the entries wanted."""

_DIGITS = 8
"""Decimals (Å, eV) kept of minima and starts: far below any tolerance, and above the noise between machines."""

_START_DRAWS = 5
"""Starts drawn for a minimum before it is given up."""

_ELSEWHERE = "what `exclude` names"
"""Owner of the parents of other sets."""

_PATIENCE = 20
"""Candidates drawn per entry wanted before a recipe is declared impossible."""


@configclass
class GroupRecipe:
    """Some structures of one kind."""

    count: int
    """How many."""
    alloys: AlloyConfig | None = None
    """Alloys of this kind;"""
    compounds: CompoundConfig | None = None
    """or known crystals with other elements;"""
    random: RandomCrystalConfig | None = None
    """or cells with atoms thrown in."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"`count` must be at least 1, got {self.count}")
        if len(self._kinds) != 1:
            raise ValueError("a group must have exactly one of `alloys`, `compounds` and `random`")

    @property
    def drawn(self) -> Drawable:
        """What its structures are drawn from."""
        return self._kinds[0]

    @property
    def _kinds(self) -> list[Drawable]:
        return [kind for kind in (self.alloys, self.compounds, self.random) if kind is not None]


@configclass
class SplitRecipe:
    """One part of a set."""

    groups: tuple[GroupRecipe, ...]
    """What it holds, in this order."""
    starts: bool = True
    """Whether to keep a displaced start beside each minimum, so that everybody compares methods on the same ones."""
    per_parent: int = 1
    """Structures that may descend from one parent."""

    def __post_init__(self) -> None:
        if not self.groups or self.per_parent < 1:
            raise ValueError("`groups` must name at least one group, and `per_parent` must be at least 1")


@configclass
class SetRecipe:
    """A set of crystals: no parent is in two of its splits."""

    name: str
    """First part of the file names."""
    splits: dict[str, SplitRecipe]
    """Parts by name, made in this order."""
    exclude: tuple[str, ...] = ()
    """Files or shipped sets whose parents must not be drawn: sets that this one is to be added to or compared on."""
    calculator: str = "emt"
    """What the structures are minima of; as everywhere on the command line."""
    seed: int = 0
    """Decides everything random."""
    rattle: tuple[float, float] = (0.05, 0.3)
    """Å, range of the standard deviation of a start's displacement; drawn evenly for each start. From hardly disturbed
    to nearly melted."""
    start_fmax: float = 0.01
    """eV/Å; a start counts only if BFGS relaxes it to this."""
    minimum: MinimumConfig = MinimumConfig()
    """How minima are found."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError("`splits` must name at least one split")
        for name in (self.name, *self.splits):
            if not name.replace("_", "").isalnum():
                raise ValueError(f"names of sets and splits are made of letters, digits and underscores, got {name!r}")
        if not 0 <= self.rattle[0] <= self.rattle[1] or self.start_fmax <= 0 or self.seed < 0:
            raise ValueError("`rattle` must be a range from 0 up, `start_fmax` positive, `seed` not negative")


@dataclass(frozen=True)
class Candidate:
    """A draw that may become an entry, known by its number alone.

    Attributes:
        stream: Name of its random streams.
        drawn: What it was drawn from.
        starts: Whether it needs a start.
    """

    stream: str
    drawn: Drawable
    starts: bool


def make_set(
    recipe: SetRecipe, executor: Executor | None = None, progress: Progress | None = None
) -> dict[str, list[Entry]]:
    """Make all splits of a set.

    Args:
        recipe: The set.
        executor: Runs the relaxations; in this process if None. The result does not depend on it.
        progress: Told about each entry made.

    Returns:
        The entries of each split.

    Raises:
        StructureError: A group can't be filled: too few parents are left, or too few of them have minima.
    """
    owner = _owners_of_compounds(recipe)
    return {name: _make_split(recipe, name, owner, executor, progress) for name in recipe.splits}


def _owners_of_compounds(recipe: SetRecipe) -> dict[str, str]:
    """Parents that a split names itself belong to it from the start, lest another one draws them by chance."""
    owner = {crystal.parent: _ELSEWHERE for crystal in read_structures(recipe.exclude)} if recipe.exclude else {}
    for name, split in recipe.splits.items():
        for compound in (name for group in split.groups if group.alloys for name in group.alloys.compounds):
            parent = parent_of_compound(compound)
            if owner.setdefault(parent, name) != name:
                raise StructureError(
                    f"{recipe.name}: {compound!r} of {name} is a variant of one of {owner[parent]}; name it once"
                )
    return owner


def _make_split(
    recipe: SetRecipe, name: str, owner: dict[str, str], executor: Executor | None, progress: Progress | None
) -> list[Entry]:
    split = recipe.splits[name]
    wanted = sum(group.count for group in split.groups)
    counts: dict[str, int] = {}
    entries: list[Entry] = []
    for number, group in enumerate(split.groups):
        candidates = _candidates(recipe, name, number, owner, counts)
        missing = group.count
        while missing:
            batch = list(islice(candidates, missing))
            if not batch:
                raise StructureError(
                    f"{recipe.name}:{name}: group {number} lacks {missing} of {group.count} structures after "
                    f"{_PATIENCE * group.count} draws; allow more elements, prototypes or sizes"
                )
            cooked = map(cook, repeat(recipe), batch) if executor is None else executor.map(cook, repeat(recipe), batch)
            for entry in cooked:
                if entry is not None:
                    entries.append(entry)
                    missing -= 1
                if progress is not None:
                    progress(name, len(entries), wanted)
    return entries


def _candidates(
    recipe: SetRecipe, name: str, number: int, owner: dict[str, str], counts: dict[str, int]
) -> Iterator[Candidate]:
    """Draws of one group whose parents are free for this split; they are taken as soon as they are drawn."""
    split = recipe.splits[name]
    group = split.groups[number]
    for attempt in range(_PATIENCE * group.count):
        stream = f"{recipe.name}/{name}/{number}/{attempt}"
        parent = draw(group.drawn, Generators(recipe.seed).numpy(stream)).parent
        if owner.setdefault(parent, name) != name or counts.get(parent, 0) >= split.per_parent:
            continue
        counts[parent] = counts.get(parent, 0) + 1
        yield Candidate(stream, group.drawn, split.starts)


def cook(recipe: SetRecipe, candidate: Candidate) -> Entry | None:
    """The entry that a candidate leads to, or None if it leads to no minimum or none that can be started from."""
    generators = Generators(recipe.seed)
    calculator, hessian = surface(recipe.calculator)
    try:
        drawn = draw(candidate.drawn, generators.numpy(candidate.stream), calculator)
    except StructureError:
        return None  # this crystal has no volume under this calculator
    minimum = find_minimum(
        drawn.atoms, calculator, hessian, generators.numpy(f"{candidate.stream}/minimum"), recipe.minimum
    )
    if minimum is None:
        return None
    atoms = minimum.atoms
    atoms.info = {}
    atoms.set_cell(np.round(atoms.cell.array, _DIGITS))
    atoms.positions[:] = np.round(atoms.positions, _DIGITS)
    start = None
    if candidate.starts:
        start = _start(recipe, atoms, minimum.energy, calculator, generators.numpy(f"{candidate.stream}/start"))
        if start is None:
            return None
    return Entry(atoms, round(minimum.energy, _DIGITS), drawn.parent, drawn.prototype, start)


def _start(
    recipe: SetRecipe, minimum: Atoms, energy: float, calculator: Calculator, generator: np.random.Generator
) -> FloatArray | None:
    """Positions displaced from a minimum, (n_atoms, 3), Å, that lie above it and relax; None if none was found."""
    for _ in range(_START_DRAWS):
        try:
            start = perturb(minimum, recipe.rattle, generator)
        except StructureError:
            continue
        start.positions[:] = np.round(start.positions, _DIGITS)
        if energy_and_forces(start, calculator)[0] <= energy:
            continue
        if relax(start, calculator, recipe.start_fmax, recipe.minimum.steps) is not None:
            return np.array(start.positions)
    return None
