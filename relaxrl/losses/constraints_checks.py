"""Checks of arguments: each raises a ValueError that names the argument, what was expected and what came."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_number(name: str, value: float) -> None:
    """Refuse NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value}")


def check_weight(name: str, value: float) -> None:
    """Refuse negative and non-finite weights."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be a finite number that is not negative, got {value}")


def check_positive(name: str, value: float) -> None:
    """Refuse zero, negative and non-finite numbers."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be a positive finite number, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Refuse numbers outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1], got {value}")


def check_float(**fields: Tensor) -> None:
    """Refuse dtypes that can't hold the ranges in question: the smallest violation that counts is 1e-12."""
    for name, value in fields.items():
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"`{name}` must be float32 or float64, got {value.dtype}; convert it with .to()")


def check_same_shape(**fields: Tensor) -> None:
    """Refuse fields whose shape differs from that of the first."""
    (first, reference), *others = fields.items()
    for name, value in others:
        if value.shape != reference.shape:
            raise ValueError(f"`{name}` must have the shape of `{first}`, {_shape(reference)}, got {_shape(value)}")


def check_scalar_fields(**fields: Tensor) -> torch.Size:
    """The points' shape, (n_points,) or padded (n_structures, n_points), that all scalar fields must have."""
    check_float(**fields)
    name, value = next(iter(fields.items()))
    if value.dim() not in (1, 2):
        raise ValueError(
            f"`{name}` must have shape (n_points,) or (n_structures, n_points), got {_shape(value)}; "
            "flatten the axes of a grid"
        )
    check_same_shape(**fields)
    return value.shape


def check_vector_fields(points: torch.Size | None = None, **fields: Tensor) -> torch.Size:
    """The points' shape of vector fields, (n_points, D) or padded (n_structures, n_points, D)."""
    check_float(**fields)
    name, value = next(iter(fields.items()))
    expected = "(n_points, D) or (n_structures, n_points, D)" if points is None else str((*points, "D"))
    if value.dim() not in (2, 3) or value.shape[-1] == 0 or (points is not None and value.shape[:-1] != points):
        raise ValueError(f"`{name}` must have shape {expected} with D > 0, got {_shape(value)}")
    check_same_shape(**fields)
    return value.shape[:-1]


def check_points(points: torch.Size, mask: Tensor | None, batch: Tensor | None) -> None:
    """Check that `mask` and `batch` belong to points of this shape."""
    if mask is not None and (mask.dtype != torch.bool or mask.shape != points):
        raise ValueError(f"`mask` must be bool of shape {tuple(points)}, got {mask.dtype} of shape {_shape(mask)}")
    if batch is None:
        return
    if len(points) != 1:
        raise ValueError(
            f"`batch` is for flat points (n_points,), but these are padded, {tuple(points)}: use `mask` alone"
        )
    if batch.dtype != torch.int64 or batch.shape != points:
        raise ValueError(f"`batch` must be int64 of shape {tuple(points)}, got {batch.dtype} of shape {_shape(batch)}")
    if batch.numel() and int(batch.min()) < 0:
        raise ValueError(f"`batch` must hold indices of structures from 0, got {int(batch.min())}")


def check_finite(mask: Tensor | None, **fields: Tensor) -> None:
    """Refuse NaN and infinity at the points that count; padding may hold anything."""
    bad = {}
    for name, value in fields.items():
        wrong = ~torch.isfinite(value.detach())
        if mask is not None:
            wrong = wrong & mask.reshape(*mask.shape, *([1] * (value.dim() - mask.dim())))
        bad[name] = wrong
    # One look at all of them: each look waits for a GPU.
    if not bool(torch.stack([wrong.any() for wrong in bad.values()]).any()):
        return
    for name, wrong in bad.items():
        if n_wrong := int(wrong.sum()):
            first = tuple(wrong.nonzero()[0].tolist())
            raise ValueError(
                f"`{name}` must be finite, got {n_wrong} NaN or infinite values, the first at {first} "
                f"({float(fields[name].detach()[first])}); mask points that don't count"
            )


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)
