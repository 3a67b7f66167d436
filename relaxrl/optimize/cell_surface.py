"""The potential energy surface over positions and cell together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import StrainFilter
from ase.utils.abc import Optimizable
from scipy import sparse

from relaxrl.cell import check_cell
from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.optimize.cell import FilterCell, RelaxCell, check_constraints
from relaxrl.optimize.chart import Chart, Geometry
from relaxrl.optimize.curvature import pair_hessian_with_strain
from relaxrl.optimize.policy import Policy, predicted_hessian
from relaxrl.optimize.safeguard import Point
from relaxrl.optimize.surface import FilterSurface, FixedCellSurface, Surface, free_positions
from relaxrl.strain import LENGTH_PER_ROOT_ATOM, STRAIN_REACH, tensor_from_vector, vector_from_tensor
from relaxrl.typing import BoolArray, FloatArray, StateDict

VOLUME_RANGE = (0.1, 10.0)
"""Volume over that of the start; beyond it the cell collapses or explodes, whatever the calculator says."""


class CellOptimizable(Optimizable):
    """Positions and cell as ASE's optimizers see them: forces, and below them stress as ASE's cell filters count it.

    Args:
        atoms: The structure.
        cell: Which strains are free, and what convergence is.
    """

    def __init__(self, atoms: Atoms, cell: RelaxCell) -> None:
        self.atoms = atoms
        self.cell = cell

    def get_x(self) -> FloatArray:
        """Positions and lattice vectors, (3 n_atoms + 9,), Å."""
        return np.concatenate([self.atoms.positions, self.atoms.cell.array]).ravel()

    def set_x(self, x: FloatArray) -> None:
        """Move atoms and cell; constraints have their say."""
        move(self.atoms, Geometry(x[:-9].reshape(-1, 3), x[-9:].reshape(3, 3)))

    def get_gradient(self) -> FloatArray:
        """(3 n_atoms + 9,), eV/Å; the last three rows are stress times volume over the number of atoms, eV."""
        stress = self.free_stress()
        forces = self.atoms.get_forces()
        return np.concatenate([-forces, stress * (self.atoms.get_volume() / len(self.atoms))]).ravel()

    def free_stress(self) -> FloatArray:
        """Stress with that of the outer pressure, where the strain is free, (3, 3), eV/Å³."""
        stress = read_stress(self.atoms) + self.cell.scalar_pressure * np.eye(3)
        free = self.cell.directions(self.atoms.cell.array, self.atoms.pbc)
        return tensor_from_vector(free.T @ (free @ vector_from_tensor(stress)))

    def get_value(self) -> float:
        """Enthalpy, eV."""
        energy = self.atoms.__ase_optimizable__().get_value()
        return float(energy) + self.cell.scalar_pressure * float(self.atoms.get_volume())

    def converged(self, gradient: FloatArray, fmax: float) -> bool:
        """Forces below `fmax`, and stress below `smax`, or below `fmax` as ASE's filters count it."""
        if self.cell.smax is None:
            return bool(self.gradient_norm(gradient) < fmax)
        forces_only = float(np.linalg.norm(gradient[:-9].reshape(-1, 3), axis=1).max())
        return forces_only < fmax and float(np.abs(self.free_stress()).max()) < self.cell.smax

    def ndofs(self) -> int:
        """Length of x."""
        return 3 * len(self.atoms) + 9

    def iterimages(self) -> Iterator[Atoms]:
        """The structure."""
        images: Iterator[Atoms] = self.atoms.iterimages()
        return images


class CellSurface(Surface):
    """Coordinates are those of a `Chart`: displacements of atoms, and the strain of the cell.

    Args:
        atoms: The structure, or the filter of it that `optimizable` belongs to.
        optimizable: Says when it is converged.
        cell: Which strains are free.
        reference: (3, 3), Å; a cell that strain is counted from where the present one is a strain of it.
        atoms_move: Whether atoms move other than with the cell.

    Raises:
        StructureError: The cell has no stress, is flat, or has no strain that is free.
    """

    without_hessian = "the agent shows no Hessian with strain for this cell, thus can't move it"

    def __init__(
        self,
        atoms: Any,
        optimizable: Any,
        cell: RelaxCell,
        reference: FloatArray | None = None,
        atoms_move: bool = True,
    ) -> None:
        super().__init__(atoms, optimizable)
        self.crystal: Atoms = atoms if isinstance(atoms, Atoms) else atoms.atoms
        self.cell = cell
        self.atoms_move = atoms_move
        self._reference = reference
        check_cell(self.crystal)
        check_constraints(self.crystal)
        self._make_chart()

    def _make_chart(self) -> None:
        here = Geometry(self.crystal.positions.copy(), self.crystal.cell.array.copy())
        free = self.cell.directions(here.cell, self.crystal.pbc)
        self._n_free = len(free)
        # The direction that keeps the volume, if one has to, comes next.
        used = free
        if self.cell.constant_volume:
            used = np.concatenate([free, self.cell.volume_direction(here.cell, self.crystal.pbc)[None]])
        rest = np.linalg.eigh(used.T @ used)[1][:, : 6 - len(used)].T
        start = here
        if self._reference is not None:
            deformation = np.linalg.solve(self._reference, here.cell)
            if np.abs(deformation - deformation.T).max() < 1e-9:
                start = Geometry(here.positions @ np.linalg.inv(deformation), self._reference)
        length = LENGTH_PER_ROOT_ATOM * len(self.crystal) ** 0.5
        self.chart = Chart(start, np.concatenate([used, rest]), length)
        self._volume = float(self.crystal.get_volume())

    @property
    def free(self) -> BoolArray:
        """See `Surface`."""
        free = np.ones(3 * len(self.crystal) + 6, dtype=bool)
        free[len(free) - 6 + self._n_free :] = False
        positions = free_positions(self.crystal)
        if not self.atoms_move:
            free[:-6] = False
        elif positions is not None:
            free[:-6] = positions
        return free

    def length(self, displacement: FloatArray) -> float:
        """Largest displacement of an atom but for the strain, or strain times `STRAIN_REACH`, Å."""
        atoms = float(np.linalg.norm(displacement[:-6].reshape(-1, 3), axis=1).max())
        return max(atoms, STRAIN_REACH * float(np.linalg.norm(displacement[-6:])) / self.chart.length)

    def begin(self, point: Point) -> Point:
        """See `Surface`; strain is counted from here, so that it stays small."""
        del point  # its coordinates are those of the chart before; the calculator still holds its results
        self._make_chart()
        return self._read()

    def displaced(self, start: Point, displacement: FloatArray) -> Point | None:
        """See `Surface`.

        Raises:
            CalculatorError: The cell collapses or explodes.
        """
        self.place(start)
        goal = self.chart.geometry(self._at_volume(start.x + displacement))
        ratio = abs(float(np.linalg.det(goal.cell))) / self._volume
        if not VOLUME_RANGE[0] < ratio < VOLUME_RANGE[1]:
            raise CalculatorError(
                f"the cell {'collapses' if ratio < 1 else 'explodes'}: the next step leads to {ratio:.3g} times the "
                "volume of the start; expected a calculator under which the crystal holds together. Check it, and the "
                "pressure"
            )
        try:
            move(self.crystal, goal)
        except Exception as error:  # constraints refuse, too
            self.failure = error
            return None
        return self.here()

    def _at_volume(self, x: FloatArray) -> FloatArray:
        """x, or with `constant_volume` the x that has the volume of the start and differs in size alone."""
        if not self.cell.constant_volume:
            return x
        x, size = x.copy(), len(x) - 6 + self._n_free
        for _ in range(20):  # Newton's method for the logarithm of the volume; 3 or 4 steps
            volume = abs(float(np.linalg.det(self.chart.geometry(x).cell)))
            x[size] -= np.log(volume / self._volume) / self._growth(x)[self._n_free]
        return x

    def _growth(self, x: FloatArray) -> FloatArray:
        """Derivatives of the logarithm of the volume with respect to the six coordinates of strain, 1/Å."""
        along = tensor_from_vector(self.chart.directions) / self.chart.length
        growth: FloatArray = np.trace(np.linalg.solve(np.eye(3) + self.chart.strain(x), along), axis1=1, axis2=2)
        return growth

    def place(self, point: Point) -> None:
        """See `Surface`."""
        assert point.geometry is not None  # all points of this surface have one
        self.crystal.set_cell(point.geometry[-3:], apply_constraint=False)
        self.crystal.set_positions(point.geometry[:-3], apply_constraint=False)
        self._tell_filter()

    def hessian_guess(self, point: Point) -> sparse.csr_array:
        """Springs along the bonds, and what they make of strain."""
        return sparse.csr_array(self.chart.hessian(point.x, pair_hessian_with_strain(self._at(point))))

    def predicted(self, policy: Policy, point: Point) -> FloatArray | None:
        """See `Surface`."""
        hessian = predicted_hessian(policy, graph_from_atoms(self._at(point)), strain=True)
        if hessian is None:
            return None
        # Rigid translations cost nothing: made stiff, so that the noise of a net force can't become a drift.
        n_atoms = len(self.crystal)
        scale = max(float(np.trace(hessian[:-6, :-6])) / (3 * n_atoms), 1.0)
        hessian[:-6, :-6] += scale * np.kron(np.full((n_atoms, n_atoms), 1 / n_atoms), np.eye(3))
        return np.asarray(self.chart.hessian(point.x, hessian))

    def _at(self, point: Point) -> Atoms:
        assert point.geometry is not None
        here, rows = self.crystal, point.geometry
        return Atoms(here.numbers, rows[:-3], cell=rows[-3:], pbc=here.pbc)

    def _read(self) -> Point:
        crystal = self.crystal
        # Stress first: calculators then have energy and forces too, in one call.
        stress = read_stress(crystal) + self.cell.scalar_pressure * np.eye(3)
        forces = np.asarray(crystal.get_forces(), dtype=np.float64)
        energy = float(self.optimizable.get_value())
        geometry = Geometry(crystal.positions.copy(), crystal.cell.array.copy())
        x = self.chart.coordinates(geometry)
        # Atoms that are fixed strain with the cell, so that their forces count in what strain does.
        unconstrained = np.asarray(crystal.get_forces(apply_constraint=False), dtype=np.float64)
        virial = float(crystal.get_volume()) * vector_from_tensor(stress)
        gradient = self.chart.gradient(x, -unconstrained.ravel(), virial)
        gradient[:-6] = -forces.ravel()
        if self.cell.constant_volume:
            growth = self._growth(x)
            gradient[-6:] -= growth * gradient[len(x) - 6 + self._n_free] / growth[self._n_free]
        gradient[~self.free] = 0.0
        fmax = float(self.optimizable.gradient_norm(self.optimizable.get_gradient()))
        self._tell_filter()
        return Point(x, energy, gradient, fmax, np.concatenate(geometry))

    def _tell_filter(self) -> None:
        """`StrainFilter` keeps its strain beside the cell."""
        if isinstance(self.atoms, StrainFilter):
            strain = np.linalg.solve(np.asarray(self.atoms.origcell), self.crystal.cell.array) - np.eye(3)
            shear = strain + strain.T
            self.atoms.strain[:] = [*np.diag(strain), shear[1, 2], shear[0, 2], shear[0, 1]]

    def state_dict(self) -> StateDict:
        """See `Surface`."""
        reference, directions = self.chart.reference, self.chart.directions
        return {
            "positions": reference.positions,
            "cell": reference.cell,
            "directions": directions,
            "volume": self._volume,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """See `Surface`."""
        reference = Geometry(np.asarray(state["positions"]), np.asarray(state["cell"]))
        self.chart = Chart(reference, np.asarray(state["directions"]), self.chart.length)
        self._volume = float(state["volume"])


def make_surface(atoms: Any, cell: RelaxCell | None) -> Surface:
    """The surface that suits a structure, or a filter of one.

    Args:
        atoms: `Atoms` or an ASE filter.
        cell: Whether the cell of `Atoms` relaxes, and how.
    """
    if not isinstance(atoms, Atoms):
        known = FilterCell.of(atoms)
        if known is None:
            return FilterSurface(atoms)
        optimizable = atoms.__ase_optimizable__()
        return CellSurface(atoms, optimizable, known.cell, known.reference, known.atoms_move)
    if cell is None:
        return FixedCellSurface(atoms)
    return CellSurface(atoms, CellOptimizable(atoms, cell), cell)


def read_stress(atoms: Atoms) -> FloatArray:
    """Stress after constraints, (3, 3), eV/Å³, positive under tension.

    Raises:
        CalculatorError: The calculator has none.
    """
    try:
        return np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
    except (PropertyNotImplementedError, NotImplementedError) as error:
        calculator = getattr(atoms.calc, "calculator", atoms.calc)  # what a counter wraps
        raise CalculatorError(
            f"calculator {type(calculator).__name__} gives no stress, which a relaxation of the cell needs; use one "
            "that does, or relax at fixed cell"
        ) from error


def move(atoms: Atoms, goal: Geometry) -> None:
    """Move cell and atoms; constraints have their say. Fixed atoms go with the cell, as under ASE's filters."""
    atoms.set_cell(goal.cell, scale_atoms=True)
    atoms.set_positions(goal.positions)
