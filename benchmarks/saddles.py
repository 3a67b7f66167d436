"""Where the constraint terms lead by themselves: a displacement follows its own loss down, without a network.

Run `python benchmarks/saddles.py --out FILE`; about two minutes of one core. The loss is the absolute term in units of
the start, H² + w_m |M|², from starts displaced from the minima of `metals:dev` with up to 12 atoms; L-BFGS follows it
with exact gradients through the potential until it rests. A loss that ends at saddle points here teaches an actor to
end there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from constraints import MINIMA, REST, destinations
from scipy.optimize import minimize
from torch import Tensor

from relaxrl.graph import max_force
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import TorchPotential, parse_calculator
from relaxrl.structures import perturb, read_structures
from relaxrl.training.violations import after_step, evaluate, violations
from relaxrl.typing import FloatArray

SIZES = (0.1, 0.2, 0.3)
"""Å, displacement of the starts."""
WEIGHTS = (0.0, 0.1, 1.0, 10.0, float("inf"))
"""w_m; infinite: forces alone."""
MAX_ATOMS = 12
ITERATIONS = 300


def followed(start: Atoms, lowest: Tensor, weight: float, potential: TorchPotential) -> tuple[Atoms, float]:
    """Where the loss leads from a start, and the largest force there, eV/Å."""
    graph, _ = evaluate(potential, graph_from_atoms(start))
    before = violations(graph, lowest)
    energy, force = before.energy.mean(), before.forces.square().sum(-1).mean().sqrt()
    scalar, vector = (0.0, 1.0) if weight == float("inf") else (1.0, weight)

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        displacement = torch.tensor(flat.reshape(-1, 3), requires_grad=True)
        left = violations(after_step(potential, graph, displacement)[0], lowest)
        h, m = left.energy / energy, left.forces / force
        value = (scalar * h.square() + vector * m.square().sum(-1)).mean()
        (slope,) = torch.autograd.grad(value, displacement)
        return float(value.detach()), slope.numpy().ravel()

    found = minimize(
        loss,
        np.zeros(3 * len(start)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "ftol": 1e-14, "gtol": 1e-9},
    )
    end = start.copy()
    end.positions += found.x.reshape(-1, 3)
    return end, float(max_force(evaluate(potential, graph_from_atoms(end))[0])[0])


def main() -> None:
    """Print and store a table: shares of the starts by where they come to rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what it holds is not computed again")
    parser.add_argument("--only", nargs="+", metavar="SIZE/WEIGHT", help="such as 0.3/1.0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    potential = parse_calculator("emt").potential()
    assert isinstance(potential, TorchPotential)
    minima = [crystal.atoms for crystal in read_structures(MINIMA) if len(crystal.atoms) <= MAX_ATOMS]
    lowest = evaluate(potential, graph_from_atoms(minima))[0].energy
    assert lowest is not None
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for size in SIZES:
        generator = np.random.default_rng(0)
        starts = [perturb(atoms, size, generator) for atoms in minima]
        for weight in WEIGHTS:
            key = f"{size}/{weight}"
            if key in known or (arguments.only and key not in arguments.only):
                continue
            ends = [
                followed(start, bottom[None], weight, potential) for start, bottom in zip(starts, lowest, strict=True)
            ]
            rest = [k for k, (_, fmax) in enumerate(ends) if fmax < REST]
            shares = destinations([ends[k][0] for k in rest], lowest[rest].tolist(), potential)
            known[key] = {name: value * len(rest) / len(ends) for name, value in shares.items()}
            known[key]["not at rest"] = 1 - len(rest) / len(ends)
            arguments.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            print(key, {name: f"{value:.0%}" for name, value in known[key].items()}, flush=True)
    print(table(known))


def table(known: dict[str, dict[str, float]]) -> str:
    """Shares at saddle points in Markdown: a row for each weight, a column for each size of the displacement."""
    lines = ["| w_m | " + " | ".join(f"{size} Å" for size in SIZES) + " |", "| --- " * (len(SIZES) + 1) + "|"]
    for weight in WEIGHTS:
        title = {0.0: "0: energy alone", float("inf"): "forces alone"}.get(weight, f"{weight:g}")
        cells = []
        for size in SIZES:
            found = known.get(f"{size}/{weight}")
            cells.append("" if found is None else f"{found['saddle']:.0%} ({found['same']:.0%})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
