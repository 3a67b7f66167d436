"""What planning in a pretrained trunk gives, and what it costs: eight of the smaller starts of `metals:dev`.

Run `python benchmarks/planning_in_a_trunk.py runs/pretrain ...` with run folders or agents. A minute of one core each.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from relaxrl import RLOptimizer, load_agent
from relaxrl.potentials import CountedCalculator, EvaluationCounter, TorchCalculator, parse_calculator
from relaxrl.structures import read_structures

FMAX, MAX_STEPS = 0.01, 300
PICKED = np.linspace(0, 20, 8).round().astype(int)
"""Places among the starts, ordered by size: 5 to 17 atoms."""


def counted(atoms: Atoms) -> tuple[Atoms, EvaluationCounter]:
    """A copy that counts its evaluations of EMT."""
    counter, copy = EvaluationCounter(), atoms.copy()
    copy.calc = CountedCalculator(TorchCalculator(parse_calculator("emt").potential()), counter)
    return copy, counter


def main() -> None:
    """Relax each start with BFGS and with each agent, and print a row per start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="+", help="folders of potentials or agents, or names of shipped agents")
    arguments = parser.parse_args()
    starts = sorted((crystal.atoms for crystal in read_structures("metals:dev")), key=len)
    for name in arguments.agents:
        agent, ratios, costs = load_agent(name), [], []
        for start in (starts[k] for k in PICKED):
            atoms, reference = counted(start)
            BFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS)
            atoms, counter = counted(start)
            began = time.process_time()
            optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
            optimizer.run(fmax=FMAX, steps=MAX_STEPS)
            seconds = time.process_time() - began
            ratios.append(counter.count / reference.count)
            costs.append(seconds / counter.count)
            whose = "" if optimizer.agent_in_charge else ", handed over"
            print(f"{name}: {len(start)} atoms, {counter.count} of BFGS's {reference.count}, {seconds:.1f} s{whose}")
        ratio, cost = np.exp(np.log(ratios).mean()), np.mean(costs)
        print(f"{name}: {ratio:.3f} of BFGS's evaluations, {cost:.2f} s of a core per evaluation", flush=True)


if __name__ == "__main__":
    main()
