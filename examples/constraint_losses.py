"""Constraint losses away from atoms: a network that learns initial data of general relativity from noisy targets.

A black hole of mass 1 and linear momentum P, seen in a box beside it. Space is conformally flat, so that the data are
a conformal factor ψ and a vector potential W (Bowen and York 1980, doi:10.1103/PhysRevD.21.2047), on a grid, which must
satisfy

- the Hamiltonian constraint  H = ∇²ψ + A_ij A^ij ψ^-7 / 8 = 0,
- the momentum constraint     M_i = ∂_j A_ij = 0,  with  A_ij = ∂_i W_j + ∂_j W_i - (2/3) δ_ij ∂_k W_k.

W is known in closed form, ψ comes from a Newton solve on the grid. The targets are this solution plus noise, so they
violate the constraints strongly: second differences amplify noise. A small sine network from position to (ψ, W) fits
them under the constraint losses. It starts rough, violating the constraints more than the targets do; as the medians of
|H| and |M| fall to 2 and 1 decades below the targets', the curriculum fades the data term and raises the constraint
terms. A control without constraint terms shows what the smoothness of the network does alone.

Run as `python examples/constraint_losses.py --out runs/constraint_losses`.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from relaxrl.losses import (
    ConstraintLossConfig,
    CurriculumState,
    absolute_loss,
    constraint_loss,
    curriculum_state,
    median_log10,
    pictures,
    point_constraint_loss,
    scheduled_weights,
)
from relaxrl.seeding import Generators

MOMENTUM = (0.3, 1.0, -0.6)
"""P of the black hole, in units of its mass."""
LOW, HIGH = 1.5, 3.5
"""The box, in masses: the hole at the origin is outside."""


# --- the physics, on a grid (..., n, n, n) of spacing h ---------------------------------------------------------------


def differences(field: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """First and second central differences at interior points.

    Args:
        field: (k, n, n, n).
        h: Grid spacing.

    Returns:
        (k, 3, m, m, m) and (k, 3, 3, m, m, m), with m = n - 2.
    """
    m = field.shape[-1] - 2

    def at(*shift: int) -> Tensor:
        return field[
            :, 1 + shift[0] : 1 + shift[0] + m, 1 + shift[1] : 1 + shift[1] + m, 1 + shift[2] : 1 + shift[2] + m
        ]

    unit = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    first, second = [], []
    for i in range(3):
        plus, minus = at(*unit[i]), at(*(-c for c in unit[i]))
        first.append((plus - minus) / (2 * h))
        row = []
        for j in range(3):
            if i == j:
                row.append((plus - 2 * at(0, 0, 0) + minus) / h**2)
                continue
            corner = [
                at(*(si * a + sj * b for a, b in zip(unit[i], unit[j], strict=True)))
                for si in (1, -1)
                for sj in (1, -1)
            ]
            row.append((corner[0] - corner[1] - corner[2] + corner[3]) / (4 * h**2))
        second.append(torch.stack(row, dim=1))
    return torch.stack(first, dim=1), torch.stack(second, dim=1)


def constraints(fields: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """H, (m³,), and M, (m³, 3), of fields (4, n, n, n) = (ψ, W) at the interior points, m = n - 2."""
    first, second = differences(fields, h)
    gradient = first[1:]  # (component j, direction i)
    symmetric = gradient + gradient.transpose(0, 1)
    trace = torch.einsum("iixyz->xyz", gradient)
    curvature = symmetric - (2 / 3) * torch.eye(3, dtype=fields.dtype)[:, :, None, None, None] * trace
    psi = fields[0, 1:-1, 1:-1, 1:-1]
    squared = curvature.square().sum((0, 1))
    # A network may start with any ψ; a black hole's is above 1.
    hamiltonian = torch.einsum("iixyz->xyz", second[0]) + squared * psi.clamp(min=0.5) ** -7 / 8
    laplacian = torch.einsum("kiixyz->kxyz", second[1:])
    momentum = laplacian + torch.einsum("jijxyz->ixyz", second[1:]) / 3
    return hamiltonian.flatten(), momentum.flatten(1).T


def axis_points(n: int, *, staggered: bool = False) -> Tensor:
    """Coordinates along each axis: n points of the box, or the n - 1 points halfway between them."""
    points = torch.linspace(LOW, HIGH, n, dtype=torch.float64)
    return (points[1:] + points[:-1]) / 2 if staggered else points


def grid_positions(axis: Tensor) -> Tensor:
    """(n³, 3) positions, x the slowest."""
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def exact_fields(axis: Tensor) -> Tensor:
    """The initial data (ψ, W) on a cubic grid, (4, n, n, n): W in closed form, ψ with H = 0 to round-off.

    Newton's method for H = 0 at the interior points; ψ = 1 + 1/(2r) on the faces.
    """
    n, h = len(axis), float(axis[1] - axis[0])
    position = grid_positions(axis)
    r = position.norm(dim=1)
    momentum = torch.tensor(MOMENTUM, dtype=torch.float64)
    normal = position / r[:, None]
    w = -(7 * momentum + normal * (normal @ momentum)[:, None]) / (4 * r[:, None])
    fields = torch.cat([(1 + 0.5 / r)[:, None], w], dim=1).T.reshape(4, n, n, n).contiguous()
    m = n - 2
    line = scipy.sparse.diags_array([np.ones(m - 1), -2 * np.ones(m), np.ones(m - 1)], offsets=[-1, 0, 1])
    one = scipy.sparse.eye_array(m)
    laplacian = sum(
        scipy.sparse.kron(scipy.sparse.kron(a, b), c)
        for a, b, c in ((line, one, one), (one, line, one), (one, one, line))
    ) / (h * h)
    for _ in range(5):
        hamiltonian, _ = constraints(fields, h)
        psi = fields[0, 1:-1, 1:-1, 1:-1].flatten()
        flat = fields.clone()
        flat[0] = 1.0  # leaves A² / 8 as H
        squared = 8 * constraints(flat, h)[0]
        jacobian = laplacian + scipy.sparse.diags_array((-7 / 8 * squared * psi**-8).numpy())
        update = torch.from_numpy(spsolve(jacobian.tocsc(), hamiltonian.numpy()))
        fields[0, 1:-1, 1:-1, 1:-1] -= update.reshape(m, m, m)
    return fields


# --- the learning -----------------------------------------------------------------------------------------------------


class SineNetwork(nn.Module):
    """Position to fields through sines (Sitzmann et al. 2020, arXiv:2006.09661): smooth, but able to follow noise."""

    def __init__(self, width: int, mean: Tensor, scale: Tensor, generator: torch.Generator, frequency: float) -> None:
        super().__init__()
        sizes = [3, width, width, 4]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.frequency = frequency
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                bound = 1 / 3 if i == 0 else math.sqrt(6 / sizes[i]) / frequency
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, position: Tensor) -> Tensor:
        """(n, 3) positions to (n, 4) fields."""
        x = (position - (LOW + HIGH) / 2) * (2 / (HIGH - LOW))
        for layer in self.layers[:-1]:
            x = torch.sin(self.frequency * layer(x))
        return self.mean + self.scale * self.frequency * self.layers[-1](x)


@dataclass(frozen=True)
class Problem:
    """One grid with its exact fields, its noisy targets and their violations."""

    position: Tensor
    h: float
    exact: Tensor
    target: Tensor
    scalar_true: Tensor
    vector_true: Tensor

    @staticmethod
    def make(axis: Tensor, noise: float, generator: torch.Generator) -> Problem:
        """Solve on this grid and add noise of this standard deviation."""
        h = float(axis[1] - axis[0])
        exact = exact_fields(axis)
        target = exact + noise * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
        return Problem(grid_positions(axis), h, exact, target, *constraints(target, h))

    def fields(self, output: Tensor) -> Tensor:
        """Network output (n³, 4) as fields (4, n, n, n)."""
        return output.T.reshape(self.exact.shape)


def interior(fields: Tensor) -> Tensor:
    """The output at the points where the constraints are defined: (4, n, n, n) to (m³, 4)."""
    return fields[:, 1:-1, 1:-1, 1:-1].flatten(1).T


@dataclass(frozen=True)
class Record:
    """One line of the table: a validation on the staggered grid.

    Attributes:
        step: Training step.
        state: Medians of the constraints relative to the target's, progress.
        data_weight: λ_data from here on.
        rel_weight: λ_rel from here on.
        misfit: Root mean square distance to the noisy targets, in units of the noise.
        error: Root mean square distance to the exact solution, in units of the noise; unknown to the training.
        losses: Terms of the loss on the training grid.
    """

    step: int
    state: CurriculumState
    data_weight: float
    rel_weight: float
    misfit: float
    error: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Result:
    """The trained network, where it ended and how it went there."""

    network: SineNetwork
    training: Problem
    validation: Problem
    config: ConstraintLossConfig
    records: list[Record]


def train(
    *, points: int, steps: int, noise: float, width: int, seed: int, config: ConstraintLossConfig, frequency: float
) -> Result:
    """Fit noisy targets under the constraint losses, weights by the curriculum at each of 40 validations."""
    generators = Generators(seed)
    training = Problem.make(axis_points(points), noise, generators.torch("training noise"))
    validation = Problem.make(axis_points(points, staggered=True), noise, generators.torch("validation noise"))
    outputs = training.target.flatten(1).T
    network = SineNetwork(width, outputs.mean(0), outputs.std(0), generators.torch("network"), frequency).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=2e-5)
    weights, records = config.weights, []
    every = max(steps // 40, 1)
    for step in range(steps + 1):
        fields = training.fields(network(training.position))
        scalar, vector = constraints(fields, training.h)
        loss = constraint_loss(
            config,
            output_pred=interior(fields) / noise,
            output_true=interior(training.target) / noise,
            scalar_pred=scalar,
            scalar_true=training.scalar_true,
            vector_pred=vector,
            vector_true=training.vector_true,
            weights=weights,
        )
        if step % every == 0:
            state, misfit, error = validate(network, validation, noise, config)
            weights = scheduled_weights(config, state.progress)
            records.append(Record(step, state, weights.data, weights.rel, misfit, error, loss.metrics()))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
    return Result(network, training, validation, config, records)


def validate(
    network: SineNetwork, problem: Problem, noise: float, config: ConstraintLossConfig
) -> tuple[CurriculumState, float, float]:
    """Violations relative to the targets', and distances to targets and exact solution in units of the noise."""
    with torch.no_grad():
        fields = problem.fields(network(problem.position))
        scalar, vector = constraints(fields, problem.h)
    state = curriculum_state(
        config.curriculum,
        scalar_pred=scalar,
        scalar_true=problem.scalar_true,
        vector_pred=vector,
        vector_true=problem.vector_true,
    )
    misfit, error = (
        float(interior(fields - reference).square().mean().sqrt()) / noise
        for reference in (problem.target, problem.exact)
    )
    return state, misfit, error


def print_table(records: Sequence[Record]) -> None:
    """The run, a line for every fourth validation."""
    print("  step    Δ_h    Δ_m  worst  progress  λ_data  λ_rel  misfit/noise  error/noise")
    for record in [*records[:-1][::4], records[-1]]:
        print(table_line(record))


def table_line(record: Record) -> str:
    """One validation."""
    state = record.state
    return (
        f"{record.step:6d} {state.delta_h:6.2f} {state.delta_m:6.2f} {state.worst_ratio:6.2f} {state.progress:9.2f} "
        f"{record.data_weight:7.2f} {record.rel_weight:6.2f} {record.misfit:13.2f} {record.error:12.2f}"
    )


def save_pictures(result: Result, folder: Path) -> None:
    """The pictures of the losses, on the validation grid."""
    folder.mkdir(parents=True, exist_ok=True)
    problem, records = result.validation, result.records
    fields = problem.fields(result.network(problem.position)).detach().requires_grad_()
    scalar, vector = constraints(fields, problem.h)
    point_loss = point_constraint_loss(
        result.config,
        scalar_pred=scalar,
        scalar_true=problem.scalar_true,
        vector_pred=vector,
        vector_true=problem.vector_true,
    )
    (gradient,) = torch.autograd.grad(point_loss.mean(), fields)
    position = interior(problem.position.T.reshape(3, *problem.exact.shape[1:]))
    steps = [record.step for record in records]
    reference = {
        "median |H|": 10 ** median_log10(problem.scalar_true),
        "median |M|": 10 ** median_log10(torch.linalg.vector_norm(problem.vector_true, dim=-1)),
    }
    trained_on = result.training
    reference["L_abs"] = float(absolute_loss(trained_on.scalar_true, trained_on.vector_true))
    history = {
        "L_abs": [record.losses["absolute"] for record in records],
        "median |H|": [reference["median |H|"] * 10**record.state.delta_h for record in records],
        "median |M|": [reference["median |M|"] * 10**record.state.delta_m for record in records],
    }
    figures = {
        "data_term": pictures.plot_data_term(interior(fields), interior(problem.target)),
        "improvement_curve": pictures.plot_improvement_curve(result.config.alpha_improve, clip=result.config.clip),
        "violations": pictures.plot_violations(scalar, problem.scalar_true, vector, problem.vector_true),
        "point_loss": pictures.plot_point_loss(position, point_loss, interior(gradient)[:, 1:]),
        "history": pictures.plot_history(steps, history, reference),
        "curriculum": pictures.plot_curriculum(steps, [record.state for record in records]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)


def main(arguments: Sequence[str] | None = None) -> tuple[Result, Result]:
    """Train with and without constraint terms, print the table, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10, help="grid points along each axis")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--width", type=int, default=48, help="neurons in each hidden layer")
    parser.add_argument("--noise", type=float, default=2e-3, help="standard deviation of the noise in the targets")
    parser.add_argument("--frequency", type=float, default=12.0, help="of the sines: how rough the network starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/constraint_losses"), help="folder for the pictures")
    options = parser.parse_args(arguments)
    runs = [
        train(
            points=options.points,
            steps=options.steps,
            noise=options.noise,
            width=options.width,
            seed=options.seed,
            config=config,
            frequency=options.frequency,
        )
        for config in (ConstraintLossConfig(), ConstraintLossConfig(physics_weight=0.0))
    ]
    result, control = runs
    print_table(result.records)
    print(f"control with the data term alone:\n{table_line(control.records[-1])}")
    save_pictures(result, options.out)
    print(f"pictures in {options.out}")
    return result, control


if __name__ == "__main__":
    main()
