"""Tabulated functions as piecewise cubics on a uniform grid, evaluated in torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from relaxrl.typing import FloatArray


@dataclass(frozen=True)
class CubicTable:
    """Several functions on one uniform grid that starts at 0.

    Attributes:
        coefficients: (n_functions * n_intervals, 4); constant term first, in units of the grid's spacing.
        spacing: Distance of grid points.
        n_intervals: Grid points less one.
    """

    coefficients: Tensor
    spacing: float
    n_intervals: int
    _copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def end(self) -> float:
        """The last grid point."""
        return self.spacing * self.n_intervals

    @staticmethod
    def smooth(values: FloatArray, spacing: float, first: int = 0) -> CubicTable:
        """Twice continuously differentiable splines with not-a-knot ends, as SciPy's and ASE's are.

        Args:
            values: (n_functions, n_points).
            spacing: Distance of grid points.
            first: Grid points to leave out at the start; the functions are NaN there.
        """
        rows = np.full((*values.shape[:-1], values.shape[-1] - 1, 4), np.nan)
        spline = CubicSpline(np.arange(first, values.shape[-1]), values[:, first:], axis=1)
        rows[:, first:] = np.moveaxis(spline.c[::-1], (0, 1, 2), (2, 1, 0))
        return _table(rows, spacing)

    @staticmethod
    def local(values: FloatArray, spacing: float) -> CubicTable:
        """Hermite cubics with slopes from five points, as LAMMPS makes them; second derivatives jump at grid points.

        Args:
            values: (n_functions, n_points), at least 5 points.
            spacing: Distance of grid points.
        """
        slopes = np.empty_like(values)
        slopes[:, 2:-2] = (values[:, :-4] - values[:, 4:] + 8.0 * (values[:, 3:-1] - values[:, 1:-3])) / 12.0
        slopes[:, 1] = 0.5 * (values[:, 2] - values[:, 0])
        slopes[:, -2] = 0.5 * (values[:, -1] - values[:, -3])
        slopes[:, 0] = values[:, 1] - values[:, 0]
        slopes[:, -1] = values[:, -1] - values[:, -2]
        step, left, right = np.diff(values), slopes[:, :-1], slopes[:, 1:]
        rows = np.stack([values[:, :-1], left, 3.0 * step - 2.0 * left - right, left + right - 2.0 * step], axis=-1)
        return _table(rows, spacing)

    def __call__(self, functions: Tensor, arguments: Tensor) -> Tensor:
        """Values of `functions` (m,) at `arguments` (m,); beyond the grid the first or last cubic goes on."""
        scaled = arguments / self.spacing
        interval = scaled.detach().nan_to_num(0.0).clamp(0, self.n_intervals - 1).to(torch.int64)
        t = scaled - interval
        rows = self._like(arguments).index_select(0, functions * self.n_intervals + interval)
        c0, c1, c2, c3 = rows.unbind(dim=1)
        return ((c3 * t + c2) * t + c1) * t + c0

    def _like(self, other: Tensor) -> Tensor:
        """The coefficients with the device and dtype of `other`: megabytes, so copied once."""
        key = (other.device, other.dtype)
        if key not in self._copies:
            self._copies[key] = self.coefficients.to(other)
        return self._copies[key]


def _table(rows: FloatArray, spacing: float) -> CubicTable:
    return CubicTable(torch.from_numpy(rows.reshape(-1, 4)), spacing, rows.shape[-2])
