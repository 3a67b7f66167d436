"""Universal machine-learned potentials of other packages, as ASE calculators that follow this package's conventions."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from relaxrl.device import torch_device
from relaxrl.errors import CalculatorError, ConfigError
from relaxrl.potentials.arguments import nearest
from relaxrl.potentials.torch_potential import missing_elements

CHGNET_MODELS = ("0.3.0", "0.2.0", "r2scan")
SEVENNET_MODELS = ("7net-0", "7net-0_22may2024", "7net-l3i5")
"""Models whose weights come inside the packages: others would be downloaded."""

MPTRJ_ELEMENTS = frozenset({*range(1, 84), *range(89, 95)})
"""Atomic numbers in the Materials Project's trajectories, on which both were trained: no Po, At, Rn, Fr, Ra."""


class ModelCalculator(Calculator):
    """A calculator of another package that evaluates once, in silence and in float64.

    Energy, forces and, where the cell has three vectors, stress come from one evaluation.

    Args:
        name: What messages call it.
        calculator: Gives energy, forces and stress, in ASE's units and signs.
        elements: Atomic numbers that the model was trained on.
        periodic: Whether the model takes any structure as periodic, so that others are refused.

    Raises:
        CalculatorError: On evaluation, where the model does not know an element, or takes only periodic structures.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]
    nolabel = True

    def __init__(self, name: str, calculator: Any, elements: Iterable[int], periodic: bool) -> None:
        self.calculator = calculator
        self.elements = frozenset(elements)
        self._label = name
        self._periodic = periodic
        super().__init__()

    def _get_name(self) -> str:
        return self._label

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model once and keep energy, forces and stress."""
        super().calculate(atoms, properties, system_changes)
        missing = set(map(int, self.atoms.numbers)) - self.elements
        if missing:
            raise CalculatorError(missing_elements(f"calculator {self._label}", missing, self.elements))
        if self._periodic and not self.atoms.pbc.all():
            raise CalculatorError(
                f"calculator {self._label} takes structures that are periodic in three directions, got pbc="
                f"{self.atoms.pbc.tolist()} for {self.atoms.symbols}; put clusters and slabs in a box with vacuum"
            )
        shown = self.atoms.copy()
        if shown.cell.handedness < 0:  # CHGNet divides by a volume that has a sign; the lattice is the same
            shown.set_cell(-shown.cell.array)
        with _silence():
            self.calculator.calculate(shown, ["energy", "forces", "stress"], list(all_changes))
        given = self.calculator.results
        energy = float(given["energy"])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": np.array(given["forces"], dtype=np.float64),
        }
        if self.atoms.cell.rank == 3:
            stress = np.array(given["stress"], dtype=np.float64)
            self.results["stress"] = stress if stress.shape == (6,) else full_3x3_to_voigt_6_stress(stress)
        elif "stress" in properties:
            raise PropertyNotImplementedError("the stress needs a cell with three vectors")


def chgnet(model: str = "0.3.0", device: str = "cpu") -> ModelCalculator:
    """CHGNet, a universal graph network with magnetic moments, in float32.

    Args:
        model: One of `CHGNET_MODELS`.
        device: `cpu`, `cuda` or `cuda:NUMBER`.

    Raises:
        CalculatorError: The package is not installed, or there is no such model or device.

    References:
        B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3.
    """
    name, model = "chgnet", str(model)
    if model not in CHGNET_MODELS:
        raise CalculatorError(_unknown_model(name, model, CHGNET_MODELS))

    def make() -> Any:
        network = importlib.import_module("chgnet.model.model").CHGNet.load(
            model_name=model, use_device=device, verbose=False
        )
        calculator = importlib.import_module("chgnet.model.dynamics").CHGNetCalculator
        return calculator(network, use_device=device, on_isolated_atoms="error")

    return ModelCalculator(name, _made(name, device, make), MPTRJ_ELEMENTS, periodic=True)


def sevennet(model: str = "7net-0", device: str = "cpu") -> ModelCalculator:
    """SevenNet-0, a universal equivariant network, in float32.

    Args:
        model: One of `SEVENNET_MODELS`, or a checkpoint file.
        device: `cpu`, `cuda` or `cuda:NUMBER`.

    Raises:
        CalculatorError: The package is not installed, or there is no such model or device.

    References:
        Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190.
    """
    name = "sevenn"
    if model not in SEVENNET_MODELS and not Path(model).is_file():
        raise CalculatorError(f"{_unknown_model(name, model, SEVENNET_MODELS)}, or a checkpoint file")

    def make() -> Any:
        return importlib.import_module("sevenn.calculator").SevenNetCalculator(model, device=device)

    calculator = _made(name, device, make)
    return ModelCalculator(name, calculator, calculator.type_map, periodic=False)


def sevennet_elements(model: str = "7net-0", device: str = "cpu") -> frozenset[int] | None:
    """Atomic numbers that a model inside the package knows; None for a checkpoint file, which must be loaded."""
    del device
    return MPTRJ_ELEMENTS if model in SEVENNET_MODELS else None


def _made(name: str, device: str, make: Callable[[], Any]) -> Any:
    if importlib.util.find_spec(name) is None:
        raise CalculatorError(f"the package `{name}` is not installed: pip install 'relaxrl[{name}]'")
    try:
        torch_device(device, f"{name},device=")
    except ConfigError as error:
        raise CalculatorError(str(error)) from error
    with _silence():
        return make()


def _unknown_model(name: str, model: str, known: Iterable[str]) -> str:
    return (
        f"calculator `{name}` has no model {model!r}{nearest(model, known)}; expected one of those that come inside "
        f"the package: {', '.join(known)}"
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what these packages print and warn of: their own deprecations, and accelerators that are not there."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
