"""Recipes of sets: what to draw for each split, under which calculator, and how candidates become entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Literal

from ase.data import atomic_numbers
from ase.formula import Formula

from relaxrl.config import configclass
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import parse_calculator
from relaxrl.potentials.torch_potential import missing_elements
from relaxrl.seeding import Generators
from relaxrl.structures.alloys import AlloyConfig, parent_of_compound
from relaxrl.structures.archive import Entry
from relaxrl.structures.compounds import CompoundConfig
from relaxrl.structures.cooking import Candidate, Outcome, cook
from relaxrl.structures.draw import Drawable, draw, elements_of
from relaxrl.structures.frame_making import FramesRecipe
from relaxrl.structures.minima import MinimumConfig
from relaxrl.structures.random_crystals import RandomCrystalConfig
from relaxrl.structures.read import read_structures

Progress = Callable[[str, int, int], None]
"""Called with the split, the entries made and the entries wanted."""

OnOutcome = Callable[[str, Outcome], None]
"""Called with the split and what became of a candidate."""

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
    calculator: str | None = None
    """What they are minima of; that of the recipe if None."""
    calculators: tuple[str, ...] = ()
    """Several to draw from, for each candidate one. In all names `{elements}` stands for the elements of the group."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"`count` must be at least 1, got {self.count}")
        if len(self._kinds) != 1:
            raise ValueError("a group must have exactly one of `alloys`, `compounds` and `random`")
        if self.calculator is not None and self.calculators:
            raise ValueError("a group must have one of `calculator` and `calculators`, got both")

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
    start_strain: float = 0.0
    """Largest component of a random strain of starts, for comparisons of relaxations with the cell."""
    per_parent: int = 1
    """Structures that may descend from one parent, under one calculator."""
    frames: FramesRecipe | None = None
    """Labelled frames of each minimum, in a file of their own; none if None."""
    compositions: tuple[str, ...] = ()
    """Formulas that no other split may draw, though it comes first; where sets are split by composition."""
    families_of: str | None = None
    """Draws only from the families (prototypes) that this split has, which must come before: other compositions of what
    was trained on."""

    def __post_init__(self) -> None:
        if not self.groups or self.per_parent < 1:
            raise ValueError("`groups` must name at least one group, and `per_parent` must be at least 1")
        if not 0 <= self.start_strain < 0.3 or (self.start_strain and not self.starts):
            raise ValueError(f"`start_strain` must be in 0..0.3 and goes with `starts`, got {self.start_strain}")


@configclass
class SetRecipe:
    """A set of crystals: no parent is in two of its splits."""

    name: str
    """First part of the file names."""
    splits: dict[str, SplitRecipe]
    """Parts by name, made in this order."""
    exclude: tuple[str, ...] = ()
    """Files or shipped sets whose parents must not be drawn: sets that this one is to be added to or compared on."""
    split_by: Literal["parent", "composition"] = "parent"
    """What may not be in two splits: a `parent`, prototype and reduced formula; or a `composition`, the reduced formula
    alone, in whatever prototype, so that tests hold chemistries that nobody was trained on."""
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
        for formula in (formula for split in self.splits.values() for formula in split.compositions):
            if self.split_by != "composition":
                raise ValueError("`compositions` of a split need `split_by: composition`")
            try:
                _reduced(formula)
            except (ValueError, KeyError) as error:
                raise ValueError(f"`compositions`: {formula!r} is no chemical formula") from error
        names = list(self.splits)
        for name, split in self.splits.items():
            if split.families_of is not None and split.families_of not in names[: names.index(name)]:
                raise ValueError(
                    f"`families_of` of {name} must name a split that comes before it, got {split.families_of!r}"
                )
        if any(split.start_strain for split in self.splits.values()) and not self.minimum.cell:
            raise ValueError("`start_strain` needs minima with the cell: `minimum: {cell: true}`")

    def calculators(self, group: GroupRecipe) -> tuple[str, ...]:
        """The calculators that a group's candidates are drawn from, with `{elements}` filled in: `['Al','P']`."""
        elements = "[" + ",".join(f"'{symbol}'" for symbol in elements_of(group.drawn)) + "]"
        names = group.calculators or (group.calculator or self.calculator,)
        return tuple(name.replace("{elements}", elements) for name in names)


def make_set(
    recipe: SetRecipe, executor: Executor | None = None, progress: Progress | None = None
) -> dict[str, list[Entry]]:
    """The entries of all splits of a set; see `cook_set`."""
    cooked = cook_set(recipe, executor, progress)
    return {name: [one.entry for one in part if one.entry is not None] for name, part in cooked.items()}


def cook_set(
    recipe: SetRecipe,
    executor: Executor | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
    on_outcome: OnOutcome | None = None,
) -> dict[str, list[Outcome]]:
    """Make all splits of a set.

    Args:
        recipe: The set.
        executor: Runs the relaxations; in this process if None. The result does not depend on it.
        progress: Told about each entry made.
        cache: Folder in which what became of each candidate is kept: none is cooked twice, also after a kill.
        on_outcome: Told about each candidate.

    Returns:
        The outcomes of each split that became entries, in order, with frames named after their place.

    Raises:
        StructureError: A group can't be filled: too few parents are left, or too few of them have minima; or a
            calculator does not know an element of its group.
        CalculatorError: A calculator can't be made, or takes its process down.
    """
    for name, split in recipe.splits.items():
        for number, group in enumerate(split.groups):
            _check_elements(recipe, group, f"{recipe.name}:{name}: group {number}")
    owner = _owners_of_compounds(recipe)
    made = {}
    families: dict[str, set[str]] = {}
    for name, split in recipe.splits.items():
        allowed = None if split.families_of is None else families[split.families_of]
        part = _make_split(recipe, name, owner, allowed, executor, progress, cache, on_outcome)
        families[name] = {_family(one.entry.parent) for one in part if one.entry is not None}
        made[name] = [_named(one, f"{recipe.name}-{name}.npz#{index}") for index, one in enumerate(part)]
    return made


def _named(outcome: Outcome, crystal: str) -> Outcome:
    return replace(outcome, frames=tuple(replace(frame, crystal=crystal) for frame in outcome.frames))


def _check_elements(recipe: SetRecipe, group: GroupRecipe, place: str) -> None:
    wanted = {atomic_numbers[symbol] for symbol in elements_of(group.drawn)}
    for name in recipe.calculators(group):
        known = parse_calculator(name).elements
        missing = set() if known is None else wanted - known
        if known is not None and missing:
            raise StructureError(f"{place}: {missing_elements(f'calculator {name}', missing, known)}")


def _reduced(formula: str) -> str:
    return str(Formula(formula, strict=True).reduce()[0].format("hill"))


def _key(recipe: SetRecipe, parent: str) -> str:
    """What a split owns: the parent, or the formula in its name."""
    return parent if recipe.split_by == "parent" else parent.rpartition(" ")[2]


def _family(parent: str) -> str:
    """The prototype in a parent's name."""
    return parent.rpartition(" ")[0]


def _owners_of_compounds(recipe: SetRecipe) -> dict[str, str]:
    """Parents that a split names itself belong to it from the start, lest another one draws them by chance."""
    elsewhere = read_structures(recipe.exclude) if recipe.exclude else []
    owner = {_key(recipe, crystal.parent): _ELSEWHERE for crystal in elsewhere}
    for name, split in recipe.splits.items():
        for formula in split.compositions:
            if owner.setdefault(_reduced(formula), name) != name:
                raise StructureError(f"{recipe.name}: {formula} of {name} is one of {owner[_reduced(formula)]}, too")
        for compound in (name for group in split.groups if group.alloys for name in group.alloys.compounds):
            parent = _key(recipe, parent_of_compound(compound))
            if owner.setdefault(parent, name) != name:
                raise StructureError(
                    f"{recipe.name}: {compound!r} of {name} is a variant of one of {owner[parent]}; name it once"
                )
    return owner


def _make_split(
    recipe: SetRecipe,
    name: str,
    owner: dict[str, str],
    families: set[str] | None,
    executor: Executor | None,
    progress: Progress | None,
    cache: Path | None,
    on_outcome: OnOutcome | None,
) -> list[Outcome]:
    split = recipe.splits[name]
    wanted = sum(group.count for group in split.groups)
    counts: dict[tuple[str, str], int] = {}
    made: list[Outcome] = []
    for number, group in enumerate(split.groups):
        candidates = _candidates(recipe, name, number, owner, counts, families)
        missing = group.count
        while missing:
            batch = list(islice(candidates, missing))
            if not batch:
                raise StructureError(
                    f"{recipe.name}:{name}: group {number} lacks {missing} of {group.count} structures after "
                    f"{_PATIENCE * group.count} draws; allow more elements, prototypes or sizes"
                )
            for outcome in _cooked(batch, executor, cache):
                if outcome.entry is not None:
                    made.append(outcome)
                    missing -= 1
                if on_outcome is not None:
                    on_outcome(name, outcome)
                if progress is not None:
                    progress(name, len(made), wanted)
    return made


def _cooked(batch: list[Candidate], executor: Executor | None, cache: Path | None) -> Iterator[Outcome]:
    """What becomes of candidates, in order; `CalculatorError` if a process dies of one."""
    try:
        yield from (map if executor is None else executor.map)(cook, batch, repeat(cache))
    except BrokenExecutor as error:
        names = ", ".join(sorted({one.calculator for one in batch}))
        kept = "what was done is kept: the same command goes on" if cache else "nothing was kept"
        raise CalculatorError(
            f"a process that relaxed one of {names} died: killed, out of memory, or the calculator crashed; {kept}. "
            "--jobs 1 shows where"
        ) from error


def _candidates(
    recipe: SetRecipe,
    name: str,
    number: int,
    owner: dict[str, str],
    counts: dict[tuple[str, str], int],
    families: set[str] | None = None,
) -> Iterator[Candidate]:
    """Draws of one group whose parents are free for this split; they are taken as soon as they are drawn."""
    split = recipe.splits[name]
    group = split.groups[number]
    calculators = recipe.calculators(group)
    for attempt in range(_PATIENCE * group.count):
        stream = f"{recipe.name}/{name}/{number}/{attempt}"
        generators = Generators(recipe.seed)
        parent = draw(group.drawn, generators.numpy(stream)).parent
        if families is not None and _family(parent) not in families:
            continue
        calculator = calculators[int(generators.numpy(f"{stream}/calculator").integers(len(calculators)))]
        used = parent, calculator
        if owner.setdefault(_key(recipe, parent), name) != name or counts.get(used, 0) >= split.per_parent:
            continue
        counts[used] = counts.get(used, 0) + 1
        yield Candidate(
            stream,
            recipe.seed,
            group.drawn,
            calculator,
            recipe.minimum,
            recipe.rattle if split.starts else None,
            split.start_strain,
            recipe.start_fmax,
            split.frames,
        )
