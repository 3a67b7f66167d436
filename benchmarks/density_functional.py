"""Relaxations under density-functional theory: force evaluations and wall time of Quantum ESPRESSO through ASE.

    apt install quantum-espresso quantum-espresso-data
    python -m benchmarks.density_functional --methods BFGS,BFGSLineSearch,GoodOldQuasiNewton,none,metals

Small crystals with the norm-conserving pseudopotentials of the package, in LDA, with few plane waves and k-points: what
counts is how many self-consistent calculations a relaxation takes, and that their small errors are no trouble.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.optimize import BFGS, BFGSLineSearch, GoodOldQuasiNewton

from relaxrl.optimize import RLOptimizer
from relaxrl.potentials import CountedCalculator, EvaluationCounter

CLASSICAL = {"BFGS": BFGS, "BFGSLineSearch": BFGSLineSearch, "GoodOldQuasiNewton": GoodOldQuasiNewton}
PSEUDOPOTENTIALS = {"Si": "Si.pz-vbc.UPF", "Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF", "Mg": "Mg.pz-n-vbc.UPF"}
RATTLE = 0.1
"""Å."""


def crystals() -> dict[str, tuple[Atoms, tuple[int, int, int]]]:
    """Starts by name, displaced, with their k-points."""
    made = {
        "Si, 2 atoms": (bulk("Si", a=5.40), (3, 3, 3)),
        "AlAs, 2 atoms": (bulk("AlAs", "zincblende", a=5.62), (3, 3, 3)),
        "Al, 4 atoms": (bulk("Al", a=3.97, cubic=True), (3, 3, 3)),
        "Al with Mg, 4 atoms": (bulk("Al", a=4.02, cubic=True), (3, 3, 3)),
    }
    made["Al with Mg, 4 atoms"][0].symbols[0] = "Mg"
    for seed, (atoms, _) in enumerate(made.values()):
        atoms.rattle(RATTLE, seed=seed)
    return made


def calculator(kpts: tuple[int, int, int], symbols: set[str], folder: Path, pseudo: Path) -> Espresso:
    """Quantum ESPRESSO, converged well enough for forces of 0.01 eV/Å."""
    return Espresso(
        profile=EspressoProfile(command="pw.x", pseudo_dir=str(pseudo)),
        pseudopotentials={symbol: PSEUDOPOTENTIALS[symbol] for symbol in symbols},
        directory=folder,
        kpts=kpts,
        input_data={
            "control": {"tprnfor": True},
            "system": {"ecutwfc": 16.0, "occupations": "smearing", "smearing": "mv", "degauss": 0.02, "nosym": True},
            "electrons": {"conv_thr": 1e-9},
        },
    )


def main() -> None:
    """Relax each crystal by each method, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="BFGS,BFGSLineSearch,GoodOldQuasiNewton,none,metals")
    parser.add_argument("--pseudo", type=Path, default=Path("/usr/share/espresso/pseudo"), help="folder")
    parser.add_argument("--fmax", type=float, default=0.02, help="eV/Å")
    arguments = parser.parse_args()
    if shutil.which("pw.x") is None:
        sys.exit("pw.x of Quantum ESPRESSO is not here: apt install quantum-espresso quantum-espresso-data")
    if missing := [name for name in PSEUDOPOTENTIALS.values() if not (arguments.pseudo / name).is_file()]:
        sys.exit(
            f"{arguments.pseudo} lacks {', '.join(missing)}; they come with quantum-espresso-data, or give --pseudo"
        )
    warnings.simplefilter("ignore")  # elements that an agent was not trained on
    methods = arguments.methods.split(",")
    print(f"| crystal | {' | '.join(methods)} |\n| --- |{' --- |' * len(methods)}")
    total = dict.fromkeys(methods, (0.0, 0.0))
    started = crystals()
    for name, (start, kpts) in started.items():
        cells = []
        for method in methods:
            atoms, counter = start.copy(), EvaluationCounter()
            with tempfile.TemporaryDirectory() as folder:
                made = calculator(kpts, set(atoms.symbols), Path(folder), arguments.pseudo)
                atoms.calc = CountedCalculator(made, counter, name)
                began = time.perf_counter()
                if method in CLASSICAL:
                    done = CLASSICAL[method](atoms, logfile=None).run(fmax=arguments.fmax, steps=100)
                else:
                    done = RLOptimizer(atoms, agent=method, logfile=None).run(fmax=arguments.fmax, steps=100)
                seconds = time.perf_counter() - began
            total[method] = (total[method][0] + np.log(counter.count), total[method][1] + seconds)
            cells.append(f"{counter.count}{'' if done else ' (not converged)'}, {seconds:.0f} s")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    means = [f"{np.exp(logs / len(started)):.1f}, {seconds:.0f} s" for logs, seconds in total.values()]
    print(f"| geometric mean, sum | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
