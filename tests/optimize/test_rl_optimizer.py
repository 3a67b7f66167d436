import io

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.optimize.optimize import Optimizer

from relaxrl.agents import load_agent
from relaxrl.errors import CheckpointError, ConfigError, StructureError
from relaxrl.optimize import RLOptimizer, SafeguardConfig

SAME_MINIMUM = 1e-4  # eV; two relaxations to 0.01 eV/Å of one small cell


class CountingEMT(EMT):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.calls += 1
        # Its neighbour list, and so the last bit, would otherwise depend on the geometries seen before.
        super().calculate(atoms, properties, {*system_changes, *all_changes})


class Acting:
    """An agent made of a function of the graph."""

    def __init__(self, function, names=()):
        self.act = function
        self.feature_names = names


def steepest_descent():
    return Acting(lambda graph: 0.03 * graph.forces)


def random_agent():
    generator = torch.Generator().manual_seed(3)
    return Acting(lambda graph: torch.randn(graph.positions.shape, generator=generator))


AGENTS = {
    "none": lambda: None,
    "steepest descent": steepest_descent,
    "random": random_agent,
    "nan": lambda: Acting(lambda graph: graph.forces * torch.nan),
    "inf": lambda: Acting(lambda graph: graph.forces * torch.inf),
    "huge": lambda: Acting(lambda graph: 1e305 * graph.forces),
    "zero": lambda: Acting(lambda graph: 0.0 * graph.forces),
    "uphill": lambda: Acting(lambda graph: -0.1 * graph.forces),
    "float32": lambda: Acting(lambda graph: (0.03 * graph.forces).float().requires_grad_()),
}


def alloy(seed=0, repeat=(1, 1, 1), rattle=0.15):
    atoms = bulk("Cu", cubic=True) * repeat
    generator = np.random.default_rng(seed)
    atoms.symbols[:] = generator.choice(["Cu", "Au", "Ni"], len(atoms))
    atoms.positions += generator.normal(scale=rattle, size=atoms.positions.shape)
    atoms.calc = CountingEMT()
    return atoms


def slab_with_adsorbate():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    add_adsorbate(atoms, "O", 1.2, "fcc", offset=(0.1, 0.05))
    atoms.set_constraint(FixAtoms(mask=atoms.positions[:, 2] < atoms.positions[:, 2].min() + 3.0))
    atoms.calc = CountingEMT()
    return atoms


@pytest.mark.parametrize("name", AGENTS)
def test_any_agent_ends_in_the_minimum_of_bfgs_and_counts_every_evaluation(name):
    atoms, reference = alloy(), alloy()
    BFGS(reference, logfile=None).run(fmax=0.01)
    start_energy = atoms.get_potential_energy()
    atoms.calc = CountingEMT()
    optimizer = RLOptimizer(atoms, agent=AGENTS[name](), logfile=None)
    assert optimizer.run(fmax=0.01, steps=200)
    assert optimizer.converged()
    assert optimizer.force_evaluations == atoms.calc.calls
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01
    assert atoms.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=SAME_MINIMUM)
    assert atoms.get_potential_energy() < start_energy


def test_a_shipped_agent_is_loaded_once_and_its_copies_are_their_own():
    first, second = (RLOptimizer(alloy(seed), agent="metals", logfile=None).agent for seed in (1, 2))
    assert first is second
    assert load_agent("metals") is not first


@pytest.mark.parametrize(("repeat", "n"), [((1, 1, 1), 10), ((2, 2, 2), 2)])
def test_without_an_agent_it_needs_far_fewer_evaluations_than_bfgs(repeat, n):
    ratios = []
    for seed in range(n):
        atoms, reference = alloy(seed, repeat), alloy(seed, repeat)
        BFGS(reference, logfile=None).run(fmax=0.01)
        RLOptimizer(atoms, agent=None, logfile=None).run(fmax=0.01)
        ratios.append(atoms.calc.calls / reference.calc.calls)
    assert np.exp(np.mean(np.log(ratios))) < 0.6


def test_an_agent_that_knows_the_minimum_stays_in_charge():
    minimum = alloy()
    RLOptimizer(minimum, agent=None, logfile=None).run(fmax=1e-4)
    target = torch.from_numpy(minimum.positions.copy())
    atoms = alloy()
    optimizer = RLOptimizer(atoms, agent=Acting(lambda graph: target - graph.positions), logfile=None)
    assert optimizer.run(fmax=0.01)
    assert optimizer.agent_in_charge
    assert optimizer.force_evaluations <= 3


def test_the_agent_sees_forces_energy_history_and_its_features():
    seen = []

    def act(graph):
        seen.append(graph)
        return 0.02 * graph.forces

    atoms = alloy()
    first = atoms.positions.copy()
    forces = atoms.get_forces()
    energy = atoms.get_potential_energy()
    optimizer = RLOptimizer(atoms, agent=Acting(act), logfile=None, safeguard=SafeguardConfig(contraction=1.0))
    optimizer.run(fmax=0.01, steps=2)
    start, later = seen
    np.testing.assert_array_equal(start.positions.numpy(), first)
    np.testing.assert_array_equal(start.forces.numpy(), forces)
    assert start.energy.item() == pytest.approx(energy)
    assert not start.previous_displacement.any()
    np.testing.assert_array_equal(start.previous_forces.numpy(), forces)
    np.testing.assert_allclose(later.previous_displacement.numpy(), later.positions.numpy() - first, atol=1e-12)
    np.testing.assert_array_equal(later.previous_forces.numpy(), forces)


def test_displacements_are_capped_as_a_whole():
    atoms = alloy()
    start = atoms.positions.copy()
    direction = atoms.get_forces()
    RLOptimizer(atoms, agent=Acting(lambda graph: 1e3 * graph.forces), logfile=None, maxstep=0.01).run(steps=1)
    moved = atoms.positions - start
    assert np.linalg.norm(moved, axis=1).max() == pytest.approx(0.01)
    np.testing.assert_allclose(moved / 0.01, direction / np.linalg.norm(direction, axis=1).max(), atol=1e-9)


def test_fixed_atoms_stay_to_the_last_bit_on_a_slab():
    for name in ("none", "steepest descent", "random"):
        atoms = slab_with_adsorbate()
        start = atoms.positions.copy()
        fixed = atoms.constraints[0].get_indices()
        optimizer = RLOptimizer(atoms, agent=AGENTS[name](), logfile=None)
        assert optimizer.run(fmax=0.01, steps=200)
        np.testing.assert_array_equal(atoms.positions[fixed], start[fixed])
        assert np.abs(atoms.positions - start).max() > 0.05


def test_fixed_coordinates_stay():
    atoms = alloy()
    atoms.set_constraint(FixCartesian([0, 1], mask=(True, False, True)))
    start = atoms.positions.copy()
    assert RLOptimizer(atoms, agent=random_agent(), logfile=None).run(fmax=0.01, steps=200)
    np.testing.assert_array_equal(atoms.positions[:2][:, [0, 2]], start[:2][:, [0, 2]])


@pytest.mark.parametrize("agent", [None, "metals"])
def test_a_fixed_centre_of_mass_costs_nothing(agent):
    """ASE takes from the forces what would move it: along the masses, which is no gradient of any coordinates."""
    evaluations = []
    for constraint in (None, FixCom()):
        for seed in range(3):
            atoms = alloy(seed)
            atoms.set_constraint(constraint)
            before = atoms.get_center_of_mass()
            optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
            assert optimizer.run(fmax=0.01, steps=100)
            evaluations.append(optimizer.force_evaluations)
        if constraint is not None:
            np.testing.assert_allclose(atoms.get_center_of_mass(), before, atol=1e-9)
    assert sum(evaluations[3:]) <= sum(evaluations[:3]) + 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # spglib's interface, used by ASE
def test_symmetry_is_kept():
    pytest.importorskip("spglib")
    from ase.spacegroup.symmetrize import check_symmetry

    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[:4] = "Au"
    atoms.calc = CountingEMT()
    before = check_symmetry(atoms, 1e-4).number
    atoms.set_constraint(FixSymmetry(atoms))
    assert RLOptimizer(atoms, agent=random_agent(), logfile=None).run(fmax=0.001, steps=200)
    assert check_symmetry(atoms, 1e-4).number == before


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "N2"])
def test_molecules_without_a_cell(name):
    atoms, reference = (molecule(name) for _ in range(2))
    for each in (atoms, reference):
        each.rattle(0.1, seed=1)
        each.calc = CountingEMT()
    BFGS(reference, logfile=None).run(fmax=0.01)
    assert RLOptimizer(atoms, agent=steepest_descent(), logfile=None).run(fmax=0.01, steps=300)
    assert (
        atoms.get_potential_energy() <= reference.get_potential_energy() + 5e-3
    )  # 0.01 eV/Å leaves floppy torsions open


def test_a_molecule_is_not_taken_apart_to_lower_the_forces():
    atoms = molecule("N2")
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.001)
    bond = atoms.get_distance(0, 1)
    atoms.set_distance(0, 1, bond + 0.4)  # beyond the inflection: pulling lowers the forces, and raises the energy
    apart = Acting(lambda graph: -0.5 * graph.forces / graph.forces.norm(dim=1, keepdim=True))
    assert RLOptimizer(atoms, agent=apart, logfile=None).run(fmax=0.01, steps=100)
    assert atoms.get_distance(0, 1) == pytest.approx(bond, abs=0.01)


@pytest.mark.parametrize("pbc", [True, False])
def test_a_single_atom_is_converged_at_once(pbc):
    atoms = Atoms("Cu", cell=[4, 4, 4], pbc=pbc, calculator=CountingEMT())
    optimizer = RLOptimizer(atoms, agent=steepest_descent(), logfile=None)
    assert optimizer.run(fmax=0.01)
    assert optimizer.force_evaluations == atoms.calc.calls == 1


def test_no_atoms_is_an_error():
    with pytest.raises(StructureError, match="without atoms"):
        RLOptimizer(Atoms(calculator=EMT()), agent=None)


def test_a_variable_cell_is_relaxed_by_the_fallback():
    atoms = bulk("Cu", a=3.8, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = CountingEMT()
    optimizer = RLOptimizer(FrechetCellFilter(atoms), agent=random_agent(), logfile=None)
    assert optimizer.run(fmax=0.01, steps=200)
    assert "no Hessian with strain" in optimizer.handover_reason
    reference = bulk("Cu", a=3.8, cubic=True)
    reference.calc = EMT()
    BFGS(FrechetCellFilter(reference), logfile=None).run(fmax=0.001)
    assert atoms.get_volume() == pytest.approx(reference.get_volume(), rel=1e-2)


def test_constructor_log_trajectory_and_observers_are_those_of_ase(tmp_path):
    atoms = alloy()
    log = io.StringIO()
    seen = []
    optimizer = RLOptimizer(atoms, agent=None, logfile=log, trajectory=tmp_path / "relax.traj")
    assert isinstance(optimizer, Optimizer)
    optimizer.attach(lambda: seen.append(optimizer.nsteps))
    converged = list(optimizer.irun(fmax=0.05, steps=50))
    assert converged[-1]
    assert not any(converged[:-1])
    assert seen == list(range(optimizer.nsteps + 1))
    header, *lines = log.getvalue().splitlines()
    assert header.split() == ["Step", "Time", "Energy", "fmax", "Evals", "Policy"]
    assert len(lines) == optimizer.nsteps + 1
    assert lines[0].startswith("RLOptimizer:    0 ")
    assert int(lines[-1].split()[5]) == optimizer.force_evaluations == atoms.calc.calls
    frames = read(tmp_path / "relax.traj", ":")
    assert len(frames) == optimizer.nsteps + 1
    assert frames[-1].get_potential_energy() == atoms.get_potential_energy()


def test_a_step_limit_is_respected_and_a_second_run_goes_on():
    atoms, whole = alloy(), alloy()
    RLOptimizer(whole, agent=steepest_descent(), logfile=None).run(fmax=0.01)
    optimizer = RLOptimizer(atoms, agent=steepest_descent(), logfile=None)
    assert not optimizer.run(fmax=0.01, steps=2)
    assert optimizer.nsteps == 2
    assert optimizer.run(fmax=0.01)
    np.testing.assert_array_equal(atoms.positions, whole.positions)
    assert atoms.calc.calls == whole.calc.calls


def test_moving_the_atoms_between_runs_begins_anew():
    atoms = alloy()
    optimizer = RLOptimizer(atoms, agent=None, logfile=None)
    optimizer.run(fmax=0.01)
    atoms.rattle(0.3, seed=5)  # above the energy of the first start: must not be forbidden
    assert optimizer.run(fmax=0.01, steps=200)


def test_a_restart_goes_on_to_the_last_bit(tmp_path):
    file = tmp_path / "relax.npz"
    whole = alloy(repeat=(2, 1, 1))
    complete = RLOptimizer(whole, agent=steepest_descent(), logfile=None)
    complete.run(fmax=0.01)
    atoms = alloy(repeat=(2, 1, 1))
    first = RLOptimizer(atoms, restart=file, agent=steepest_descent(), logfile=None)
    first.run(fmax=0.01, steps=complete.nsteps // 2)
    fresh = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, calculator=CountingEMT())
    second = RLOptimizer(fresh, restart=file, agent=steepest_descent(), logfile=None)
    assert second.run(fmax=0.01)
    np.testing.assert_array_equal(fresh.positions, whole.positions)
    assert second.nsteps == complete.nsteps
    # The geometry of the restart has to be evaluated once more.
    assert second.force_evaluations == complete.force_evaluations + 1
    assert second.handover_reason == complete.handover_reason
    assert [path.name for path in tmp_path.iterdir()] == ["relax.npz"]


@pytest.mark.parametrize(("before", "after", "steers"), [(None, "metals", ""), ("metals", None, "no agent")])
def test_a_restart_may_bring_an_agent_or_leave_it(tmp_path, before, after, steers):
    file = tmp_path / "restart.json"
    RLOptimizer(alloy(), restart=file, agent=before, logfile=None).run(fmax=0.01, steps=2)
    second = RLOptimizer(alloy(), restart=file, agent=after, logfile=None)
    assert second.handover_reason == steers
    assert second.run(fmax=0.01, steps=100)


def test_restart_files_that_don_t_fit_are_refused(tmp_path):
    file = tmp_path / "relax.npz"
    RLOptimizer(alloy(), restart=file, agent=None, logfile=None).run(fmax=0.01, steps=3)
    other = bulk("Al")
    other.calc = EMT()
    with pytest.raises(CheckpointError, match="use another restart file"):
        RLOptimizer(other, restart=file, agent=None)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"{}", content.replace(b"format", b"farmot")):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"relax\.npz"):
            RLOptimizer(alloy(), restart=file, agent=None)


def test_wrong_agents_are_refused():
    with pytest.raises(TypeError, match="act"):
        RLOptimizer(alloy(), agent=3)
    wrong = Acting(lambda graph: graph.forces[:1])
    with pytest.raises(ValueError, match="shape"):
        RLOptimizer(alloy(), agent=wrong, logfile=None).run()


def test_an_agent_in_the_place_of_the_restart_file_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="say agent="):
        RLOptimizer(bulk("Cu"), "metals")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("atoms", "arguments", "message"),
    [
        ([bulk("Cu")], {}, "`atoms` must be Atoms or an ASE filter of them, got list"),
        (bulk("Cu"), {"cell": "yes"}, "`cell` must be True, False or a RelaxCell, got 'yes'"),
        (bulk("Cu"), {"alpha": 70.0}, "has no `alpha`"),
    ],
)
def test_arguments_of_another_kind(atoms, arguments, message):
    with pytest.raises(TypeError, match=message):
        RLOptimizer(atoms, agent=None, **arguments)


def test_atoms_that_are_nowhere():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[2, 1] = np.nan
    with pytest.raises(StructureError, match="for atom 2"):
        RLOptimizer(atoms, agent="none")
