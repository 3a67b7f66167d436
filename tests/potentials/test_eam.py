"""EAM in torch against ASE, against LAMMPS, and against files that are not what they should be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators import eam
from ase.units import Bohr, Hartree

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.potentials import EAM, TorchCalculator, parse_calculator

REFERENCE = Path(__file__).parent / "reference"
ROUND_OFF = 1e-10
FORMS = ("alloy", "fs")


def file_of(form: str) -> Path:
    return REFERENCE / f"AlCu.eam.{form}"


def structures() -> list[Atoms]:
    rng = np.random.default_rng(0)
    crystal = bulk("Al", cubic=True) * (1, 2, 1)
    crystal.numbers = rng.choice([13, 29], len(crystal))
    crystal.positions += rng.normal(scale=0.12, size=crystal.positions.shape)
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    return [crystal, slab, bulk("Cu", a=3.4), Atoms("AlCu", [[0, 0, 0], [1.2, 1.9, 0.3]]), Atoms("Al")]


@pytest.mark.filterwarnings("ignore")  # ASE's reader warns of its own ways
@pytest.mark.parametrize("form", FORMS)
def test_equals_ase(form: str) -> None:
    graph = graph_from_atoms(structures())
    got = EAM(file_of(form)).evaluate(graph, stress=True)
    assert got.stress is not None
    sizes = graph.atoms_per_graph.tolist()
    for k, (atoms, forces) in enumerate(zip(structures(), torch.split(got.forces, sizes), strict=True)):
        atoms.calc = eam.EAM(potential=str(file_of(form)))
        assert float(got.energy[k]) == pytest.approx(atoms.get_potential_energy(), abs=ROUND_OFF)
        np.testing.assert_allclose(forces.numpy(), atoms.get_forces(), atol=ROUND_OFF)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(got.stress[k].numpy(), atoms.get_stress(voigt=False), atol=ROUND_OFF)


@pytest.mark.parametrize("form", FORMS)
def test_equals_lammps(form: str) -> None:
    case = json.loads((REFERENCE / "lammps.json").read_text())[f"AlCu.eam.{form}"]
    graph = graph_from_atoms(Atoms(case["symbols"], case["positions"], cell=case["cell"], pbc=True))
    got = EAM(file_of(form), interpolation="lammps").evaluate(graph, stress=True)
    assert got.stress is not None
    assert float(got.energy[0]) == pytest.approx(case["energy"], abs=ROUND_OFF)
    np.testing.assert_allclose(got.forces.numpy(), case["forces"], atol=ROUND_OFF)
    np.testing.assert_allclose(got.stress[0].numpy(), case["stress"], atol=ROUND_OFF)


@pytest.mark.parametrize("form", FORMS)
def test_twice_differentiable(form: str) -> None:
    potential = EAM(file_of(form))
    graph = with_edges(graph_from_atoms(bulk("Cu", cubic=True)), potential.cutoff)
    rng = np.random.default_rng(1)
    graph = graph.replace(positions=graph.positions + torch.from_numpy(rng.normal(0, 0.1, (4, 3))))

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return potential.energies(graph.replace(positions=positions, cell=cell))

    arguments = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


def test_one_element_file_equals_its_alloy_form(tmp_path: Path) -> None:
    points, spacing = 60, 5.0 / 59
    r, rho = np.arange(points) * spacing, np.arange(points) * 0.5
    fade = (1.0 - r / 5.0) ** 3
    embedding, density, charge = -np.sqrt(rho + 0.1), 4.0 * np.exp(-r + 2.5) * fade, 0.4 * np.exp(-r) * fade
    r_times_pair = Hartree * Bohr * charge**2
    numbers = "\n".join(f"{value:.17e}" for value in np.concatenate([embedding, charge, density]))
    (tmp_path / "Cu.eam").write_text(f"one\n29 63.5 3.6 FCC\n{points} 0.5 {points} {spacing} 5.0\n{numbers}\n")
    numbers = "\n".join(f"{value:.17e}" for value in np.concatenate([embedding, density, r_times_pair]))
    head = f"a\nb\nc\n1 Cu\n{points} 0.5 {points} {spacing} 5.0\n29 63.5 3.6 fcc\n"
    (tmp_path / "Cu.set").write_text(head + numbers)
    graph = graph_from_atoms([structures()[1], Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])])
    got, expected = EAM(tmp_path / "Cu.eam").evaluate(graph), EAM(tmp_path / "Cu.set", form="alloy").evaluate(graph)
    assert float(got.energy.abs().min()) > 0.1
    torch.testing.assert_close(got.energy, expected.energy, atol=ROUND_OFF, rtol=0)
    torch.testing.assert_close(got.forces, expected.forces, atol=ROUND_OFF, rtol=0)


@pytest.mark.parametrize("interpolation", ["ase", "lammps"])
def test_leaving_the_tables_fails_with_file_element_and_value(interpolation: str) -> None:
    squeezed = bulk("Cu", a=1.6)
    merged = Atoms("AlCu", [[0, 0, 0], [0, 0, 0.02]])
    graph = graph_from_atoms([bulk("Cu"), squeezed, merged])
    got = EAM(file_of("alloy"), interpolation=interpolation).evaluate(graph)
    assert got.failed.tolist() == [False, True, True]
    assert "AlCu.eam.alloy: the density" in got.messages[1]
    assert "at an atom of Cu is beyond the table's last, 49.5" in got.messages[1]
    assert "AlCu.eam.alloy: a pair Al-Cu at 0.02 Å is below the table's first distance, 0.0505 Å" in got.messages[2]


def test_elements_that_the_file_lacks_are_named() -> None:
    spec = parse_calculator(f"eam:{file_of('fs')}")
    assert spec.supports([13, 29])
    with pytest.raises(CalculatorError, match=r"AlCu.eam.fs has no parameters for Fe; it knows Al, Cu; got x.cif#3"):
        spec.check(bulk("Fe"), "x.cif#3")


def test_by_name_as_potential_and_as_ase_calculator() -> None:
    spec = parse_calculator(f"eam:{file_of('fs')},interpolation=lammps")
    potential, calculator = spec.potential(), spec.create()
    assert isinstance(potential, EAM)
    assert potential.interpolation == "lammps"
    assert isinstance(calculator, TorchCalculator)
    atoms = structures()[0]
    atoms.calc = calculator
    expected = potential.evaluate(graph_from_atoms(atoms))
    assert atoms.get_potential_energy() == float(expected.energy)
    with pytest.raises(CalculatorError, match="`eam` needs a file with its parameters: eam:FILE"):
        parse_calculator("eam")
    with pytest.raises(CalculatorError, match=r"can't make the potential .*`interpolation` must be one of"):
        parse_calculator(f"eam:{file_of('fs')},interpolation=linear").potential()


def words() -> list[str]:
    return file_of("alloy").read_text().split("\n")


def changed(line: int, new: str) -> Any:
    def change(lines: list[str]) -> list[str]:
        return [*lines[:line], new, *lines[line + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: lines[:60],
            r"is truncated: it ends after \d+ words, before value 66 of 100 of the embedding function of Cu",
        ),
        (lambda lines: [*lines, "1.0"], r"expected the end of a file of the form 'alloy' after \d+ words, got '1.0'"),
        (lambda _: [], "is truncated: it ends after 0 words, before the number of elements"),
        (changed(3, "two Al Cu"), "the number of elements must be a whole number of at least 1, got 'two'"),
        (changed(3, "2 Al Xx"), "expected element 2 of 2, the symbol of an element, got 'Xx'"),
        (changed(4, "100 0.5 100 -0.05 5.0"), "the spacing of distances must be positive, got -0.05"),
        (changed(4, "3 0.5 100 0.05 5.0"), "the number of densities must be a whole number of at least 5, got '3'"),
        (changed(7, "1 2 oops 4 5"), "expected value 8 of 100 of the embedding function of Al, a number, got 'oops'"),
        (changed(7, "1 2 nan 4 5"), "value 8 of the embedding function of Al is nan, expected a finite number"),
    ],
)
def test_malformed_files_are_refused_with_the_place(change: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.eam.alloy").write_text("\n".join(change(words())))
    with pytest.raises(CalculatorError, match=f"broken.eam.alloy.*{said}"):
        EAM(tmp_path / "broken.eam.alloy")


def test_missing_files_and_unknown_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalculatorError, match=r"can't read the EAM file .*absent.alloy: No such file"):
        EAM(tmp_path / "absent.alloy")
    with pytest.raises(CalculatorError, match=r"can't tell the form .* from 'txt'; expected a name that ends in"):
        EAM(tmp_path / "tables.txt")
    with pytest.raises(CalculatorError, match=r"value 100 of 100 of the embedding function of Cu, a number, got 'fcc'"):
        EAM(file_of("fs"), form="alloy")
