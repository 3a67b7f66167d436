"""Relaxations for the viewer of a page."""

from __future__ import annotations

import base64
from itertools import groupby
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import wrap_positions

from relaxrl.evaluation.film import UNIT, Film
from relaxrl.page import rounded

BYTES = 6_000_000
"""Of all relaxations in a page: with more it opens slowly."""
_PER_COORDINATE = 2 * 4 / 3  # int16 in base64
_PER_START = 8.0  # of a coordinate as text


class Budget:
    """Bytes left for relaxations."""

    def __init__(self, size: float = BYTES) -> None:
        self.left = size

    def take(self, size: float) -> bool:
        """Whether there was room for so many bytes, which there is less now."""
        if size > self.left:
            return False
        self.left -= size
        return True


def film_data(film: Film | None, budget: Budget) -> dict[str, Any] | None:
    """A relaxation as `viewer.js` reads it; None if there is none, or no room.

    Args:
        film: Its geometries.
        budget: Pays for it.
    """
    if film is None or not budget.take(film.moves.size * _PER_COORDINATE + film.start.size * _PER_START):
        return None
    first = film.cells[0].astype(np.float64)
    start = film.start.astype(np.float64)
    if film.pbc.any() and abs(np.linalg.det(first)) > 1e-9:
        start = wrap_positions(start, first, film.pbc, eps=1e-3)
    same = bool((film.cells == film.cells[0]).all())
    cells = film.cells[:1] if same else film.cells
    return {
        "symbols": [(symbol, len(list(group))) for symbol, group in groupby(chemical_symbols[k] for k in film.numbers)],
        "start": [round(value, 3) for value in start.ravel().tolist()],
        "cells": [rounded(cell.ravel().tolist(), 6) for cell in cells],
        "evaluations": film.evaluations.tolist(),
        "moves": base64.b64encode(film.moves.astype("<i2").tobytes()).decode(),
        "unit": UNIT,
    }
