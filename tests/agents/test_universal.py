"""The shipped agent for all kinds of crystals: it knows what its card says, and gains where no other agent does."""

from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from relaxrl.agents import default_agent, find_agent, load_agent
from relaxrl.optimize import RLOptimizer
from relaxrl.potentials import CountedCalculator, parse_calculator
from relaxrl.structures.frames import load_frames


def starts(strain: float) -> list[Atoms]:
    """Oxides that everybody knows, displaced by 0.15 Å per component."""
    rutile = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90])
    perovskite = Atoms(
        "SrTiO3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[3.95] * 3,
        pbc=True,
    )
    fluorite = bulk("ZrO2", "fluorite", a=5.1, cubic=True)
    rock_salt = bulk("MgO", "rocksalt", a=4.25, cubic=True)
    found = []
    for seed, atoms in enumerate((rutile, perovskite, fluorite, rock_salt)):
        generator = np.random.default_rng(seed)
        noise = generator.normal(0, strain, (3, 3))
        displaced = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        displaced.set_cell(displaced.cell.array @ (np.eye(3) + noise + noise.T), scale_atoms=True)
        displaced.rattle(0.15, rng=generator)
        found.append(displaced)
    return found


def evaluations(agent: str | None, atoms: Atoms, cell: bool) -> int:
    """Of one relaxation to 0.01 eV/Å."""
    moved = atoms.copy()
    moved.calc = CountedCalculator(parse_calculator("pmmcs").create())
    assert RLOptimizer(moved, agent=agent, logfile=None, cell=cell).run(fmax=0.01, steps=300)
    return int(moved.calc.counter.count)


@pytest.mark.parametrize("cell", [False, True])
def test_oxides_take_fewer_evaluations_than_without_an_agent(cell: bool):
    crystals = starts(0.02 if cell else 0.0)
    with_agent = [evaluations("universal", atoms, cell) for atoms in crystals]
    without = [evaluations(None, atoms, cell) for atoms in crystals]
    assert np.log(np.array(with_agent) / np.array(without)).mean() < np.log(0.8)


def test_it_is_the_choice_for_what_is_no_metal_of_the_other_agents():
    assert default_agent(["Ti", "O"]) == default_agent(["Ga", "As"]) == "universal"
    assert default_agent(["Cu", "Au"]) == "metals"
    assert default_agent(["Xe"]) is None


def test_it_brings_frames_of_its_training():
    frames = load_frames(find_agent("universal") / "replay.npz")
    assert len(frames) == 400
    assert {symbol for frame in frames for symbol in frame.atoms.symbols} <= load_agent("universal").elements
    calculators = {frame.calculator.partition(":")[0].partition(",")[0] for frame in frames}
    assert calculators == {"emt", "lammps", "pmmcs", "chgnet", "drawn-sw", "drawn-tersoff"}


@pytest.mark.skipif(find_spec("chgnet") is None, reason="pip install 'relaxrl[chgnet]'")
def test_it_relaxes_with_a_machine_learned_potential():
    atoms = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.7, 4.6, 3.0, 90, 90, 90])
    atoms.rattle(0.1, seed=0)
    atoms.calc = CountedCalculator(parse_calculator("chgnet").create())
    assert RLOptimizer(atoms, agent="auto", logfile=None, cell=True).run(fmax=0.05, steps=40)
