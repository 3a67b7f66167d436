"""What the environment looks like: a picture of the structure with its forces as arrows, or a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from ase.formula import Formula
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray

from relaxrl.envs.core import RelaxationEnv
from relaxrl.graph import AtomGraph, max_force
from relaxrl.typing import FloatArray

RENDER_MODES = ("rgb_array", "ansi")
RENDER_FPS = 4
"""Frames per second of a film; a relaxation has ten to fifty."""

_SIZE = (6.4, 5.2)  # inches at 100 dots each
_ATOM = 0.55  # radius of a disc over the covalent radius
_ARROW = 0.8  # Å per decade of 1 + |F| / fmax
_MARGIN = 1.5  # Å
_TILT, _TURN = np.radians(-72.0), np.radians(18.0)
"""Seen from in front and a little above and beside, so that no row of atoms of a cubic crystal hides another."""


def check_render_mode(mode: str | None) -> None:
    """Check that there is such a mode.

    Raises:
        ValueError: There is none.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"`render_mode` must be None or one of {', '.join(RENDER_MODES)}, got {mode!r}")


def render(core: RelaxationEnv, slot: int, mode: str | None) -> NDArray[np.uint8] | str | None:
    """One structure of the environment as it is now.

    Args:
        core: The environment.
        slot: Which of its structures.
        mode: One of `RENDER_MODES`, or None for nothing.

    Raises:
        RuntimeError: There was no `reset` before.
    """
    if mode is None:
        return None
    graph, start = core.graph.select([slot]), core.start.select([slot])
    fmax = float(max_force(graph))
    change = float(graph.energy - start.energy) if graph.energy is not None and start.energy is not None else 0.0
    formula = Formula.from_list([chemical_symbols[number] for number in graph.atomic_numbers.tolist()]).format("metal")
    state = core.reasons[slot] or "running"
    stress = f"stress {float(core.stress[slot]):.4f} eV/Å³   " if core.config.cell is not None else ""
    line = (
        f"{core.crystals[int(core.indices[slot])].id}   {formula}   step {int(core.steps[slot])}   "
        f"F_max {fmax:.3f} eV/Å   {stress}ΔE {change:+.3f} eV   {state}"
    )
    return line + _table(graph) if mode == "ansi" else _picture(graph, start, line, core.config.fmax)


def _table(graph: AtomGraph) -> str:
    rows = ["", f"{'':>10}{'x':>10}{'y':>9}{'z':>9}{'|F|':>10}"]
    forces = _forces(graph)
    for number, position, force in zip(graph.atomic_numbers.tolist(), graph.positions.tolist(), forces, strict=True):
        x, y, z = position
        rows.append(f"{chemical_symbols[number]:>10}{x:10.3f}{y:9.3f}{z:9.3f}{np.linalg.norm(force):10.3f}")
    return "\n".join(rows) + "\n"


def _picture(graph: AtomGraph, start: AtomGraph, title: str, fmax: float) -> NDArray[np.uint8]:
    """(520, 640, 3)."""
    figure = Figure(_SIZE, dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    edges = _cell_edges(_array(graph.cell[0]))
    seen = np.concatenate([_seen(_array(graph.positions)), _seen(_array(start.positions)), *_seen(edges)])
    points, numbers = _seen(_array(graph.positions)), graph.atomic_numbers.detach().cpu().numpy()
    axes.add_collection(LineCollection([edge[:, :2] for edge in _seen(edges)], colors="0.6", linewidths=1.0))
    order = np.argsort(points[:, 2])  # the nearest are drawn last
    discs = [Circle((points[k, 0], points[k, 1]), _ATOM * covalent_radii[numbers[k]]) for k in order]
    colours = jmol_colors[numbers[order]]
    axes.add_collection(PatchCollection(discs, facecolors=colours, edgecolors="0.25", linewidths=0.8, zorder=2))
    arrows = _seen(_arrows(_forces(graph), fmax))
    axes.quiver(
        points[:, 0], points[:, 1], arrows[:, 0], arrows[:, 1],
        angles="xy", scale_units="xy", scale=1.0, width=0.008, headwidth=4.0, headlength=4.5, headaxislength=4.0,
        minlength=0.0, color="black", edgecolor="white", linewidth=0.7, zorder=3,
    )  # fmt: skip
    low, high = seen.min(axis=0) - _MARGIN, seen.max(axis=0) + _MARGIN
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.axis("off")
    axes.set_title(title.replace("   ", "  "), fontsize=9)
    axes.legend(handles=_legend(numbers), loc="upper right", frameon=False, fontsize=10)
    figure.text(0.02, 0.02, f"arrows: forces; {_ARROW:g} Å per decade of 1 + |F| / fmax", fontsize=8, color="0.3")
    canvas.draw()
    frame: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return frame


def _arrows(forces: FloatArray, fmax: float) -> FloatArray:
    """Vectors (n_atoms, 3) in Å along the forces; their lengths follow the decades that forces span."""
    sizes = np.linalg.norm(forces, axis=1, keepdims=True)
    arrows: FloatArray = forces / np.maximum(sizes, 1e-12) * _ARROW * np.log10(1.0 + sizes / fmax)
    return arrows


def _legend(numbers: NDArray[np.int64]) -> list[Line2D]:
    def disc(number: int) -> Line2D:
        style: dict[str, Any] = {"marker": "o", "markersize": 10, "linestyle": "", "markeredgecolor": "0.25"}
        return Line2D([], [], color=jmol_colors[number], label=chemical_symbols[number], **style)

    return [disc(int(number)) for number in np.unique(numbers)]


def _cell_edges(cell: FloatArray) -> FloatArray:
    """Both ends of the edges of the cell, (n_edges, 2, 3), Å; of a plane or a row where it has no third dimension."""
    vectors = [vector for vector in cell if vector.any()]
    corners = [np.zeros(3)]
    edges: list[tuple[FloatArray, FloatArray]] = []
    for vector in vectors:
        edges += [(first + vector, second + vector) for first, second in edges]
        edges += [(corner, corner + vector) for corner in corners]
        corners += [corner + vector for corner in corners]
    return np.array(edges, dtype=np.float64).reshape(-1, 2, 3)


def _seen(points: FloatArray) -> FloatArray:
    """Points (..., 3) turned so that x points right, y up and z towards the beholder."""
    c, s = np.cos(_TURN), np.sin(_TURN)
    turned = points @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    c, s = np.cos(_TILT), np.sin(_TILT)
    tilted: FloatArray = turned @ np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
    return tilted


def _forces(graph: AtomGraph) -> FloatArray:
    assert graph.forces is not None, "graphs of the environment have forces"
    return _array(graph.forces)


def _array(values: Any) -> FloatArray:
    array: FloatArray = values.detach().cpu().numpy().astype(np.float64)
    return array
