"""What a policy step costs as cells grow, and how many force evaluations relaxations of large cells take.

    OMP_NUM_THREADS=1 python benchmarks/large_cells.py steps
    OMP_NUM_THREADS=1 python benchmarks/large_cells.py relax --methods RLOptimizer,LBFGS,BFGSLineSearch --sizes 256

Random alloys of two EMT metals on an fcc lattice of their mean lattice constant, strained by up to 2 % and rattled by
0.1 Å per component, in fixed cells. Times are CPU times of one core.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS, LBFGS, BFGSLineSearch
from ase.optimize.optimize import Optimizer
from torch import Tensor

from relaxrl import RLOptimizer
from relaxrl.agents import Agent, load_agent
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.nn.hessian_head import Curvature
from relaxrl.nn.krylov import floored_solve
from relaxrl.nn.solve import newton_displacement
from relaxrl.nn.sparse import SparseHessian
from relaxrl.potentials import EMT, TorchCalculator
from relaxrl.typing import FloatArray

CELLS = {
    8: (2, 1, 1),
    32: (2, 2, 2),
    108: (3, 3, 3),
    144: (3, 3, 4),
    256: (4, 4, 4),
    500: (5, 5, 5),
    1008: (6, 6, 7),
    2048: (8, 8, 8),
}
"""Repetitions of the cubic fcc cell for each number of atoms."""
ALLOYS = (("Cu", "Au"), ("Ni", "Pt"), ("Al", "Ag"))
LARGEST_DENSE = 500
"""Atoms; a dense solve of more takes seconds."""


class CountingHessian(SparseHessian):
    """Counts its products."""

    products = 0

    def __matmul__(self, displacement: FloatArray) -> FloatArray:
        """Product with a vector, counted."""
        type(self).products += 1
        return super().__matmul__(displacement)


class CountingCalculator(TorchCalculator):
    """EMT that counts force evaluations."""

    evaluations = 0

    def calculate(self, *args: object, **kwargs: object) -> None:
        """Evaluate, and count."""
        self.evaluations += 1
        super().calculate(*args, **kwargs)


def start(n_atoms: int, seed: int) -> Atoms:
    """A strained and rattled random alloy."""
    rng = np.random.default_rng(seed)
    symbols = ALLOYS[seed % len(ALLOYS)]
    lattice_constant = float(np.mean([bulk(symbol, cubic=True).cell[0, 0] for symbol in symbols]))
    atoms = bulk("Cu", a=lattice_constant, cubic=True).repeat(CELLS[n_atoms])
    atoms.set_chemical_symbols(list(rng.choice(symbols, n_atoms)))
    strain = rng.uniform(-0.02, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    atoms.positions += 0.1 * rng.standard_normal((n_atoms, 3))
    return atoms


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Least CPU time of a call, tried for about this long."""
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def print_steps(sizes: list[int], agent_name: str, seconds: float) -> None:
    """Print the table of times of one policy step."""
    agent = load_agent(agent_name)
    print("atoms |  edges | list | network | dense solve | Krylov solve (products) | whole step | peak memory, MB")
    for n_atoms in sizes:
        print(step_row(agent, n_atoms, seconds), flush=True)


@torch.no_grad()
def step_row(agent: Agent, n_atoms: int, seconds: float) -> str:
    """One line of the table."""
    actor = agent.actor
    graph = _with_forces(start(n_atoms, seed=0))
    inputs = actor._inputs(graph)

    def network() -> Curvature:
        known: Curvature = actor.head(actor.trunk(inputs), inputs)
        return known

    known = network()
    blocks, rows = known.blocks, known.rows

    def solve(limit: int) -> Tensor:
        index, graphs = inputs.edge_index, inputs.graph_index
        return newton_displacement(blocks, rows, inputs.forces, index, graphs, 1, dense_limit=limit)

    listed = milliseconds(lambda: with_edges(graph, actor.cutoff), seconds)
    net = milliseconds(network, seconds)
    krylov = milliseconds(lambda: solve(0), seconds)
    whole = milliseconds(lambda: agent.act(graph), seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dense = f"{milliseconds(lambda: solve(n_atoms), seconds):.1f}" if n_atoms <= LARGEST_DENSE else "-"
    hessian = SparseHessian.from_edges(blocks, rows, inputs.edge_index, n_atoms)
    counting = CountingHessian(hessian.pairs, hessian.sites)
    CountingHessian.products = 0
    floored_solve(counting, inputs.forces.double().numpy().ravel(), actor.config.floor)
    return (
        f"{n_atoms:5d} | {inputs.edge_index.shape[1]:6d} | {listed:5.1f} | {net:6.1f} | {dense:>8} | "
        f"{krylov:8.1f} ({CountingHessian.products}) | {whole:8.1f} | {memory:6.0f}"
    )


def _with_forces(atoms: Atoms) -> AtomGraph:
    graph = graph_from_atoms(atoms)
    return graph.replace(forces=EMT().evaluate(graph).forces)


def print_relaxations(sizes: list[int], methods: list[str], agent: str, n_starts: int, fmax: float) -> None:
    """Print one line per relaxation."""
    makers: dict[str, Callable[[Atoms], Optimizer]] = {
        "RLOptimizer": lambda atoms: RLOptimizer(atoms, agent=agent, logfile=None),
        "no-agent": lambda atoms: RLOptimizer(atoms, agent=None, logfile=None),
        "BFGS": lambda atoms: BFGS(atoms, logfile=None),
        "LBFGS": lambda atoms: LBFGS(atoms, logfile=None),
        "BFGSLineSearch": lambda atoms: BFGSLineSearch(atoms, logfile=None),
    }
    print("atoms | seed | method         | converged | evaluations | energy/eV     | CPU s | s per evaluation")
    for n_atoms in sizes:
        for seed in range(n_starts):
            for method in methods:
                atoms = start(n_atoms, seed)
                atoms.calc = CountingCalculator(EMT(), stress=False)
                begin = time.process_time()
                optimizer = makers[method](atoms)
                converged = optimizer.run(fmax=fmax, steps=1000)
                seconds = time.process_time() - begin
                evaluations = atoms.calc.evaluations
                print(
                    f"{n_atoms:5d} | {seed:4d} | {method:14} | {converged!s:9} | {evaluations:11d} | "
                    f"{atoms.get_potential_energy():13.4f} | {seconds:6.1f} | {seconds / evaluations:.3f} "
                    f"{getattr(optimizer, 'handover_reason', '')}",
                    flush=True,
                )


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("steps", "relax"))
    parser.add_argument("--sizes", default=",".join(map(str, CELLS)), help=f"of {list(CELLS)}")
    parser.add_argument("--agent", default="metals")
    parser.add_argument("--seconds", type=float, default=1.0, help="steps: time spent on each number")
    parser.add_argument("--methods", default="RLOptimizer,LBFGS", help="relax: also no-agent, BFGS, BFGSLineSearch")
    parser.add_argument("--starts", type=int, default=3, help="relax: starts of each size")
    parser.add_argument("--fmax", type=float, default=0.01, help="relax: eV/Å")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [int(size) for size in args.sizes.split(",")]
    if args.table == "steps":
        print_steps(sizes, args.agent, args.seconds)
    else:
        print_relaxations(sizes, args.methods.split(","), args.agent, args.starts, args.fmax)


if __name__ == "__main__":
    main()
