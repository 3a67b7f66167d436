"""Cells that strain: how far a step may strain them, and how hard their stress pulls.

A step of a cell is x' = x (1 + ε) + u: the strain ε, symmetric, carries lattice vectors and atoms alike (rows times
1 + ε), and the displacements u come on top. It is counted from the present cell, so that it is first order in what the
charts of the optimizer (`relaxrl.optimize.chart`) call strain. Its six numbers are components in `STRAIN_BASIS`.

Free components are those of one step. A product of steps leaves them where multiplication does (xx and yy without xy,
or xy alone): then the others follow in second order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relaxrl.cell import FLAT, check_cell
from relaxrl.envs.cell_config import CellConfig
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.graph import AtomGraph
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.strain import STRAIN_BASIS
from relaxrl.structures import Crystal
from relaxrl.typing import BoolArray, FloatArray

_BISECTIONS = 40
_NEWTON_STEPS = 8
_STRAIN_BOUND = 4.0
"""Random strains are no longer than this times their standard deviation; their usual length is 2.4 times it."""


@dataclass(frozen=True)
class Freedom:
    """Which strains are free in each structure of a batch.

    Attributes:
        projector: (n_graphs, 6, 6); onto them.
        size: (n_graphs, 6); of norm 1, what makes up for a change of volume. Zero where the volume is free.
    """

    projector: Tensor
    size: Tensor

    @classmethod
    def of(cls, crystals: Sequence[Crystal], config: CellConfig) -> Freedom:
        """That of each crystal.

        Raises:
            StructureError: A crystal has no strain that is free, or a cell without stress; the message names it.
        """
        known: tuple[FloatArray, FloatArray] | None = None  # what is periodic in all directions is alike
        rows = []
        for crystal in crystals:
            cell, pbc = crystal.atoms.cell.array, crystal.atoms.pbc
            try:
                check_cell(crystal.atoms)
                row = known if known is not None and pbc.all() else _freedom(config, cell, pbc)
            except StructureError as error:
                raise StructureError(
                    f"crystal {crystal.id}: {error}; or leave `cell` out of the environment's config"
                ) from error
            known = row if pbc.all() else known
            rows.append(row)
        return cls(*(torch.from_numpy(np.stack([row[k] for row in rows])) for k in (0, 1)))

    def select(self, places: Sequence[int], device: torch.device | str) -> Freedom:
        """That of some, in the order asked for."""
        wanted = torch.as_tensor(places, dtype=torch.int64)
        return Freedom(self.projector[wanted].to(device), self.size[wanted].to(device))

    def project(self, strain: Tensor) -> Tensor:
        """What of strains (n_graphs, 6) is free."""
        return torch.einsum("gab,gb->ga", self.projector, strain)


class Cells:
    """Limits strains, and measures stress.

    Args:
        config: What is free, and how far.
        fmax: eV/Å; a cell pulls like a force of this size where its stress is just small enough.
    """

    def __init__(self, config: CellConfig, fmax: float) -> None:
        self.config = config
        self.fmax = fmax
        self._freedom = Freedom(torch.empty(0), torch.empty(0))
        self._volume = torch.empty(0)  # (n_graphs,), Å³; of the starts

    def begin(self, freedom: Freedom, start: AtomGraph) -> None:
        """Take note of other structures: what is free, and the structures at their first step."""
        self._freedom = freedom
        self._volume = volumes(start.cell)

    def allowed(self, strain: Tensor | None, graph: AtomGraph, running: Tensor | None) -> Tensor:
        """What is free of the strains asked for, shortened where it is too long; zero where nothing may move.

        Args:
            strain: (n_graphs, 6); zero if None.
            graph: The structures.
            running: (n_graphs,), bool; structures that may strain. All if None.

        Raises:
            ValueError: `strain` has another shape or is not finite.
        """
        if strain is None:
            return graph.cell.new_zeros(graph.n_graphs, 6)
        if strain.shape != (graph.n_graphs, 6):
            raise ValueError(
                f"`strain` must have shape (n_graphs={graph.n_graphs}, 6), components in relaxrl.strain.STRAIN_BASIS, "
                f"got {tuple(strain.shape)}"
            )
        if not bool(torch.isfinite(strain).all()):
            raise ValueError("`strain` must be finite, got NaN or infinity; the policy has probably diverged")
        free = limit_strain(self._freedom.project(strain.detach().to(graph.cell)), self.config.max_strain)
        return free if running is None else free * running[:, None]

    def at_volume(self, cell: Tensor, strain: Tensor) -> Tensor:
        """The strain, and as much change of size as keeps the volume of the start, if that is asked for."""
        if not self.config.constant_volume:
            return strain
        still = ~strain.any(dim=1, keepdim=True)
        kept = keep_volume(strain, self._freedom.size, self._volume / volumes(cell))
        return torch.where(still, strain, kept)

    def legal(self, cell: Tensor, strain: Tensor) -> Tensor | None:
        """Fraction of each strain up to which the cell is sound, (n_graphs,); None where all of it is.

        Sound is a volume within `volume_range`, and faces that are farther apart than `FLAT`.

        Args:
            cell: (n_graphs, 3, 3), Å.
            strain: (n_graphs, 6).
        """
        sound = self._sound(strained(cell, strain)) | ~strain.any(dim=1)
        if bool(sound.all()):
            return None
        low, high = torch.zeros_like(self._volume), torch.ones_like(self._volume)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            good = self._sound(strained(cell, middle[:, None] * strain))
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return torch.where(sound, 1.0, low)

    def _sound(self, cell: Tensor) -> Tensor:
        least, most = self.config.volume_range
        volume = volumes(cell)
        areas = torch.linalg.vector_norm(torch.linalg.cross(cell.roll(-1, dims=1), cell.roll(-2, dims=1)), dim=-1)
        height = (volume[:, None] / areas).amin(dim=1)
        ratio = volume / self._volume
        sound: Tensor = (ratio >= least) & (ratio <= most) & (height >= FLAT)
        return sound

    def free_stress(self, graph: AtomGraph, freedom: Freedom | None = None) -> Tensor:
        """The largest principal stress of what is free of the stress, (n_graphs,), eV/Å³.

        No component of it, in whatever frame, is larger, and no row longer.

        Args:
            graph: Structures with stress.
            freedom: That of them; of the structures of `begin` if None.
        """
        assert graph.stress is not None, "evaluated with stress"
        freedom = self._freedom if freedom is None else freedom
        free = freedom.project(torch.einsum("gab,kab->gk", graph.stress, _basis(graph.stress)))
        largest: Tensor = torch.linalg.eigvalsh(as_tensor(free)).abs().amax(dim=1)
        return largest

    def pull(self, graph: AtomGraph, freedom: Freedom | None = None) -> Tensor:
        """The stress as a force, (n_graphs,), eV/Å, that is converged below fmax; arguments as for `free_stress`.

        That is stress times volume over the number of atoms, which ASE's cell filters compare to fmax; or, with `smax`,
        the stress in units of it times fmax.
        """
        stress = self.free_stress(graph, freedom)
        if self.config.smax is not None:
            return stress * (self.fmax / self.config.smax)
        return stress * volumes(graph.cell) / graph.atoms_per_graph


def evaluate(potential: Potential, graph: AtomGraph, with_stress: bool) -> Evaluation:
    """Energies and forces, and stress of the same evaluation if asked for; stress that is not finite is a failure.

    Raises:
        CalculatorError: The calculator gives no stress.
    """
    if not with_stress:
        return potential.evaluate(graph)
    evaluation = potential.evaluate(graph, stress=True)
    if evaluation.stress is None:
        raise CalculatorError(
            f"{type(potential).__name__} gives no stress, which cells that relax need; use a calculator that does, or "
            "leave `cell` out of the environment's config"
        )
    bad = ~torch.isfinite(evaluation.stress).flatten(1).all(dim=1) & ~evaluation.failed
    if not bool(bad.any()):
        return evaluation
    said = {int(k): "the stress is not finite, or there is none" for k in torch.nonzero(bad).flatten()}
    return Evaluation(
        evaluation.energy, evaluation.forces, evaluation.failed | bad, evaluation.messages | said, evaluation.stress
    )


def as_tensor(strain: Tensor) -> Tensor:
    """Symmetric tensors (n_graphs, 3, 3) of components (n_graphs, 6) in `STRAIN_BASIS`."""
    return torch.einsum("gk,kab->gab", strain, _basis(strain))


def strained(cell: Tensor, strain: Tensor) -> Tensor:
    """Cells (n_graphs, 3, 3) after strains (n_graphs, 6)."""
    return torch.baddbmm(cell, cell, as_tensor(strain))


def volumes(cell: Tensor) -> Tensor:
    """(n_graphs,), Å³; of left-handed cells as well."""
    volume: Tensor = torch.linalg.det(cell).abs()
    return volume


def limit_strain(strain: Tensor, longest: float) -> Tensor:
    """Strains (n_graphs, 6) with those longer than `longest` shortened, which a rotation of the crystal leaves so."""
    lengths = torch.linalg.vector_norm(strain, dim=-1, keepdim=True)
    limited: Tensor = strain * (longest / lengths.clamp(min=longest))
    return limited


def keep_volume(strain: Tensor, size: Tensor, ratio: Tensor) -> Tensor:
    """Strains (n_graphs, 6) with as much added along `size` (n_graphs, 6) as makes volumes change by `ratio`."""
    along, eye = as_tensor(size), torch.eye(3, dtype=strain.dtype, device=strain.device)
    added = torch.zeros_like(ratio)
    for _ in range(_NEWTON_STEPS):  # Newton's method for the logarithm of the volume
        deformation = eye + as_tensor(strain + added[:, None] * size)
        growth = torch.linalg.solve(deformation, along).diagonal(dim1=1, dim2=2).sum(-1)
        added = added - (volumes(deformation) / ratio).log() / growth
    return strain + added[:, None] * size


def random_strain(config: CellConfig, projector: Tensor, generator: np.random.Generator) -> FloatArray:
    """A random symmetric strain of what is free, (3, 3); of no direction in particular, and bounded.

    Args:
        config: How large.
        projector: (6, 6); onto the free ones.
        generator: Source of randomness.
    """
    low, high = config.strain if isinstance(config.strain, tuple) else (config.strain, config.strain)
    scale = low if low == high else generator.uniform(low, high)
    drawn = torch.from_numpy(generator.normal(0.0, 1.0, 6)) @ projector.cpu()
    tensor: FloatArray = as_tensor(scale * limit_strain(drawn[None], _STRAIN_BOUND))[0].numpy()
    return tensor


def carried(start: AtomGraph, graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Where the cells would have carried the atoms of the start, (n_atoms, 3), Å, and the largest stretch of each.

    Args:
        start: The structures at their first step.
        graph: The same now.

    Returns:
        Positions, and (n_graphs,) the factor by which no vector of a cell has become longer.
    """
    deformation = torch.linalg.solve(start.cell, graph.cell)
    moved = torch.einsum("na,nab->nb", start.positions, deformation[start.graph_index])
    return moved, torch.linalg.matrix_norm(deformation, ord=2)


def _freedom(config: CellConfig, cell: FloatArray, pbc: BoolArray) -> tuple[FloatArray, FloatArray]:
    free = config.directions(cell, pbc)
    size = config.volume_direction(cell, pbc) if config.constant_volume else np.zeros(6)
    return free.T @ free, size


def _basis(like: Tensor) -> Tensor:
    return torch.as_tensor(STRAIN_BASIS, dtype=like.dtype, device=like.device)
