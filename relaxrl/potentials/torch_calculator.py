"""A `Potential` as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials.base import Potential


class TorchCalculator(Calculator):
    """What any ASE tool needs to use a potential of this package.

    Energy, forces and, where the cell has a volume, stress come from one evaluation, so that a cell filter does not
    evaluate twice.

    Args:
        potential: What evaluates.
        stress: Whether the potential can give stress.

    Raises:
        CalculatorError: On evaluation, where the potential reports a failure.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.potentials import EMT
        >>> atoms = bulk("Cu", a=3.6)
        >>> atoms.calc = TorchCalculator(EMT())
        >>> round(atoms.get_potential_energy(), 4)
        -0.0067
    """

    nolabel = True

    def __init__(self, potential: Potential, stress: bool = True, **kwargs: Any) -> None:
        self.potential = potential
        self.implemented_properties = ["energy", "free_energy", "forces", *(["stress"] if stress else [])]
        self._name = getattr(potential, "name", type(potential).__name__.lower())
        super().__init__(**kwargs)

    def _get_name(self) -> str:
        return str(self._name)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the potential once and keep all it gives."""
        super().calculate(atoms, properties, system_changes)
        with_stress = "stress" in self.implemented_properties and self.atoms.cell.rank == 3
        evaluation = self.potential.evaluate(graph_from_atoms(self.atoms), stress=with_stress)
        if bool(evaluation.failed[0]):
            raise CalculatorError(f"{self._name} failed for {self.atoms.symbols}: {evaluation.messages[0]}")
        energy = float(evaluation.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": evaluation.forces.cpu().numpy()}
        if evaluation.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(evaluation.stress[0].cpu().numpy())
        elif "stress" in properties:
            raise PropertyNotImplementedError("the stress needs a cell with three vectors")
