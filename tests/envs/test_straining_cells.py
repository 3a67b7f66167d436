"""The environment with cells that strain, against ASE and against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl.config import from_dict
from relaxrl.envs import CellConfig, EnvConfig, RelaxationEnv, RewardConfig
from relaxrl.envs.correction import correct
from relaxrl.errors import CalculatorError, ConfigError, StructureError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import parse_calculator
from relaxrl.strain import STRAIN_BASIS, tensor_from_vector, vector_from_tensor

from .conftest import cluster, crystal, rattled

FLOAT64 = 1e-10
ASE_EMT = "ase.calculators.emt:EMT"


def make(atoms, cell=None, calculator="emt", n_envs=1, seed=0, kind="start", **options):
    several = atoms if isinstance(atoms, list) else [atoms]
    crystals = [each if not isinstance(each, Atoms) else crystal(each, "crystal", kind) for each in several]
    config = EnvConfig(cell=cell or CellConfig(), **options)
    potential = parse_calculator(calculator).potential()
    return RelaxationEnv(crystals, potential, config, np.random.default_rng(seed), n_envs)


def alloy(scale=1.03, seed=0):
    """Eight atoms, stretched, sheared and displaced."""
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.symbols[[0, 3]] = "Au"
    shear = np.array([[0.0, 0.02, 0.0], [0.02, 0.0, -0.01], [0.0, -0.01, 0.0]])
    atoms.set_cell(atoms.cell.array @ (scale * np.eye(3) + shear), scale_atoms=True)
    return rattled(atoms, 0.05, seed)


def descent(graph: AtomGraph):
    """Steepest descent: displacements and strain."""
    volume = torch.linalg.det(graph.cell).abs() / graph.atoms_per_graph
    stress = torch.einsum("gab,kab->gk", graph.stress, torch.from_numpy(STRAIN_BASIS))
    return 0.05 * graph.forces, -0.02 * volume[:, None] * stress


def relax(env):
    env.reset()
    while not env.finished.all():
        result = env.step(*descent(env.graph))
    return result


@pytest.mark.parametrize("calculator", ["emt", ASE_EMT])
@pytest.mark.parametrize("start", [3.45, 3.75])
def test_descent_finds_the_lattice_constant_of_ase(calculator, start):
    reference = bulk("Cu", a=3.6, cubic=True)
    reference.calc = EMT()
    BFGS(FrechetCellFilter(reference), logfile=None).run(fmax=1e-5)
    env = make(bulk("Cu", a=start, cubic=True), CellConfig(smax=1e-4), calculator)
    result = relax(env)
    assert result.reason == ["converged"]
    assert float(env.stress) <= 1e-4
    np.testing.assert_allclose(result.graph.cell[0].numpy(), reference.cell.array, atol=2e-3)
    assert result.reward > 9  # 10 for success
    assert result.evaluations.tolist() == [int(env.steps) + 1]


@pytest.mark.parametrize("cell", [CellConfig(), CellConfig(hydrostatic_strain=True), CellConfig(constant_volume=True)])
def test_what_converges_is_converged_for_ases_filter_and_its_optimizer_leaves_it_alone(cell):
    result = relax(make(alloy(), cell, fmax=0.02))
    assert result.reason == ["converged"]
    atoms = Atoms(
        result.graph.atomic_numbers.numpy(), result.graph.positions.numpy(), cell=result.graph.cell[0].numpy(), pbc=True
    )
    atoms.calc = EMT()
    settings = {name: getattr(cell, name) for name in ("hydrostatic_strain", "constant_volume")}
    assert BFGS(FrechetCellFilter(atoms, **settings), logfile=None).run(fmax=0.02 + 1e-9, steps=0)
    assert atoms.get_potential_energy() < energy_of(alloy())


def energy_of(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def test_stress_energy_and_forces_are_those_of_ase_where_the_step_has_led():
    env = make(alloy())
    graph = env.reset()
    for _ in range(3):
        atoms = Atoms(graph.atomic_numbers.numpy(), graph.positions.numpy(), cell=graph.cell[0].numpy(), pbc=True)
        atoms.calc = EMT()
        np.testing.assert_allclose(graph.stress[0].numpy(), atoms.get_stress(voigt=False), atol=FLOAT64)
        np.testing.assert_allclose(graph.forces.numpy(), atoms.get_forces(), atol=FLOAT64)
        assert float(graph.energy) == pytest.approx(atoms.get_potential_energy(), abs=FLOAT64)
        graph = env.step(*descent(graph)).graph


def test_a_step_strains_first_and_displaces_then():
    env = make(alloy())
    before = env.reset()
    rng = np.random.default_rng(1)
    displacement, strain = rng.normal(0, 0.03, (8, 3)), rng.normal(0, 0.01, 6)
    result = env.step(torch.from_numpy(displacement), torch.from_numpy(strain)[None])
    assert not result.a_back.any()
    deformation = np.eye(3) + tensor_from_vector(strain)
    positions = before.positions.numpy() @ deformation + displacement
    np.testing.assert_allclose(result.graph.positions.numpy(), positions, atol=FLOAT64)
    np.testing.assert_allclose(result.graph.cell[0].numpy(), before.cell[0].numpy() @ deformation, atol=FLOAT64)
    np.testing.assert_allclose(result.applied.numpy(), displacement, atol=FLOAT64)
    np.testing.assert_allclose(result.applied_strain.numpy()[0], strain, atol=FLOAT64)


def test_strains_are_limited_by_their_norm_and_keep_their_direction():
    env = make(alloy(), CellConfig(max_strain=0.03))
    env.reset()
    asked = torch.tensor([[0.3, 0.0, -0.2, 0.1, 0.0, 0.5]], dtype=torch.float64)
    result = env.step(torch.zeros(8, 3), asked)
    torch.testing.assert_close(result.proposed_strain, 0.03 * asked / asked.norm(), rtol=0, atol=FLOAT64)
    assert float(result.applied_strain.norm()) <= 0.03 + FLOAT64
    assert float(make_step(env, 0.01 * asked).proposed_strain.norm()) == pytest.approx(0.01 * float(asked.norm()))


def make_step(env, strain):
    return env.step(torch.zeros_like(env.graph.positions), strain)


def test_a_rotated_crystal_gets_the_rotated_step_and_the_same_rewards():
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    turned = alloy()
    turned.set_cell(turned.cell.array @ rotation, scale_atoms=True)
    one, other = make(alloy()), make(turned)
    a, b = one.reset(), other.reset()
    turn = torch.from_numpy(rotation)
    for size in (0.02, 0.6, 0.02):  # the second is too long, and then corrected
        displacement, strain = 5 * size * rng.normal(size=(8, 3)), size * rng.normal(size=6)
        rotated = vector_from_tensor(rotation.T @ tensor_from_vector(strain) @ rotation)
        first = one.step(torch.from_numpy(displacement), torch.from_numpy(strain)[None])
        second = other.step(torch.from_numpy(displacement @ rotation), torch.from_numpy(rotated)[None])
        a, b = first.graph, second.graph
        torch.testing.assert_close(a.stress[0], turn @ b.stress[0] @ turn.T, rtol=0, atol=1e-9)
        torch.testing.assert_close(a.cell[0] @ turn, b.cell[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(a.positions @ turn, b.positions, rtol=0, atol=1e-9)
        torch.testing.assert_close(first.a_back, second.a_back, rtol=0, atol=1e-9)
        for name, term in first.terms.items():
            torch.testing.assert_close(term, second.terms[name], rtol=0, atol=1e-8, msg=name)
        torch.testing.assert_close(one.stress, other.stress, rtol=0, atol=1e-9)
    assert first.terms.keys() >= {"stress", "delta"}


def test_rewards_are_the_weighted_stress_beside_the_force():
    env = make(bulk("Cu", a=3.7, cubic=True), reward=RewardConfig(w_stress=2.0))
    before = env.reset()
    result = env.step(*descent(before))

    def pull(graph):  # cubic: the stress is a pressure, and no atom feels a force
        return abs(float(graph.stress[0].trace()) / 3) * float(torch.linalg.det(graph.cell[0])) / 4

    p0, p1 = pull(before), pull(result.graph)
    assert float(max_force(result.graph)) < 1e-6
    assert float(result.terms["stress"]) == pytest.approx(-2.0 * p1)
    assert float(result.terms["delta"]) == pytest.approx(p0 - p1, abs=1e-6)
    assert float(result.terms["log"]) == pytest.approx(-0.1 * np.log10(p1))
    assert float(result.terms["base"]) == pytest.approx(0.0, abs=1e-6)
    assert float(result.reward) == pytest.approx(sum(float(term) for term in result.terms.values()))
    torch.testing.assert_close(result.atom_reward, result.reward.expand(4), rtol=0, atol=1e-6)
    same = make(bulk("Cu", a=3.7, cubic=True), CellConfig(smax=0.001), fmax=0.05)
    stress = float(same.reset().stress[0].trace()) / 3
    result = same.step(torch.zeros(4, 3), torch.zeros(1, 6))  # a step that goes nowhere
    assert float(result.terms["stress"]) == pytest.approx(-abs(stress) / 0.001 * 0.05)
    assert result.evaluations.tolist() == [1]


class OnDemand(Calculator):
    """EMT that computes what it is asked for, and no more; `calls` counts over all of them."""

    implemented_properties = ("energy", "forces", "stress")
    calls: list[str] = []  # noqa: RUF012 - counted across instances on purpose

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        own = self.atoms.copy()
        own.calc = EMT()
        self.calls.append(properties[0])
        self.results = {"energy": own.get_potential_energy(), "forces": own.get_forces()}
        if "stress" in properties:
            self.results["stress"] = own.get_stress()


def test_stress_comes_from_the_evaluation_of_the_forces():
    OnDemand.calls.clear()
    env = make(alloy(), calculator=OnDemand)
    env.reset()
    for _ in range(4):
        env.step(*descent(env.graph))
    assert OnDemand.calls == ["stress"] * 5
    assert env.evaluations.tolist() == [5]


def test_what_is_frozen_stays():
    atoms = alloy()
    free = (True, True, False, False, False, True)
    result = relax(make(atoms, CellConfig(mask=free)))
    assert result.reason == ["converged"]
    change = np.linalg.solve(atoms.cell.array, result.graph.cell[0].numpy())
    np.testing.assert_allclose(change[2], [0, 0, 1], atol=FLOAT64)
    np.testing.assert_allclose(change[:2, 2], 0, atol=FLOAT64)
    assert abs(change[0, 1]) > 0.01
    size = relax(make(atoms, CellConfig(hydrostatic_strain=True))).graph.cell[0].numpy()
    np.testing.assert_allclose(size, atoms.cell.array * (size[0, 0] / atoms.cell[0, 0]), atol=FLOAT64)
    shape = relax(make(atoms, CellConfig(constant_volume=True))).graph.cell[0].numpy()
    assert np.linalg.det(shape) == pytest.approx(atoms.get_volume(), rel=1e-12)
    assert np.abs(shape - atoms.cell.array).max() > 0.01


def test_the_volume_is_kept_by_steps_that_are_taken_back_too():
    env = make(alloy(), CellConfig(constant_volume=True), r_min=0.85)
    volume = float(torch.linalg.det(env.reset().cell[0]))
    corrected, rng = 0, np.random.default_rng(0)
    for _ in range(6):
        result = env.step(torch.from_numpy(rng.normal(0, 0.3, (8, 3))), torch.from_numpy(rng.normal(0, 0.1, (1, 6))))
        assert float(torch.linalg.det(result.graph.cell[0])) == pytest.approx(volume, rel=1e-12)
        corrected += int(0 < float(result.a_back) < 1)
    assert corrected


def test_slabs_strain_in_their_plane_and_fixed_atoms_go_with_the_cell():
    slab = fcc111("Cu", (2, 2, 3), a=3.7, vacuum=6.0)
    slab.pbc = (True, True, False)
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    env = make(slab)
    env.reset()
    result = env.step(torch.full((12, 3), 0.02), torch.tensor([[-0.01, 0.005, 0.3, 0.2, 0.1, 0.01]]))
    deformation = np.eye(3) + tensor_from_vector(np.array([-0.01, 0.005, 0, 0, 0, 0.01]))
    np.testing.assert_allclose(result.graph.cell[0].numpy(), slab.cell.array @ deformation, atol=1e-9)
    np.testing.assert_allclose(result.graph.positions[:4].numpy(), slab.positions[:4] @ deformation, atol=1e-9)
    assert relax(make(slab)).reason == ["converged"]


@pytest.mark.parametrize("seed", range(5))
def test_corrected_paths_are_legal_and_no_longer_ones_are(seed):
    rng = np.random.default_rng(seed)
    graph = graph_from_atoms(rattled(bulk("Cu").repeat((2, 1, 1 + seed % 2)), 0.1, seed))
    displacement = torch.from_numpy(rng.normal(0, 0.4, graph.positions.shape))
    strain = torch.from_numpy(tensor_from_vector(rng.normal(0, 0.12, 6)))[None]
    corrected = correct(graph, displacement, 2.1, 5.0, strain)
    left = 1 - float(corrected.a_back)

    def least(fraction):
        deformation = np.eye(3) + fraction * strain[0].numpy()
        positions = graph.positions.numpy() @ deformation + fraction * displacement.numpy()
        cell = graph.cell[0].numpy() @ deformation
        atoms = Atoms(graph.atomic_numbers.numpy(), positions, cell=cell, pbc=True).repeat(3)
        return atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min()

    assert all(least(fraction) >= 2.1 - 1e-9 for fraction in np.linspace(0, left, 15))
    if left < 1:
        assert least(min(left + 1e-3, 1.0)) < 2.1
    torch.testing.assert_close(corrected.applied, left * displacement)


def test_an_atom_keeps_away_from_its_own_images():
    graph = graph_from_atoms(bulk("Cu"))
    squeeze = torch.from_numpy(tensor_from_vector(np.array([-0.2, -0.2, -0.2, 0, 0, 0])))[None]
    corrected = correct(graph, torch.zeros(1, 3), 2.3, 5.0, squeeze)
    bond = 3.61 / 2**0.5
    assert 1 - float(corrected.a_back) == pytest.approx((1 - 2.3 / bond) / 0.2, rel=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_cells_can_neither_collapse_nor_expand_beyond_bounds(sign):
    """A policy that always squeezes, or always stretches, along one direction."""
    env = make([crystal(bulk("Cu"), "one", "start"), crystal(alloy(), "eight", "start")], n_envs=2, r_min=0.3)
    env.reset([0, 1])
    volume = torch.linalg.det(env.graph.cell)
    push = torch.tensor([[sign, 0.2, 0.0, 0.0, 0.1, 0.0]]).expand(2, 6)
    corrected = torch.zeros(2)
    while not env.finished.all():
        result = make_step(env, push)
        ratio = torch.linalg.det(result.graph.cell) / volume
        assert bool(((ratio > 0.5 - 1e-9) & (ratio < 2 + 1e-9)).all())
        assert torch.isfinite(result.reward).all()
        corrected += result.a_back
    assert not result.terminated.any()
    assert set(result.reason) <= {"stuck", "broken", "exploded"}
    assert corrected.any()


def test_flat_cells_are_stopped_at_half_an_angstrom():
    atoms = Atoms("Cu", cell=[6.0, 6.0, 0.6], pbc=True)
    env = make(
        atoms,
        CellConfig(mask="zz", volume_range=(0.01, 3.0), smax=1e-9),
        "lj,sigma=0.3,epsilon=1e-6,rc=1.0",
        r_min=0.01,
    )
    env.reset()
    for _ in range(4):
        result = make_step(env, torch.tensor([[0.0, 0.0, -0.1, 0.0, 0.0, 0.0]]))
    assert float(result.graph.cell[0, 2, 2]) == pytest.approx(0.5, abs=1e-9)
    assert float(result.a_back) == pytest.approx(1.0)


def test_bad_input_is_told_before_the_first_step():
    flat = Atoms("Cu4", positions=np.eye(4, 3) * 3, cell=[4, 4, 0.3], pbc=True)
    cases = (
        (flat, CellConfig(), "crystal crystal#0: the cell is nearly flat"),
        (cluster(), CellConfig(), "crystal crystal#0: stress needs a cell with three independent vectors"),
        (Atoms("Cu", cell=[9, 9, 9]), CellConfig(), "crystal crystal#0: no strain of this cell is free"),
        (fcc111("Cu", (1, 1, 2)), CellConfig(), "three independent vectors.*give slabs"),
        (fcc111("Cu", (1, 1, 2), vacuum=6.0, periodic=False), CellConfig(mask="zz"), "no strain of this cell is free"),
    )
    for atoms, cell, message in cases:
        with pytest.raises(StructureError, match=f"{message}(.|\n)*or leave `cell` out"):
            make(atoms, cell)
    for values, message in (
        ({"max_strain": 0.0}, "`max_strain` must be above 0"),
        ({"smax": -1}, "`smax` must be positive"),
        ({"strain": 0.5}, "`strain` must be a size from 0 to 0.1"),
        ({"volume_range": [1.5, 2]}, "`volume_range` must be"),
        ({"hydrostatic_strain": True, "constant_volume": True}, "leave no strain"),
        ({"mask": "xx,qq"}, "there is no strain `qq`; there are xx, yy"),
        ({"msk": [1] * 6}, "unknown key `cell.msk`; did you mean `cell.mask`"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(EnvConfig, {"cell": values})
    env = make(alloy())
    env.reset()
    still = torch.zeros(8, 3)
    with pytest.raises(ValueError, match=r"`strain` must have shape \(n_graphs=1, 6\).*got \(1, 3, 3\)"):
        env.step(still, torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="`strain` must be finite"):
        env.step(still, torch.full((1, 6), torch.nan))


def test_the_config_says_on_off_and_names():
    assert from_dict(EnvConfig, {"cell": True}).cell == CellConfig()
    assert from_dict(EnvConfig, {"cell": False}).cell is None
    assert from_dict(EnvConfig, {}).cell is None
    mask = (True, True, False, False, False, True)
    for given in ("xx,yy,xy", ["xx", "yy", "xy"], [1, 1, 0, 0, 0, 1], [[1, 1, 0], [1, 1, 0], [0, 0, 0]]):
        assert from_dict(EnvConfig, {"cell": {"mask": given}}).cell.mask == mask


class NoStress(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.ones((len(self.atoms), 3))}


class StressOnPaper(NoStress):
    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        if "stress" in properties:
            raise PropertyNotImplementedError("stress of metals alone")


@pytest.mark.parametrize(
    ("calculator", "message"),
    [(NoStress, "calculator NoStress gives no stress"), (StressOnPaper, "crystal crystal#0.*stress of metals alone")],
)
def test_calculators_without_stress_are_refused_at_reset(calculator, message):
    with pytest.raises(CalculatorError, match=message):
        make(alloy(), calculator=calculator).reset()
    assert make_fixed(alloy(), calculator).reset().stress is None


def make_fixed(atoms, calculator):
    potential = parse_calculator(calculator).potential()
    return RelaxationEnv([crystal(atoms, "crystal", "start")], potential, EnvConfig(), np.random.default_rng(0))


class FailsLater(MorsePotential):
    """Fails from the second evaluation on: with an exception, or with stress that is no number."""

    def __init__(self, how, **parameters):
        super().__init__(**parameters)
        self.how = how

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        if self.atoms.cell[0, 0] > 4.2:
            if self.how == "raises":
                raise RuntimeError("no convergence")
            self.results["stress"] = np.full(6, np.nan)


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_steps_at_whose_end_the_calculator_fails_are_taken_back_with_the_cell(how):
    atoms = rattled(bulk("Cu", a=4.1, cubic=True), 0.05)
    env = make(atoms, calculator=lambda: FailsLater(how, epsilon=0.3, r0=2.6, rho0=4.0))
    before = env.reset()
    result = env.step(torch.full((4, 3), 0.01), torch.tensor([[0.05, 0.05, 0.05, 0, 0, 0]]))
    assert result.reason == ["calculator_failed"]
    for name in ("positions", "cell", "stress", "forces", "energy"):
        assert torch.equal(getattr(result.graph, name), getattr(before, name))
    assert not result.applied_strain.any()
    assert result.a_back.tolist() == [1.0]
    assert result.evaluations.tolist() == [2]


def test_starts_are_strained_at_random_symmetrically_and_bounded():
    atoms = bulk("Cu", cubic=True)
    env = make(atoms, CellConfig(strain=0.03), n_envs=40, kind="minimum", rattle=0.0)
    strains = np.linalg.solve(atoms.cell.array, env.reset().cell.numpy()) - np.eye(3)
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1), atol=FLOAT64)
    components = vector_from_tensor(strains)
    assert components.std() == pytest.approx(0.03, rel=0.2)
    assert np.linalg.norm(components, axis=1).max() <= 4 * 0.03 + FLOAT64
    again = make(atoms, CellConfig(strain=0.03), n_envs=40, kind="minimum", rattle=0.0)
    assert torch.equal(again.reset().cell, env.graph.cell)
    other = make(atoms, CellConfig(strain=0.03), n_envs=40, kind="minimum", rattle=0.0, seed=1)
    assert not torch.equal(other.reset().cell, env.graph.cell)
    size = make(atoms, CellConfig(strain=0.03, hydrostatic_strain=True), n_envs=5, kind="minimum").reset().cell
    np.testing.assert_allclose(size.numpy(), size[:, :1, :1].numpy() * np.eye(3), atol=FLOAT64)
    assert torch.equal(make(atoms, CellConfig(strain=0.0), kind="minimum").reset().cell[0].double(),
                       torch.from_numpy(atoms.cell.array))  # fmt: skip
    taken = make(alloy(), CellConfig(strain=0.05)).reset()  # as it is
    np.testing.assert_array_equal(taken.cell[0].numpy(), alloy().cell.array)


def test_a_batch_does_what_its_structures_do_alone_and_ended_ones_rest():
    crystals = [alloy(1.04, k) for k in range(3)] + [bulk("Cu", a=3.595, cubic=True)]
    crystals = [crystal(atoms, f"c{k}", "start") for k, atoms in enumerate(crystals)]
    batch, alone = make(crystals, n_envs=4), [make([each]) for each in crystals]
    batch.reset([0, 1, 2, 3])
    parts = [env.reset() for env in alone]
    for _ in range(25):
        result = batch.step(*descent(batch.graph))
        parts = [
            env.step(*descent(env.graph)) if not env.finished.all() else part
            for env, part in zip(alone, parts, strict=True)
        ]
        expected = AtomGraph.batch([env.graph for env in alone])
        for name in ("positions", "cell", "stress", "energy"):
            torch.testing.assert_close(getattr(result.graph, name), getattr(expected, name), rtol=0, atol=1e-8)
        assert batch.reasons == [env.reasons[0] for env in alone]
        assert batch.evaluations.tolist() == [int(env.evaluations) for env in alone]
    assert batch.reasons == ["converged"] * 4
    assert len(set(batch.evaluations.tolist())) > 1


def test_resumed_runs_continue_bit_for_bit():
    def fresh(seed):
        return make([alloy(), bulk("Au")], n_envs=2, kind="minimum", seed=seed, max_steps=3)

    def go(env, n):
        seen = []
        for _ in range(n):
            result = env.step(*descent(env.graph))
            seen += [result.reward, result.graph.cell, result.graph.stress, result.applied_strain]
            env.reset_finished()
        return seen

    whole, resumed = fresh(0), fresh(1)
    whole.reset()
    go(whole, 2)
    resumed.load_state_dict(whole.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(go(whole, 5), go(resumed, 5), strict=True))


def test_a_left_handed_cell_relaxes_like_its_mirror_image():
    atoms = alloy()
    mirror = Atoms(atoms.numbers, atoms.positions * [1, 1, -1], cell=atoms.cell.array * [1, 1, -1], pbc=True)
    one, other = make(atoms), make(mirror)
    a, b = relax(one), relax(other)
    assert np.linalg.det(mirror.cell.array) < 0
    torch.testing.assert_close(a.graph.energy, b.graph.energy, rtol=0, atol=1e-9)
    assert torch.equal(a.evaluations, b.evaluations)
    assert b.reason == ["converged"]
