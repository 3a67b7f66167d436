"""Stillinger-Weber and Tersoff in torch against LAMMPS and ASE, and against files that are not what they should be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators import tersoff

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.potentials import StillingerWeber, Tersoff, TorchPotential, parse_calculator

REFERENCE = Path(__file__).parent / "reference"
ROUND_OFF = 1e-10
POTENTIALS: dict[str, Any] = {".sw": StillingerWeber, ".tersoff": Tersoff}
FILES = ["Si.sw", "SiGe.sw", "Si.tersoff", "SiC.tersoff"]


def potential_of(file: str) -> TorchPotential:
    made: TorchPotential = POTENTIALS[Path(file).suffix](REFERENCE / file)
    return made


def case_of(file: str) -> tuple[AtomGraph, dict[str, Any]]:
    case = json.loads((REFERENCE / "lammps.json").read_text())[file]
    return graph_from_atoms(Atoms(case["symbols"], case["positions"], cell=case["cell"], pbc=True)), case


@pytest.mark.parametrize("file", FILES)
def test_equals_lammps(file: str) -> None:
    graph, case = case_of(file)
    got = potential_of(file).evaluate(graph, stress=True)
    assert got.stress is not None
    assert float(got.energy[0]) == pytest.approx(case["energy"], abs=ROUND_OFF)
    np.testing.assert_allclose(got.forces.numpy(), case["forces"], atol=ROUND_OFF)
    np.testing.assert_allclose(got.stress[0].numpy(), case["stress"], atol=ROUND_OFF)


@pytest.mark.parametrize("file", ["Si.tersoff", "SiC.tersoff"])
def test_tersoff_equals_ase(file: str) -> None:
    structures = [
        Atoms(case_of(file)[1]["symbols"], case_of(file)[1]["positions"], cell=case_of(file)[1]["cell"], pbc=True),
        Atoms("Si3", [[0, 0, 0], [2.3, 0, 0], [0.6, 2.4, 0.1]]),
        bulk("Si", a=5.0) * (1, 1, 2),
        Atoms("Si"),
    ]
    graph = graph_from_atoms(structures)
    got = Tersoff(REFERENCE / file).evaluate(graph)
    for atoms, energy, forces in zip(
        structures, got.energy.tolist(), torch.split(got.forces, graph.atoms_per_graph.tolist()), strict=True
    ):
        atoms.calc = tersoff.Tersoff.from_lammps(REFERENCE / file)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=ROUND_OFF)
        np.testing.assert_allclose(forces.numpy(), atoms.get_forces(), atol=ROUND_OFF)


def test_stillinger_weber_silicon_by_hand() -> None:
    """Diamond at 5.431 Å is the minimum: -4.3366 eV an atom, no force, angle term zero."""
    graph = graph_from_atoms(bulk("Si", a=5.4309))
    got = StillingerWeber(REFERENCE / "Si.sw").evaluate(graph, stress=True)
    assert float(got.energy[0]) / 2 == pytest.approx(-4.33663, abs=1e-4)
    assert got.stress is not None
    assert float(got.stress.abs().max()) < 1e-4
    # One bond: 7.05 eps (0.6022 (sigma/r)^4 - 1) exp(sigma / (r - 1.8 sigma)), no angle.
    pair = StillingerWeber(REFERENCE / "Si.sw").evaluate(graph_from_atoms(Atoms("Si2", [[0, 0, 0], [0, 0, 2.5]])))
    sigma = 2.0951
    by_hand = 7.049556277 * 2.1683 * (0.6022245584 * (sigma / 2.5) ** 4 - 1) * np.exp(sigma / (2.5 - 1.8 * sigma))
    assert float(pair.energy[0]) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("file", FILES)
def test_hessian_is_the_slope_of_the_forces(file: str) -> None:
    graph, _ = case_of(file)
    potential, step = potential_of(file), 1e-5
    hessian = potential.hessian(graph)[0]
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        shifted = torch.zeros_like(graph.positions)
        shifted[atom, axis] = step
        up = potential.evaluate(graph.replace(positions=graph.positions + shifted)).forces
        down = potential.evaluate(graph.replace(positions=graph.positions - shifted)).forces
        slope = -((up - down) / (2 * step)).flatten()
        torch.testing.assert_close(hessian[:, 3 * atom + axis], slope, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_twice_differentiable(file: str) -> None:
    potential = potential_of(file)
    atoms = Atoms("Si3", [[0, 0, 0], [2.3, 0, 0], [0.6, 2.4, 0.1]])
    graph = with_edges(graph_from_atoms(atoms), potential.cutoff)

    def energy(positions: torch.Tensor) -> torch.Tensor:
        return potential.energies(graph.replace(positions=positions))

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, positions)
    assert torch.autograd.gradgradcheck(energy, positions)


@pytest.mark.parametrize("file", ["SiGe.sw", "SiC.tersoff"])
def test_batch_equals_singles_and_lonely_atoms_have_no_energy(file: str) -> None:
    graph, _ = case_of(file)
    batch = AtomGraph.batch([graph, graph_from_atoms(Atoms("Si")), graph_from_atoms(bulk("Si")), graph])
    potential = potential_of(file)
    got = potential.evaluate(batch)
    singles = [potential.evaluate(part) for part in batch.unbatch()]
    torch.testing.assert_close(got.energy, torch.cat([one.energy for one in singles]), atol=ROUND_OFF, rtol=0)
    torch.testing.assert_close(got.forces, torch.cat([one.forces for one in singles]), atol=ROUND_OFF, rtol=0)
    assert float(got.energy[1]) == 0.0


def test_by_name_with_a_choice_of_elements() -> None:
    spec = parse_calculator(f"sw:{REFERENCE / 'SiGe.sw'},elements=['Ge']")
    assert spec.elements == {32}
    assert isinstance(parse_calculator(f"tersoff:{REFERENCE / 'SiC.tersoff'}").potential(), Tersoff)
    with pytest.raises(CalculatorError, match=r"SiGe.sw: there are no entries of 'C'; the file has Si, Ge"):
        parse_calculator(f"sw:{REFERENCE / 'SiGe.sw'},elements=['C']").potential()
    got = parse_calculator(f"sw:{REFERENCE / 'Si.sw'}").potential().evaluate(graph_from_atoms([bulk("Si"), bulk("C")]))
    assert got.failed.tolist() == [False, True]
    assert "Si.sw has no parameters for C; it knows Si" in got.messages[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Si Si Si 1 2 3", r"expected entries of 3 elements and 11 numbers \(epsilon, .*\), got 6 words"),
        ("# only a comment", r"expected entries of 3 elements and 11 numbers .*, got 0 words"),
        ("Si Si Si 2 oops 1.8 21 1.2 -0.3 7 0.6 4 0 0", "expected sigma of Si Si Si, a finite number, got 'oops'"),
        ("Si Si Si 2 nan 1.8 21 1.2 -0.3 7 0.6 4 0 0", "expected sigma of Si Si Si, a finite number, got 'nan'"),
        ("Si Si Si 2 -2 1.8 21 1.2 -0.3 7 0.6 4 0 0", "sigma of Si Si Si must be at least 0, got -2"),
        ("Si Si C 2 2 1.8 21 1.2 -0.3 7 0.6 4 0 0", "there is no entry for Si Si Si, Si C Si, Si C C and 4 more"),
        ("X1 X1 X1 2 2 1.8 21 1.2 -0.3 7 0.6 4 0 0", "expected entries of at least one element, got 1 of none"),
    ],
)
def test_malformed_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.sw").write_text(text)
    with pytest.raises(CalculatorError, match=f"broken.sw: {said}"):
        StillingerWeber(tmp_path / "broken.sw")
    with pytest.raises(CalculatorError, match=r"can't read the parameter file .*absent.sw: No such file"):
        StillingerWeber(tmp_path / "absent.sw")
