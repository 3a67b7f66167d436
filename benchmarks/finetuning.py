"""An agent for metals meets silicon, carbon and their compounds: fine-tuned, and learning during a campaign.

python -m benchmarks.finetuning

The crystals are diamond, zincblende and wurtzite cells of Si and C with swapped atoms, vacancies, strain and noise,
under the Tersoff potential. What the agent is judged by has no parent in common with what it learned from. A few
minutes of one core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS

from relaxrl.optimize import Campaign, Conditions
from relaxrl.potentials import CountedCalculator, parse_calculator
from relaxrl.structures import Crystal, perturb
from relaxrl.structures.relaxation import relax
from relaxrl.training import OnlineLearning, finetune

POTENTIAL = Path(__file__).parents[1] / "tests" / "potentials" / "reference" / "SiC.tersoff"
FMAX = 0.01
LENGTH = {"Si": 5.43, "C": 3.57}


def prototypes() -> list[Atoms]:
    """Cells of 8 to 16 atoms."""
    wurtzite = bulk("SiC", "wurtzite", a=3.08, c=5.05)
    return [
        bulk("Si", "diamond", a=LENGTH["Si"], cubic=True),
        bulk("Si", "diamond", a=LENGTH["Si"]) * (2, 2, 1),
        bulk("C", "diamond", a=LENGTH["C"], cubic=True),
        bulk("SiC", "zincblende", a=4.36, cubic=True),
        bulk("SiC", "zincblende", a=4.36) * (2, 2, 2),
        wurtzite * (2, 1, 1),
        wurtzite * (2, 2, 1),
    ]


def crystals(n: int, seed: int) -> list[Crystal]:
    """Minima displaced by 0.05 to 0.2 Å, each of its own crystal."""
    generator, calculator, cells = np.random.default_rng(seed), parse_calculator(f"tersoff:{POTENTIAL}"), prototypes()
    found: list[Crystal] = []
    while len(found) < n:
        atoms = cells[int(generator.integers(len(cells)))].copy()
        if generator.uniform() < 0.7:
            swapped = generator.uniform(size=len(atoms)) < generator.uniform(0, 0.6)
            atoms.numbers[swapped] = 20 - atoms.numbers[swapped]
            share = float((atoms.numbers == 6).mean())
            wanted = (share * LENGTH["C"] + (1 - share) * LENGTH["Si"]) ** 3 * len(atoms) / 8
            atoms.set_cell(atoms.cell * (wanted / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * generator.normal(size=(3, 3))), scale_atoms=True)
        if generator.uniform() < 0.25 and len(atoms) > 7:
            del atoms[int(generator.integers(len(atoms)))]
        atoms.rattle(0.05, rng=generator)
        minimum = relax(atoms, calculator.create(), 1e-4, 500)
        if minimum is not None:
            name = f"{seed}-{len(found)}"
            found.append(Crystal(name, perturb(minimum, (0.05, 0.2), generator), name))
    return found


def evaluations(agent: str | None, starts: Sequence[Crystal], learn: OnlineLearning | None = None) -> np.ndarray:
    """Force evaluations of each start, in order."""
    conditions = Conditions(agent, parse_calculator(f"tersoff:{POTENTIAL}"), FMAX)
    campaign = Campaign([(start.id, start.atoms) for start in starts], conditions, learn=learn)
    done = list(campaign.run())
    failed = [one.name for one in done if not one.converged]
    print(f"  {agent}{' learning' if learn else ''}: {len(failed)} failures", flush=True)
    return np.array([one.force_evaluations for one in done])


def bfgs(starts: Sequence[Crystal]) -> np.ndarray:
    """Those of ASE's BFGS."""
    counts = []
    for start in starts:
        atoms = start.atoms.copy()
        atoms.calc = CountedCalculator(parse_calculator(f"tersoff:{POTENTIAL}").create())
        BFGS(atoms, logfile=None).run(fmax=FMAX, steps=2000)
        counts.append(atoms.calc.counter.count)
    return np.array(counts)


def ratio(counts: np.ndarray, reference: np.ndarray) -> float:
    """Geometric mean, pair by pair."""
    return float(np.exp(np.log(counts / reference).mean()))


def fine_tuning(agent: str, sizes: Sequence[int], updates: int) -> None:
    """Ratio to BFGS on unseen crystals before and after."""
    unseen = crystals(40, seed=1)
    reference = bfgs(unseen)
    print(f"no agent: {ratio(evaluations(None, unseen), reference):.3f} of BFGS's evaluations")
    print(f"{agent}: {ratio(evaluations(agent, unseen), reference):.3f}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            given = crystals(size, seed=0)
            result = finetune(
                agent, given, f"tersoff:{POTENTIAL}", Path(folder) / "agent", relaxations=size, updates=updates
            )
            after = ratio(evaluations(str(result.folder), unseen), reference)
        print(
            f"after {size} relaxations ({result.force_evaluations} evaluations, {result.seconds:.0f} s of relaxing): "
            f"{after:.3f}; error of one step {result.error_before:.0%} -> {result.error:.0%}",
            flush=True,
        )


def online(agent: str, n: int) -> None:
    """Evaluations of the first 20 structures of a campaign and of the last 20, with learning and without."""
    starts = crystals(n, seed=2)
    for learn in (None, OnlineLearning()):
        counts = evaluations(agent, starts, learn)
        label = "without learning" if learn is None else "learning"
        print(f"{label}: first 20 {counts[:20].mean():.1f}, last 20 {counts[-20:].mean():.1f}, all {counts.sum()}")
        for one in [] if learn is None else learn.rounds:
            print(f"  {one.text}")


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="metals")
    parser.add_argument("--sizes", type=int, nargs="*", default=[30])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--campaign", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.campaign:
        online(args.agent, args.campaign)
    if args.sizes:
        fine_tuning(args.agent, args.sizes, args.updates)


if __name__ == "__main__":
    main()
