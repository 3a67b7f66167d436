"""Invariant and equivariant features of lengths and vectors that are smooth everywhere, the zero vector included."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SMALLEST = 1e-6
"""eV/Å or Å: magnitudes well below it count as zero. Far under any fmax, far above float32's underflow when squared."""

LOG_RANGE = (-5.0, 1.0)
"""Decimal logarithms of magnitudes that are told apart: 1e-5 to 10 eV/Å or Å."""


def unit_vectors(vectors: Tensor) -> Tensor:
    """Directions (..., 3) of vectors (..., 3): of length 1, shrinking smoothly to 0 below `SMALLEST`."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + SMALLEST**2)


def smooth_norm(squared: Tensor) -> Tensor:
    """Square root with a finite slope at 0: s / (sqrt(s + ε²) + ε) is exactly 0 there, sqrt(s) far above ε²."""
    return squared / (torch.sqrt(squared + SMALLEST**2) + SMALLEST)


def log_magnitudes(vectors: Tensor) -> Tensor:
    """log10 |v| (...) of vectors (..., 3), levelling off at log10 of `SMALLEST`."""
    return 0.5 * torch.log10(vectors.square().sum(-1) + SMALLEST**2)


def gaussians(values: Tensor, start: float, end: float, number: int) -> Tensor:
    """Soft one-hot coding (..., number) of values (...): Gaussians at equal steps from start to end, one step wide."""
    centres = torch.linspace(start, end, number, dtype=values.dtype, device=values.device)
    step = (end - start) / max(number - 1, 1)
    return torch.exp(-0.5 * ((values.unsqueeze(-1) - centres) / step).square())


def bessel_basis(lengths: Tensor, cutoff: float, number: int) -> Tensor:
    """sqrt(2 n_b / r_c) sin(nπr / r_c) / r for n = 1..n_b, (n_edges, number), finite at r = 0.

    References:
        Gasteiger, Groß and Günnemann, Directional message passing for molecular graphs, arXiv:2003.03123, eq. 7.
    """
    n = torch.arange(1, number + 1, dtype=lengths.dtype, device=lengths.device)
    scale = math.sqrt(2 * number / cutoff) * math.pi / cutoff
    return scale * n * torch.sinc(lengths.unsqueeze(-1) * n / cutoff)


def polynomial_envelope(lengths: Tensor, cutoff: float) -> Tensor:
    """1 - 28x⁶ + 48x⁷ - 21x⁸ with x = r / r_c, exactly 0 beyond the cutoff; value and two derivatives vanish there.

    References:
        Gasteiger, Groß and Günnemann, arXiv:2003.03123, eq. 8 with p = 6.
    """
    x = (lengths / cutoff).clamp(max=1.0)
    # Factored: the expanded form doesn't vanish at x = 1 in floating point.
    return (1 - x).pow(3) * (1 + x * (3 + x * (6 + x * (10 + x * (15 + 21 * x)))))


class VectorEmbedding(nn.Module):
    """Scalars that say all about a few vectors per atom but their common orientation.

    For each vector its magnitude on a logarithmic scale (a number and a soft one-hot code), for each pair the cosine.

    Args:
        vectors: Number of vectors per atom.
        basis: Gaussians per magnitude.
    """

    def __init__(self, vectors: int, basis: int = 8) -> None:
        super().__init__()
        self.basis = basis
        self.first, self.second = torch.triu_indices(vectors, vectors, offset=1).tolist()
        self.dim = vectors * (basis + 1) + len(self.first)

    def forward(self, vectors: Tensor, units: Tensor) -> Tensor:
        """Scalars (n_atoms, dim) of vectors (n_atoms, n_vectors, 3) and their `unit_vectors`."""
        logs = log_magnitudes(vectors)
        coded = gaussians(logs, *LOG_RANGE, self.basis).flatten(1)
        cosines = (units[:, self.first] * units[:, self.second]).sum(-1)
        return torch.cat([logs / 3.0, coded, cosines], dim=1)
