"""Random alloys: a structure type, a supercell, elements on its sites, strain, perhaps a vacancy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers
from ase.geometry import minkowski_reduce
from scipy.optimize import minimize_scalar

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.structures.crystal import perturb
from relaxrl.structures.prototypes import PROTOTYPES, Prototype, atomic_volume, find_prototype, scale_volume

_CELL_DRAWS = 40
"""Supercells of one size that are tried for one that is not too flat."""

_MIN_HEIGHT = 0.6
"""Smallest distance between opposite faces of an acceptable supercell, in units of the cube root of its volume."""

_STRETCHES = (0.9, 1.15)
"""Range in which the equilibrium lattice constant is looked for, in units of the mean of the elements."""

_PURE = 0.1
"""Share of pure elements among random decorations."""

_DRAWS = 1000
"""Draws of prototype and size before a configuration is declared impossible."""


@configclass
class AlloyConfig:
    """Which alloys to draw."""

    elements: tuple[str, ...]
    """Symbols to draw from, all equally often."""
    prototypes: tuple[str, ...] = ("fcc", "hcp", "bcc")
    """Structure types, all equally often. Those with one species (fcc, hcp, bcc) are decorated at random, the others
    keep their order, with elements drawn for their species."""
    compounds: tuple[str, ...] = ()
    """Known compounds to draw instead: a prototype and its elements in the order of its species, as "L1_2 Cu Au"."""
    required: tuple[str, ...] = ()
    """Elements that each structure must contain."""
    min_atoms: int = 4
    """Smallest number of atoms in a cell, before vacancies."""
    max_atoms: int = 16
    """Largest number of atoms in a cell."""
    max_elements: int = 3
    """Elements in one random decoration at most; one decoration in ten is a pure element, the others draw a number
    between 2 and this."""
    strain: float = 0.03
    """Largest component of a random strain; 3 % is what thin films and coherent precipitates bear."""
    vacancy_probability: float = 0.3
    """Share of structures with one atom taken out; only where at least `min_atoms` remain."""
    rattle: float = 0.0
    """Å, standard deviation of a random displacement of all atoms."""

    def __post_init__(self) -> None:
        for name in (*self.elements, *self.required):
            if name not in atomic_numbers or name == "X":
                raise ValueError(f"`elements`: {name!r} is not an element's symbol")
        if not self.elements and not self.compounds:
            raise ValueError("`elements` must name at least one element")
        if not self.prototypes and not self.compounds:
            raise ValueError("`prototypes` must name at least one structure type")
        for name in self.prototypes:
            if name not in PROTOTYPES:
                raise ValueError(f"`prototypes`: {name!r} is unknown; there are {', '.join(PROTOTYPES)}")
        for compound in self.compounds:
            name, *symbols = compound.split()
            if name not in PROTOTYPES or len(symbols) != len(PROTOTYPES[name].species):
                raise ValueError(f"`compounds`: {compound!r} must be a prototype and one element for each species")
        if not 1 <= self.min_atoms <= self.max_atoms:
            raise ValueError(f"`min_atoms` must be in 1..max_atoms, got {self.min_atoms}..{self.max_atoms}")
        if self.max_elements < max(1, len(self.required)):
            raise ValueError(f"`max_elements` must be at least 1 and hold all `required`, got {self.max_elements}")
        if not 0 <= self.strain < 0.5 or not 0 <= self.vacancy_probability <= 1 or self.rattle < 0:
            raise ValueError("`strain` must be in [0, 0.5), `vacancy_probability` in [0, 1], `rattle` not negative")


@dataclass(frozen=True)
class Alloy:
    """A random alloy and where it comes from.

    Attributes:
        atoms: The structure.
        prototype: Name of its structure type.
        parent: Underlying lattice and reduced formula before vacancies: all decorations of a lattice with one
            composition are variants of one crystal, in whatever cell.
    """

    atoms: Atoms
    prototype: str
    parent: str


def random_alloy(config: AlloyConfig, generator: np.random.Generator, calculator: Calculator | None = None) -> Alloy:
    """Draw one alloy.

    Args:
        config: What to draw.
        generator: Source of randomness; a calculator makes no difference to what is drawn.
        calculator: Finds the volume of lowest energy of the ideal crystal, before vacancy and strain. Without it, the
            volume is the mean of the elements' volumes per atom.

    Raises:
        StructureError: No prototype fits the range of sizes or holds the required elements.
    """
    for _ in range(_DRAWS):
        prototype, elements = _draw_species(config, generator)
        primitive = prototype.build(elements)
        multiple = _draw_multiple(len(primitive), config, generator)
        if multiple is None:
            continue
        atoms = random_supercell(primitive, multiple, generator)
        if len(prototype.species) == 1 and not config.compounds:
            atoms = _decorate(atoms, config, generator)
        if not set(config.required) <= set(atoms.symbols):
            continue
        parent = _parent(prototype, atoms)
        if calculator is not None:
            atoms = at_equilibrium_volume(atoms, calculator)
        if generator.random() < config.vacancy_probability and len(atoms) > config.min_atoms:
            del atoms[int(generator.integers(len(atoms)))]
            if not set(config.required) <= set(atoms.symbols):
                continue
        atoms = strained(atoms, config.strain, generator)
        if config.rattle > 0:
            atoms = perturb(atoms, config.rattle, generator)
        return Alloy(atoms, prototype.name, parent)
    raise StructureError(
        f"no structure with {config.min_atoms} to {config.max_atoms} atoms and {', '.join(config.required) or 'any'} "
        "in it can be made of the prototypes and elements given; widen the range or add prototypes"
    )


def parent_of_compound(compound: str) -> str:
    """The `Alloy.parent` of a compound such as "L1_2 Cu Au".

    Examples:
        >>> parent_of_compound("D0_22 Cu Au") == parent_of_compound("L1_2 Cu Au")
        True
    """
    name, *elements = compound.split()
    prototype = find_prototype(name)
    return _parent(prototype, prototype.build(elements))


def _parent(prototype: Prototype, atoms: Atoms) -> str:
    return f"{prototype.lattice} {atoms.symbols.formula.reduce()[0].format('hill')}"


def at_equilibrium_volume(atoms: Atoms, calculator: Calculator) -> Atoms:
    """A copy stretched alike in all directions to its volume of lowest energy, atoms not relaxed."""
    volume = atoms.cell.volume / len(atoms)

    def energy(stretch: float) -> float:
        stretched = scale_volume(atoms, volume * stretch**3)
        stretched.calc = calculator
        return float(stretched.get_potential_energy())

    result = minimize_scalar(energy, bounds=_STRETCHES, method="bounded", options={"xatol": 1e-3})
    return scale_volume(atoms, volume * float(result.x) ** 3)


def strained(atoms: Atoms, strain: float, generator: np.random.Generator) -> Atoms:
    """A copy with a random symmetric strain, no component of which is larger than `strain`."""
    components = generator.uniform(-strain, strain, size=(3, 3))
    deformation = np.eye(3) + 0.5 * (components + components.T)
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return moved


def random_supercell(primitive: Atoms, multiple: int, generator: np.random.Generator) -> Atoms:
    """A supercell of random shape, described by its shortest lattice vectors.

    Shapes are drawn from the sublattices of the given index (integer matrices in Hermite normal form); flat ones are
    passed over, as long as there are others.

    Args:
        primitive: The cell to repeat.
        multiple: Index of the sublattice: how many times the atoms.
        generator: Source of randomness.
    """
    best: tuple[float, np.ndarray] | None = None
    for _ in range(_CELL_DRAWS):
        matrix = _hermite_form(multiple, generator)
        reduced, _ = minkowski_reduce(matrix @ primitive.cell.array)
        lowest = 1 / np.linalg.norm(np.linalg.inv(reduced), axis=0).max()
        height = float(lowest / abs(np.linalg.det(reduced)) ** (1 / 3))
        if best is None or height > best[0] + 1e-9:
            best = height, reduced
        if height >= _MIN_HEIGHT:
            break
    if best is None:
        raise AssertionError("at least one cell is drawn")
    reduced = best[1] if np.linalg.det(best[1]) > 0 else -best[1]
    integers = np.rint(reduced @ np.linalg.inv(primitive.cell.array)).astype(int)
    return make_supercell(primitive, integers)


def _hermite_form(index: int, generator: np.random.Generator) -> np.ndarray:
    """A random lower triangular integer matrix with this determinant, entries left of the diagonal below it."""
    first = int(generator.choice(_divisors(index)))
    second = int(generator.choice(_divisors(index // first)))
    third = index // first // second
    return np.array(
        [
            [first, 0, 0],
            [generator.integers(second), second, 0],
            [generator.integers(third), generator.integers(third), third],
        ]
    )


def _divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def _draw_species(config: AlloyConfig, generator: np.random.Generator) -> tuple[Prototype, list[str]]:
    if config.compounds:
        name, *symbols = config.compounds[int(generator.integers(len(config.compounds)))].split()
        return find_prototype(name), symbols
    prototype = find_prototype(config.prototypes[int(generator.integers(len(config.prototypes)))])
    count = len(prototype.species)
    if count > len(config.elements):
        return prototype, [config.elements[k % len(config.elements)] for k in range(count)]
    drawn = generator.choice(len(config.elements), size=count, replace=False)
    return prototype, [config.elements[int(k)] for k in drawn]


def _draw_multiple(n_primitive: int, config: AlloyConfig, generator: np.random.Generator) -> int | None:
    """How many primitive cells come closest to a size drawn evenly from the range; None if no number fits."""
    wanted = int(generator.integers(config.min_atoms, config.max_atoms + 1))
    fitting = [m for m in range(1, config.max_atoms // n_primitive + 1) if m * n_primitive >= config.min_atoms]
    return min(fitting, key=lambda m: abs(m * n_primitive - wanted)) if fitting else None


def _decorate(atoms: Atoms, config: AlloyConfig, generator: np.random.Generator) -> Atoms:
    """Elements at random on all sites, in proportions drawn evenly from all that there are; each is there."""
    most = min(config.max_elements, len(config.elements), len(atoms))
    count = 1 if most == 1 or generator.random() < _PURE else int(generator.integers(2, most + 1))
    others = [name for name in config.elements if name not in config.required]
    count = max(count, len(config.required))
    extra = generator.choice(len(others), size=min(count - len(config.required), len(others)), replace=False)
    names = [*config.required, *(others[int(k)] for k in extra)]
    shares = generator.dirichlet(np.ones(len(names)))
    decorated = atoms.copy()
    drawn = generator.choice(len(names), size=len(atoms), p=shares)
    drawn[: len(names)] = np.arange(len(names))
    decorated.symbols[:] = [names[int(k)] for k in generator.permutation(drawn)]
    return _at_mean_volume(decorated)


def _at_mean_volume(atoms: Atoms) -> Atoms:
    return scale_volume(atoms, float(np.mean([atomic_volume(symbol) for symbol in atoms.symbols])))
