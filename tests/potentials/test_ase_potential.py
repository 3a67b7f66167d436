"""ASE calculators as potentials, potentials as ASE calculators, and the pool of processes."""

import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators import emt
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, ASEPotential, TorchCalculator, parse_calculator

ROUND_OFF = 1e-11


class Selective(emt.EMT):  # type: ignore[misc] # ASE is untyped
    """Raises for nickel, returns NaN for palladium, and for platinum takes its process down."""

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ("positions",)) -> None:
        super().calculate(atoms, properties, system_changes)
        if 28 in atoms.numbers:
            raise RuntimeError("no nickel today")
        if 46 in atoms.numbers:
            self.results["forces"][:] = np.nan
        if 78 in atoms.numbers:
            os._exit(1)


class Energetic(emt.EMT):  # type: ignore[misc] # ASE is untyped
    implemented_properties = ("energy", "forces")


@pytest.fixture
def graph() -> AtomGraph:
    structures = [bulk(symbol, cubic=True) for symbol in ("Cu", "Al", "Au")]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=k)
    return graph_from_atoms([*structures, Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]])])


@pytest.mark.parametrize("target", ["emt", Energetic])
def test_equals_the_torch_potential(graph: AtomGraph, target: Any) -> None:
    got, expected = ASEPotential(parse_calculator(target)).evaluate(graph), EMT().evaluate(graph)
    torch.testing.assert_close(got.energy, expected.energy, atol=ROUND_OFF, rtol=0)
    torch.testing.assert_close(got.forces, expected.forces, atol=ROUND_OFF, rtol=0)
    assert not got.failed.any()


def test_stress_where_there_is_one(graph: AtomGraph) -> None:
    got = ASEPotential(parse_calculator("emt")).evaluate(graph, stress=True).stress
    expected = EMT().evaluate(graph, stress=True).stress
    torch.testing.assert_close(got, expected, atol=ROUND_OFF, rtol=0, equal_nan=True)
    with pytest.raises(CalculatorError, match="Energetic gives no stress"):
        ASEPotential(parse_calculator(Energetic)).evaluate(graph, stress=True)


def test_a_failure_stays_with_its_structure() -> None:
    structures = [bulk(symbol) for symbol in ("Cu", "Ni", "Al", "Pd", "Ag")]
    got = ASEPotential(parse_calculator(Selective)).evaluate(graph_from_atoms(structures))
    assert got.failed.tolist() == [False, True, False, True, False]
    assert got.messages == {1: "RuntimeError: no nickel today", 3: "energy or forces are not finite"}
    assert torch.isnan(got.energy[[1, 3]]).all()
    expected = EMT().evaluate(graph_from_atoms(structures))
    torch.testing.assert_close(got.energy[[0, 2, 4]], expected.energy[[0, 2, 4]], atol=ROUND_OFF, rtol=0)


def test_processes_agree_with_one_and_survive_a_dead_worker() -> None:
    structures = [bulk(symbol) for symbol in ("Cu", "Ni", "Al", "Pt", "Ag")]
    graph = graph_from_atoms(structures)
    with ASEPotential(parse_calculator(Selective), workers=2) as potential:
        pickle.loads(pickle.dumps(potential))
        got = potential.evaluate(graph)
        assert got.failed.tolist() == [False, True, False, True, False]
        assert got.messages == {1: "RuntimeError: no nickel today", 3: "the calculator's process died"}
        alone = ASEPotential(parse_calculator("emt")).evaluate(graph.select([0, 2, 4]), stress=True)
        assert torch.equal(got.energy[[0, 2, 4]], alone.energy)
        again = potential.evaluate(graph.select([4, 0]), stress=True)
        assert not again.failed.any()
        assert alone.stress is not None
        assert torch.equal(again.stress, alone.stress[[2, 0]])


def test_a_calculator_that_cannot_be_made_is_an_error_here_and_in_processes() -> None:
    spec = parse_calculator("ase.calculators.emt:ETM")
    for workers in (0, 1):
        with ASEPotential(spec, workers) as potential, pytest.raises(CalculatorError, match="has no 'ETM'"):
            potential.evaluate(graph_from_atoms(bulk("Cu")))
    with pytest.raises(ValueError, match="`workers` must not be negative"):
        ASEPotential(spec, workers=-1)


def test_torch_calculator_relaxes_like_ase() -> None:
    paths = []
    for calculator in (emt.EMT(), TorchCalculator(EMT())):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=1)
        atoms.calc = calculator
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=8)
        paths.append((atoms.positions, atoms.cell.array, atoms.get_potential_energy(), atoms.get_stress()))
    for bare, torch_based in zip(*paths, strict=True):
        np.testing.assert_allclose(torch_based, bare, atol=1e-9)


def test_torch_calculator_says_what_failed() -> None:
    atoms = bulk("Fe")
    atoms.calc = TorchCalculator(EMT())
    with pytest.raises(CalculatorError, match="emt failed for Fe: emt has no parameters for Fe"):
        atoms.get_forces()
    cluster = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], calculator=TorchCalculator(EMT()))
    assert cluster.get_forces().shape == (2, 3)
    with pytest.raises(NotImplementedError, match="stress"):
        cluster.get_stress()
