import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from scipy import sparse

from relaxrl.agents import load_agent
from relaxrl.optimize import RLOptimizer, SafeguardConfig, UntrainedElementWarning
from relaxrl.optimize.audition import Audition
from relaxrl.structures import read_structures


class Harmonic(Calculator):
    """A parabola, with a count of its evaluations."""

    implemented_properties = ("energy", "forces")

    def __init__(self, minimum, hessian):
        super().__init__()
        self.minimum, self.hessian, self.calls = minimum, hessian, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        displacement = (atoms.positions - self.minimum).ravel()
        gradient = self.hessian @ displacement
        self.results = {"energy": 0.5 * gradient @ displacement, "forces": -gradient.reshape(-1, 3)}


class Predicting:
    """An agent that takes Newton's step with a Hessian of its own, and shows it."""

    def __init__(self, matrix, factor=1.0, elements=()):
        self.matrix, self.factor, self.elements, self.asked = matrix, factor, frozenset(elements), 0

    def act(self, graph):
        step = np.linalg.pinv(self.matrix) @ graph.forces.numpy().ravel()
        return torch.from_numpy(self.factor * step.reshape(-1, 3))

    def hessian(self, graph):
        assert graph.n_graphs == 1
        self.asked += 1
        return self.matrix


class Silent(Predicting):
    """The same agent, which shows nothing."""

    hessian = None


def crystal(seed=0, soft=0.2):
    """Atoms in a parabola with one soft mode, and its exact Hessian."""
    atoms = bulk("Cu", cubic=True)
    generator = np.random.default_rng(seed)
    n = 3 * len(atoms)
    relative = np.eye(n) - np.kron(np.full((n // 3, n // 3), 3 / n), np.eye(3))
    vectors = np.linalg.eigh(relative @ np.diag(generator.uniform(1, 2, n)) @ relative)[1][:, 3:]
    values = generator.uniform(3, 12, n - 3)
    values[0] = soft
    start = atoms.copy()
    start.positions += generator.normal(scale=0.1, size=(len(atoms), 3))
    start.calc = Harmonic(atoms.positions.copy(), (vectors * values) @ vectors.T)
    wrong = values.copy()
    wrong[0] = 4.0  # the soft mode is predicted far too stiff
    return start, (vectors * wrong) @ vectors.T


def evaluations(agent, atoms, **kwargs):
    optimizer = RLOptimizer(atoms, agent=agent, logfile=None, **kwargs)
    assert optimizer.run(fmax=1e-3, steps=200)
    assert optimizer.force_evaluations == atoms.calc.calls
    return optimizer


def test_a_soft_mode_predicted_too_stiff_is_learned_from_one_step():
    atoms, wrong = crystal()
    optimizer = evaluations(Predicting(wrong), atoms)
    # All but the soft mode in the first step, that in the second, which shows its curvature.
    assert optimizer.force_evaluations <= 4
    assert optimizer.agent_in_charge
    silent, _ = crystal()
    assert evaluations(Silent(wrong), silent).force_evaluations >= 6  # the fallback helps out


def test_steps_that_halve_the_forces_teach_nothing():
    atoms, _ = crystal()
    agent = Predicting(0.9 * atoms.calc.hessian)  # each step leaves a ninth of the forces
    evaluations(agent, atoms)
    assert agent.asked == 0


def test_a_rejected_step_is_solved_again_with_what_it_showed():
    atoms, _ = crystal(soft=3.0)
    exact, start = atoms.calc.hessian.copy(), atoms.positions.copy()
    wrong = exact / 3.5  # steps overshoot: energy and forces rise
    tried = []
    atoms.calc.calculate, inner = (
        lambda *args, **kwargs: (tried.append(args[0].positions.copy()), inner(*args, **kwargs)),
        atoms.calc.calculate,
    )
    optimizer = RLOptimizer(atoms, agent=Predicting(wrong), logfile=None, maxstep=5.0)
    optimizer.run(fmax=1e-3, steps=1)
    first, second = (position - start for position in tried[1:3])
    assert len(tried) == 3  # the solve itself asks for no forces
    assert optimizer.nsteps == 1
    largest = np.linalg.norm(second, axis=1).max() / np.linalg.norm(first, axis=1).max()
    assert largest <= 0.4 + 1e-9  # within the trust radius
    # Exact along the step that was tried, so it ends closer to the minimum than 0.4 of the first step does.
    minimum = (atoms.calc.minimum - start).ravel()
    assert np.linalg.norm(second.ravel() - minimum) < np.linalg.norm(0.4 * first.ravel() - minimum) - 1e-6


def test_sparse_hessians_are_taken_too():
    atoms, wrong = crystal()
    agent = Predicting(wrong)
    agent.hessian = lambda graph: sparse.csr_array(wrong)  # noqa: ARG005 (the interface's)
    dense, _ = crystal()
    assert evaluations(agent, atoms).force_evaluations == evaluations(Predicting(wrong), dense).force_evaluations


def test_a_hessian_of_another_shape_is_refused():
    atoms, wrong = crystal()
    with pytest.raises(ValueError, match=r"shape \(12, 12\)"):
        RLOptimizer(atoms, agent=Predicting(wrong[:3, :3], 0.0), logfile=None)._pilot._hessian(
            RLOptimizer(atoms, agent=None, logfile=None)._locate()
        )


NONSENSE = {
    "random": lambda n: np.random.default_rng(0).normal(size=(n, n)),
    "negative": lambda n: -5.0 * np.eye(n),
    "zero": lambda n: np.zeros((n, n)),
    "nan": lambda n: np.full((n, n), np.nan),
    "huge": lambda n: 1e200 * np.eye(n),
    "tiny": lambda n: 1e-200 * np.eye(n),
}


def slab():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    add_adsorbate(atoms, "O", 1.2, "fcc", offset=(0.1, 0.05))
    atoms.set_constraint(FixAtoms(mask=atoms.positions[:, 2] < atoms.positions[:, 2].min() + 3.0))
    return atoms


def rugged():
    """A random cluster: many minima, and negative curvature all over."""
    generator = np.random.default_rng(4)
    positions = []
    while len(positions) < 13:
        point = generator.uniform(-3.2, 3.2, 3)
        if all(np.linalg.norm(point - other) > 2.0 for other in positions):
            positions.append(point)
    return Atoms("Cu13", positions=positions)


STRUCTURES = {"slab": slab, "molecule": lambda: molecule("CH3CH2OH"), "rugged": rugged}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_hessian_can_break_it(name, structure):
    atoms = STRUCTURES[structure]()
    atoms.calc = EMT()
    atoms.rattle(0.05, seed=1)
    before = atoms.get_potential_energy()
    forces = torch.Generator().manual_seed(0)

    class Wrong:
        def act(self, graph):
            return torch.randn(graph.positions.shape, generator=forces)

        def hessian(self, graph):
            return NONSENSE[name](3 * graph.n_atoms)

    assert RLOptimizer(atoms, agent=Wrong(), logfile=None).run(fmax=0.01, steps=300)
    assert np.isfinite(atoms.positions).all()
    assert atoms.get_potential_energy() < before


def test_springs_take_over_from_a_hessian_that_foresees_less():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.calc = EMT()
    atoms.rattle(0.2, seed=0)
    generator = np.random.default_rng(0)
    root = generator.normal(size=(24, 24))
    optimizer = RLOptimizer(atoms, agent=Predicting(root @ root.T + np.eye(24)), logfile=None)
    assert optimizer.run(fmax=0.01, steps=100)
    assert "springs" in optimizer.handover_reason


def test_a_restart_with_surprises_goes_on_to_the_last_bit(tmp_path):
    file = tmp_path / "relax.npz"

    def start():
        return crystal(seed=5, soft=0.15)

    whole, wrong = start()
    wrong = wrong + 0.8 * np.diag(np.random.default_rng(1).uniform(0, 1, 12))
    complete = evaluations(Predicting(wrong), whole)
    steps = complete.nsteps - 2
    atoms, _ = start()
    first = RLOptimizer(atoms, restart=file, agent=Predicting(wrong), logfile=None)
    first.run(fmax=1e-3, steps=steps)
    assert len(first._pilot.surprises) > 0
    assert first.agent_in_charge
    fresh = atoms.copy()
    fresh.calc = Harmonic(atoms.calc.minimum, atoms.calc.hessian)
    second = RLOptimizer(fresh, restart=file, agent=Predicting(wrong), logfile=None)
    assert len(second._pilot.surprises) == len(first._pilot.surprises)
    assert second.run(fmax=1e-3)
    np.testing.assert_array_equal(fresh.positions, whole.positions)


def test_restart_files_from_before_surprises_are_read():
    atoms, wrong = crystal()
    optimizer = RLOptimizer(atoms, agent=Predicting(wrong), logfile=None)
    optimizer.run(fmax=1e-3, steps=1)
    state = optimizer.state_dict()
    for name in ("pilot", "calculator_failures", "last_failure"):
        del state[name]
    other = RLOptimizer(atoms, agent=Predicting(wrong), logfile=None)
    other.load_state_dict(state)
    assert other.run(fmax=1e-3)
    assert other.calculator_failures == 0


def test_fixed_atoms_are_not_waited_for():
    """The agent solves for all atoms as if they could yield; with its Hessian the rest is solved for alone."""
    counts = []
    for kind in (Predicting, Silent):
        atoms, _ = crystal(seed=2, soft=4.0)
        # Fixed atoms stand where they belong, so that the minimum is that of the others.
        atoms.positions[:2] = atoms.calc.minimum[:2]
        atoms.set_constraint(FixAtoms([0, 1]))
        counts.append(evaluations(kind(atoms.calc.hessian), atoms).force_evaluations)
    assert counts[0] == 2  # a parabola, known exactly
    assert counts[1] > 3


def test_the_shipped_agent_has_no_long_tail():
    agent = load_agent("metals")
    counts = []
    for start in read_structures("metals:dev"):
        atoms = start.atoms.copy()
        atoms.calc = EMT()
        optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
        assert optimizer.run(fmax=0.01, steps=100)
        counts.append(optimizer.force_evaluations)
    assert np.percentile(counts, 95) <= 10
    assert max(counts) <= 20


def test_elements_that_were_not_trained_on_are_said_once():
    atoms = bulk("Pd", cubic=True)
    atoms.calc = EMT()
    with pytest.warns(UntrainedElementWarning, match=r"trained on Ag Al Au Cu Ni Pt, not on Pd") as caught:
        RLOptimizer(atoms, agent="metals", logfile=None).run(fmax=0.01)
    assert len(caught) == 1
    known, wrong = crystal()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RLOptimizer(known, agent="metals", logfile=None)
        RLOptimizer(atoms, agent=Predicting(wrong), logfile=None)  # one that does not say
        RLOptimizer(atoms, agent=None, logfile=None)


def test_an_agent_hands_over_when_its_term_is_over():
    atoms, wrong = crystal(soft=0.05)
    whole = evaluations(Predicting(wrong, factor=0.2), atoms, safeguard=SafeguardConfig(contraction=1.0, audition=0))
    assert whole.agent_in_charge
    assert whole.force_evaluations > 8
    atoms, wrong = crystal(soft=0.05)
    agent = Predicting(wrong, factor=0.2)
    brief = evaluations(agent, atoms, safeguard=SafeguardConfig(contraction=1.0, audition=0, term=6))
    assert brief.handover_reason == "6 force evaluations, and far from a minimum"
    assert brief.force_evaluations > 6


def test_settings_are_checked():
    for wrong in (
        {"calibration": 1.5},
        {"disadvantage": 0.5},
        {"foresight": 0},
        {"idle": 0},
        {"term": 0},
        {"max_corrections": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SafeguardConfig(**wrong)


def test_an_agent_that_foresees_nothing_at_first_hands_over_at_once():
    atoms, _ = crystal(soft=3.0)
    generator = np.random.default_rng(1)
    root = generator.normal(size=(12, 12))
    optimizer = evaluations(
        Predicting(root @ root.T + 0.3 * np.eye(12)), atoms, safeguard=SafeguardConfig(credit=0.0, disadvantage=1e9)
    )
    assert "foresaw the first changes" in optimizer.handover_reason
    judged, _ = crystal(soft=3.0)
    patient = evaluations(
        Predicting(root @ root.T + 0.3 * np.eye(12)), judged, safeguard=SafeguardConfig(audition=0, disadvantage=1e9)
    )
    assert patient.agent_in_charge
    assert optimizer.force_evaluations < patient.force_evaluations


def test_a_good_beginning_counts_when_a_later_step_goes_wrong():
    audition = Audition(steps=3, tolerance=0.4, credit=0.0)
    assert not audition.failed  # nothing was heard
    audition.hear(0.1)
    audition.hear(1.0)
    assert not audition.failed  # 0.1 * 1.0 < 0.4 * 0.4
    audition.hear(2.0)
    assert audition.failed
    assert not audition.open
    audition.hear(1e-3)  # too late
    assert audition.failed
    audition.begin()
    assert not audition.failed
    lenient = Audition(steps=3, tolerance=0.4, credit=1.0)
    lenient.hear(1.0)
    assert not lenient.failed  # 1.0 / 0.4 < e
