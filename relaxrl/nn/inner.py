"""Minimisation of a model that costs next to nothing, from a good guess of its Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Model = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Energy (), eV, and gradient (n_dof,), eV/Å, at a displacement (n_dof,), Å, from where the minimisation starts."""
Solve = Callable[[Tensor], Tensor]
"""H⁻¹ times a vector (n_dof,), with a positive definite H."""
Curvature = Callable[[Tensor], Solve]
"""Such a function for the model's Hessian at a displacement (n_dof,)."""

SHRINK = 0.3
"""Factor on a step that the model refuses."""
SLOW = 0.5
"""A step that leaves more than this part of the largest force is one from an outdated Hessian."""
SHORTEST = 1e-3
"""A step that would have to be shorter than this part of the proposal ends the minimisation."""


@dataclass(frozen=True)
class Limits:
    """Where a minimisation ends.

    Attributes:
        force: eV/Å; converged once no atom feels more.
        evaluations: Of the model.
        step: Å, of one atom in one iteration.
        radius: Å, of one atom from where it started; the minimisation ends where the first atom gets there.
    """

    force: float
    evaluations: int
    step: float
    radius: float


def minimize(model: Model, gradient: Tensor, curvature: Curvature, limits: Limits) -> Tensor:
    """The displacement at which the model has its minimum, or how far Newton steps and BFGS get.

    BFGS goes on from the Hessian at the start for as long as it is quick; after a slow step a new Hessian is taken.
    Far from the minimum that amounts to Newton's method, close to it one Hessian does.

    A step stands if the energy does not rise, or if the largest force falls and the energy is below that of the start.

    Args:
        model: At zero displacement its energy is 0.
        gradient: (n_dof,), eV/Å, of the model at zero displacement.
        curvature: Gives Hessians, made positive definite.
        limits: Where to end.

    Returns:
        (n_dof,), Å.

    References:
        Nocedal, Wright: Numerical Optimization, 2nd ed., algorithm 7.4.
    """
    displacement, energy = torch.zeros_like(gradient), gradient.new_zeros(())
    pairs: list[tuple[Tensor, Tensor]] = []
    solve = curvature(displacement)
    direction, scale = -solve(gradient), 1.0
    for _ in range(limits.evaluations):
        length = longest(direction)
        step = direction * scale * min(1.0, limits.step / max(length, 1e-12))
        if longest(displacement + step) > limits.radius:
            step = step * _share_within(displacement, step, limits.radius)
        new_energy, new_gradient = model(displacement + step)
        falls = new_energy <= energy or (new_energy < 0 and longest(new_gradient) < longest(gradient))
        if not (falls and bool(torch.isfinite(new_gradient).all())):
            scale *= SHRINK
            if scale < SHORTEST:
                break
            continue
        change = new_gradient - gradient
        slow = longest(new_gradient) > SLOW * longest(gradient)
        displacement, energy, gradient = displacement + step, new_energy, new_gradient
        if longest(gradient) <= limits.force or longest(displacement) > 0.999 * limits.radius:
            break
        if slow:
            solve, pairs = curvature(displacement), []
            direction, scale = -solve(gradient), 1.0
            continue
        # Steps along which the model is concave would make the Hessian indefinite.
        if float(step @ change) > 1e-3 * float(step.norm() * change.norm()):
            pairs.append((step, change))
        direction, scale = -_two_loop(gradient, pairs, solve), 1.0
    return displacement


def longest(vector: Tensor) -> float:
    """Largest norm of an atom's part of a vector (3 n_atoms,)."""
    return float(torch.linalg.vector_norm(vector.view(-1, 3), dim=1).max())


def _two_loop(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], solve: Solve) -> Tensor:
    """BFGS's inverse Hessian times the gradient."""
    vector, kept = gradient, []
    for step, change in reversed(pairs):
        inverse = 1.0 / (step @ change)
        coefficient = inverse * (step @ vector)
        vector = vector - coefficient * change
        kept.append((step, change, inverse, coefficient))
    vector = solve(vector)
    for step, change, inverse, coefficient in reversed(kept):
        vector = vector + (coefficient - inverse * (change @ vector)) * step
    return vector


def _share_within(displacement: Tensor, step: Tensor, radius: float) -> float:
    """Largest t ≤ 1 for which |d_i + t p_i| ≤ radius holds for all atoms."""
    d, p = displacement.view(-1, 3), step.view(-1, 3)
    a, b, c = p.square().sum(1), (d * p).sum(1), d.square().sum(1) - radius**2
    t = (-b + (b.square() - a * c).clamp(min=0.0).sqrt()) / a.clamp(min=1e-300)
    return float(t.clamp(min=0.0, max=1.0).min())
