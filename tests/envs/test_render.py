from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data.colors import jmol_colors
from gymnasium.utils.env_checker import check_env

from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.envs.vector_env import RelaxVectorEnv

from .conftest import cluster, crystal, rattled

PADDED = "relaxrl:relaxrl/Relax-v0"


@pytest.fixture
def crystals():
    alloy = bulk("Cu", cubic=True)
    alloy.numbers[:2] = 79
    return [
        crystal(rattled(alloy), "alloy", "start"),
        crystal(rattled(cluster(2.2, 3), 0.02), "chain", "start"),
    ]


def pixels(frame, colour):
    """How many pixels have this colour."""
    return int((np.abs(frame.astype(int) - np.round(255 * np.asarray(colour))).max(axis=-1) <= 2).sum())


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
@pytest.mark.parametrize("name", ["Relax", "RelaxFlat", "RelaxRagged"])
def test_gymnasiums_checker_of_rendering_is_content(crystals, name, mode):
    check_env(gymnasium.make(f"relaxrl:relaxrl/{name}-v0", structures=crystals, render_mode=mode).unwrapped)


def test_the_picture_shows_elements_in_their_colours_and_forces_in_black(crystals):
    env = RelaxEnv(crystals, render_mode="rgb_array")
    env.reset(options={"structure": 0})
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((520, 640, 3), np.uint8)
    assert pixels(frame, jmol_colors[29]) > 3000
    assert pixels(frame, jmol_colors[79]) > 3000
    env.reset(options={"structure": 1})
    chain = env.render()
    assert pixels(chain, jmol_colors[79]) == 0


def test_arrows_vanish_with_the_forces(crystals):
    env = RelaxEnv(crystals[:1], render_mode="rgb_array", config={"fmax": 0.01})
    observation, _ = env.reset()
    before = pixels(env.render(), (0, 0, 0))
    done = False
    while not done:
        action = np.clip(0.05 * observation["forces"], -1, 1).reshape(-1)
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    assert terminated
    assert pixels(env.render(), (0, 0, 0)) < before - 300


def test_the_text_tells_forces_energy_and_state(crystals):
    env = RelaxEnv(crystals, render_mode="ansi", config={"max_steps": 1})
    observation, info = env.reset(options={"structure": 1})
    title, head, *rows = env.render().strip("\n").splitlines()
    assert title.split("   ") == [
        "chain#0", "Cu3", "step 0", f"F_max {info['fmax']:.3f} eV/Å", "ΔE +0.000 eV", "running"
    ]  # fmt: skip
    assert head.split() == ["x", "y", "z", "|F|"]
    assert len(rows) == 3
    symbol, *numbers = rows[1].split()
    assert symbol == "Cu"
    expected = [*observation["positions"][1], np.linalg.norm(observation["forces"][1])]
    np.testing.assert_allclose([float(number) for number in numbers], expected, atol=1e-3)
    _, _, _, _, later = env.step(0.05 * np.ones(12))
    assert f"ΔE {later['energy'] - info['energy']:+.3f} eV   step_limit" in env.render()


def test_a_batch_has_a_frame_for_each_structure(crystals):
    env = RelaxVectorEnv(2, structures=crystals, render_mode="ansi")
    env.reset(options={"structure": [1, 0]})
    assert [frame.split()[0] for frame in env.render()] == ["chain#0", "alloy#0"]
    single = RelaxEnv(crystals, render_mode="rgb_array")
    single.reset(options={"structure": 1})
    batch = RelaxVectorEnv(2, structures=crystals, render_mode="rgb_array")
    batch.reset(options={"structure": [0, 1]})
    np.testing.assert_array_equal(batch.render()[1], single.render())


def test_structures_without_a_cell_and_single_atoms_can_be_drawn():
    atom = Atoms("Cu", positions=[(1.0, 0.0, 0.0)])
    env = RelaxEnv([crystal(atom, "atom", "start")], render_mode="rgb_array")
    env.reset()
    assert pixels(env.render(), jmol_colors[29]) > 3000


def test_without_a_mode_nothing_is_drawn_and_unknown_modes_are_refused(crystals):
    env = RelaxEnv(crystals)
    env.reset()
    assert env.render() is None
    with pytest.raises(ValueError, match="`render_mode` must be None or one of rgb_array, ansi, got 'human'"):
        RelaxEnv(crystals, render_mode="human")
    with pytest.raises(RuntimeError, match="call reset"):
        RelaxEnv(crystals, render_mode="ansi").render()
