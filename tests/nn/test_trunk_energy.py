"""The trunk as a potential: derivatives, symmetries, calibration, files, and the way into an actor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS

from relaxrl.errors import CalculatorError, CheckpointError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import (
    DirectActorConfig,
    HessianActorConfig,
    PretrainedCalculator,
    TrunkConfig,
    TrunkEnergyConfig,
    TrunkEnergyModel,
    build_actor,
    build_trunk_energy,
    load_pretrained,
    load_trunk,
    save_pretrained,
)
from relaxrl.potentials import parse_calculator

SMALL = TrunkConfig(layers=2, cutoff=4.0, channels=4, message_channels=4, forces=False, history=False)
EXACT = 1e-12
"""eV, eV/Å; rounding in double precision."""
DIFFERENCE = 1e-6
"""eV/Å, eV/Å²; central differences with steps of 1e-4 Å."""


def model(seed: int = 0, trunk: TrunkConfig = SMALL) -> TrunkEnergyModel:
    made = build_trunk_energy(TrunkEnergyConfig(trunk=trunk, head_channels=8), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.readout[-1].weight.add_(torch.randn(1, 8, generator=generator))
    return made.double()


def two(crystal: Callable[..., Atoms]) -> AtomGraph:
    return graph_from_atoms([crystal(0), crystal(1, (1, 1, 1))])


def test_forces_stress_and_hessian_are_derivatives(crystal: Callable[..., Atoms]):
    potential, graph = model(), two(crystal)
    evaluation = potential.evaluate(graph, stress=True)
    hessian = potential.hessian(graph)[0]
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        moved = []
        for sign in (1, -1):
            positions = graph.positions.clone()
            positions[atom, axis] += sign * step
            moved.append(potential.evaluate(graph.replace(positions=positions)))
        slope = (moved[0].energy[0] - moved[1].energy[0]) / (2 * step)
        np.testing.assert_allclose(evaluation.forces[atom, axis], -slope, atol=DIFFERENCE)
        column = (moved[1].forces - moved[0].forces)[:8] / (2 * step)
        np.testing.assert_allclose(hessian[3 * atom + axis], column.flatten(), atol=DIFFERENCE)
    assert evaluation.stress is not None
    assert float(evaluation.forces.abs().max()) > 0.01
    energies = []
    for sign in (1, -1):
        strain = torch.eye(3, dtype=torch.float64)
        strain[0, 1] += sign * step
        energies.append(potential.evaluate(graph.replace(positions=graph.positions @ strain, cell=graph.cell @ strain)))
    slope = (energies[0].energy - energies[1].energy) / (2 * step) / torch.linalg.det(graph.cell)
    np.testing.assert_allclose(evaluation.stress[:, 0, 1], slope, atol=DIFFERENCE)


def test_energies_are_invariant_and_those_of_a_batch_those_of_singles(crystal: Callable[..., Atoms]):
    potential, graph = model(), two(crystal)
    evaluation = potential.evaluate(graph)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    turned = graph.replace(positions=graph.positions @ rotation, cell=graph.cell @ rotation)
    after = potential.evaluate(turned)
    np.testing.assert_allclose(after.energy, evaluation.energy, atol=EXACT)
    np.testing.assert_allclose(after.forces, evaluation.forces @ rotation, atol=EXACT)
    for k, part in enumerate(graph.unbatch()):
        np.testing.assert_allclose(potential.evaluate(part).energy, evaluation.energy[k : k + 1], atol=EXACT)
    double = potential.evaluate(graph_from_atoms(crystal(1, (1, 1, 1)).repeat((1, 2, 1))))
    np.testing.assert_allclose(double.energy, 2 * evaluation.energy[1:], atol=10 * EXACT)


def test_energies_do_not_depend_on_the_order_of_given_edges(crystal: Callable[..., Atoms]):
    from relaxrl.neighbors import with_edges

    potential = model()
    graph = with_edges(graph_from_atoms(crystal()), 4.0)
    assert graph.edge_index is not None
    assert graph.edge_shift is not None
    order = torch.randperm(graph.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    mixed = graph.replace(edge_index=graph.edge_index[:, order], edge_shift=graph.edge_shift[order])
    torch.testing.assert_close(potential.energies(mixed), potential.energies(graph))


def test_an_atom_alone_has_its_reference_energy_plus_a_constant():
    potential = model()
    energy = potential.evaluate(graph_from_atoms([Atoms("Cu"), Atoms("Cu2", [[0, 0, 0], [9, 0, 0]])])).energy
    np.testing.assert_allclose(energy[1], 2 * energy[0], atol=EXACT)


def test_calibration_fits_the_energies_of_compositions():
    potential = model()
    numbers = [np.array([13, 13, 29]), np.array([13, 29, 29]), np.array([29])]
    energies = np.array([-3.0 * len(z) - (z == 29).sum() for z in numbers])  # -3 for Al, -4 for Cu
    potential.calibrate(numbers, energies, [np.full((len(z), 3), 0.5) for z in numbers])
    reference = potential.get_buffer("reference")
    np.testing.assert_allclose(reference[[13, 29, 79]], [-3.0, -4.0, -3.5], atol=1e-9)
    assert float(potential.get_buffer("scale")) == 0.5


def test_what_depends_on_more_than_positions_is_refused():
    with pytest.raises(ValueError, match="an energy depends on positions alone"):
        TrunkEnergyConfig(trunk=TrunkConfig())
    with pytest.raises(ValueError, match="an energy jumps where an atom passes another"):
        TrunkEnergyConfig(trunk=TrunkConfig(forces=False, history=False, max_neighbors=12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(tmp_path / "best", model().float(), [29, 79, 13, 78], {"note": "untrained"})
    return tmp_path


def test_a_saved_potential_is_the_same_as_calculator_and_in_batches(folder: Path, crystal: Callable[..., Atoms]):
    atoms = crystal()
    expected = load_pretrained(folder, torch.float64).evaluate(graph_from_atoms(atoms))
    spec = parse_calculator(f"relaxrl.nn:PretrainedCalculator,folder={folder}")
    assert spec.elements == {29, 79, 13, 78}
    atoms.calc = spec.create()
    assert atoms.get_potential_energy() == float(expected.energy[0])
    np.testing.assert_array_equal(atoms.get_forces(), expected.forces)
    batched = spec.potential()
    assert isinstance(batched, TrunkEnergyModel)  # not one ASE calculator after the other
    assert torch.equal(batched.evaluate(graph_from_atoms([atoms, atoms])).energy, expected.energy.repeat(2))
    single = PretrainedCalculator(str(folder), dtype="float32").get_potential_energy(atoms)
    assert 0 < abs(single - float(expected.energy[0])) < 1e-3


def test_ase_can_relax_with_it(folder: Path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = PretrainedCalculator(str(folder))
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=30)
    assert atoms.get_potential_energy() < before


def test_elements_it_was_not_trained_on_are_refused(folder: Path):
    with pytest.raises(CalculatorError, match="has no parameters for Fe; it knows Al, Cu, Pt, Au"):
        PretrainedCalculator(str(folder)).get_potential_energy(bulk("Fe"))
    with pytest.raises(CalculatorError, match="float16"):
        PretrainedCalculator(str(folder), dtype="float16")


def test_folders_without_a_potential_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"expected a pretrained potential \(model.json\) or a run of"):
        load_pretrained(tmp_path)


def test_an_actor_begins_with_the_trunk(folder: Path):
    actor = build_actor(HessianActorConfig(trunk=SMALL, head_channels=8, vector_channels=4))
    head = actor.head.last.weight.clone()
    load_trunk(actor, folder)
    trained = load_pretrained(folder).trunk.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in actor.trunk.state_dict().items())
    assert torch.equal(actor.head.last.weight, head)
    assert all(parameter.requires_grad for parameter in actor.parameters())


def test_an_actor_that_reads_forces_takes_over_all_but_what_reads_them(folder: Path):
    trunk = TrunkConfig(layers=2, cutoff=4.0, channels=4, message_channels=4)
    actor = build_actor(DirectActorConfig(trunk=trunk, head_channels=8))
    before = actor.trunk.scalars[0].weight.clone()
    load_trunk(actor, folder)
    trained = load_pretrained(folder).trunk
    assert torch.equal(actor.trunk.scalars[0].weight[:, :4], trained.scalars[0].weight)
    assert torch.equal(actor.trunk.scalars[0].weight[:, 4:], before[:, 4:])
    assert torch.equal(actor.trunk.layers[1].convolution.linear.weight, trained.layers[1].convolution.linear.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, r"its trunk has no parameter `trunk.layers.2.send.weight`, which the actor's has"),
        ({"channels": 5}, r"parameter `trunk.elements.network.0.weight` has the shape \(4, \d+\), the actor's \(5, "),
    ],
)
def test_a_trunk_of_another_architecture_names_the_parameter(folder: Path, changes: dict[str, int], message: str):
    sizes = {"layers": 2, "cutoff": 4.0, "channels": 4, "message_channels": 4, "forces": False, "history": False}
    actor = build_actor(HessianActorConfig(trunk=TrunkConfig(**(sizes | changes)), head_channels=8, vector_channels=4))
    with pytest.raises(CheckpointError, match=message):
        load_trunk(actor, folder)
