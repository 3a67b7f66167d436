import gymnasium
import numpy as np
import pytest
from ase.build import bulk

from relaxrl.structures import Crystal

MAX_STEP = 0.2


@pytest.fixture(scope="session")
def copper():
    return Crystal("copper", bulk("Cu", cubic=True), parent="copper", kind="minimum")


@pytest.fixture(scope="session")
def make(copper):
    """Makes the environment of copper cells, with room for one atom more than they have."""

    def make_env(flat=False, **config):
        name = "relaxrl:relaxrl/RelaxFlat-v0" if flat else "relaxrl:relaxrl/Relax-v0"
        config = {"max_step": MAX_STEP, "max_steps": 10, "rattle": 0.1, **config}
        return gymnasium.make(name, structures=[copper], calculator="emt", config=config, n_max=5)

    return make_env


@pytest.fixture
def atoms(copper):
    """A rattled cell with two elements."""
    made = copper.atoms.copy()
    made.numbers[0] = 79
    made.positions += np.random.default_rng(0).normal(0, 0.1, (4, 3))
    return made
