"""No reward for taking structures apart: the hack that was seen with other environments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.cluster import Icosahedron
from hypothesis import given, settings
from hypothesis import strategies as st

from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.envs.cohesion import Bonds, Cohesion
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT

from .conftest import crystal, rattled

NO_GUARD = {"bond_stretch": 100.0, "neighbor_cutoff": 100.0}


def squeezed_dimers():
    """Two molecules of copper, squeezed and so high in energy that there is much to gain elsewhere."""
    return Atoms("Cu4", positions=[(0, 0, 0), (1.9, 0, 0), (0, 3.0, 0), (1.9, 3.0, 0)])


def squeezed_slab():
    slab = fcc111("Cu", (2, 2, 3), a=3.3, vacuum=9.0, periodic=True)
    add_adsorbate(slab, "Cu", 1.9, "fcc")
    slab.pbc = (True, True, False)
    return rattled(slab, 0.05)


def sparse_crystal():
    """Two columns of copper atoms in a cell with room between them, periodic in all directions."""
    positions = [(5, 5, 0), (5, 5, 2.4), (5, 6.9, 0), (5, 6.9, 2.4)]
    return rattled(Atoms("Cu4", positions=positions, cell=[16, 24, 4.8], pbc=True), 0.05)


STRUCTURES = {
    "dimers": squeezed_dimers(),
    "cluster": rattled(Icosahedron("Cu", 2, latticeconstant=3.3), 0.1),
    "slab": squeezed_slab(),
    "crystal": sparse_crystal(),
}


def leavers(atoms):
    """Those atoms that a policy pulls away, and where to: (n_atoms, 3) with unit vectors."""
    directions = np.zeros((len(atoms), 3))
    centred = atoms.positions - atoms.positions.mean(axis=0)
    if atoms.pbc.any() and not atoms.pbc.all():  # the adsorbed atom, upwards
        directions[-1, 2] = 1.0
    else:  # one half of the structure, as a whole
        directions[centred[:, 1] > np.median(centred[:, 1]), 1] = 1.0
        directions[centred[:, 1] < np.median(centred[:, 1]), 1] = -1.0
    return torch.from_numpy(directions)


def episode(atoms, policy, config):
    env = RelaxationEnv([crystal(atoms, "structure", "start")], EMT(), config, np.random.default_rng(0))
    env.reset()
    total = 0.0
    while True:
        result = env.step(policy(env))
        total += float(result.reward)
        if result.done:
            return result, total, env


def descend(env):
    return 0.04 * env.graph.forces


def evaporate_then(rest, stop):
    """Pull until the pieces are `stop` Å from where they were, and then follow the forces, or stay there."""

    def policy(env):
        directions = leavers_of_start(env)
        gone = ((env.graph.positions - env.start.positions) * directions).sum(dim=1).max()
        if float(gone) < stop:
            return 0.3 * directions
        return descend(env) if rest == "relax" else torch.zeros_like(env.graph.forces)

    def leavers_of_start(env):
        start = env.start
        atoms = Atoms(
            start.atomic_numbers.numpy(), start.positions.numpy(), cell=start.cell[0].numpy(), pbc=start.pbc[0].numpy()
        )
        return leavers(atoms)

    return policy


@pytest.mark.parametrize("rest", ["relax", "stay"])
@pytest.mark.parametrize("stop", [1.5, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_evaporation_is_no_success_and_pays_less_than_steepest_descent(name, stop, rest):
    config = EnvConfig(max_steps=150)
    honest, earned, _ = episode(STRUCTURES[name], descend, config)
    assert honest.reason == ["converged"]
    result, total, env = episode(STRUCTURES[name], evaporate_then(rest, stop), config)
    pulled = float((result.graph.positions - env.start.positions).norm(dim=1).max())
    if stop >= 4.0:
        assert not bool(result.terminated)
        assert result.reason == ["broken"]
        assert pulled < 4.0
        assert float(result.terms["done"]) == 0.0
        assert float(result.terms["broken"]) == -10.0
        assert result.atom_reward.max() < -9.0
    elif bool(result.terminated):  # it was not far enough away, and has come back
        assert float(result.graph.energy) <= float(env.start.energy)
        assert rest == "relax"
    assert total < earned


@pytest.mark.parametrize("name", ["dimers", "crystal"])
def test_without_the_guard_evaporation_would_be_called_a_success(name):
    config = EnvConfig(max_steps=150, explosion_displacement=50.0, **NO_GUARD)
    result, _, env = episode(STRUCTURES[name], evaporate_then("relax", 8.0), config)
    assert result.reason == ["converged"]
    assert float(result.graph.energy) < float(env.start.energy)
    assert float((result.graph.positions - env.start.positions).norm(dim=1).max()) > 7.0


def test_a_structure_that_comes_apart_ends_its_episode_at_once_and_alone():
    crystals = [crystal(squeezed_dimers(), name, "start") for name in ("a", "b", "c")]
    env = RelaxationEnv(crystals, EMT(), EnvConfig(), np.random.default_rng(0), n_envs=3)
    env.reset([0, 1, 2])
    pull = torch.zeros(12, 3, dtype=torch.float64)
    pull[4:6, 1], pull[6:8, 1] = -0.4, 0.4
    reasons = []
    for _ in range(3):
        reasons.append(env.step(pull).reason)
        pull[:4] = 0.0
    # 3.0 Å, then 3.8, 4.6: the limit is 1.5 * 3.0 / 2.64 sums of covalent radii, or 4.5 Å.
    assert reasons == [["", "", ""], ["", "broken", ""], ["", "broken", ""]]
    env.reset_finished()
    assert env.step(torch.zeros(12, 3)).reason == ["", "", ""]


def bonds(atoms, reach=6.0):
    return Bonds.of(graph_from_atoms(atoms), reach)


def test_bonds_are_the_distances_at_which_a_structure_falls_into_pieces():
    # Hydrogen has a covalent radius of 0.31 Å.
    line = Atoms("H4", positions=[(0, 0, 0), (1.0, 0, 0), (1.8, 0, 0), (5.0, 0, 0)])
    np.testing.assert_allclose(bonds(line).lengths, np.array([0.8, 1.0, 3.2]) / 0.62)
    np.testing.assert_allclose(bonds(line, reach=3.0).lengths, [0.8 / 0.62, 1.0 / 0.62, np.inf])
    # Through the cell's wall the last one is nearer to the first one: 6.5 - 5.0 Å.
    line.set_cell([6.5, 9, 9])
    line.pbc = True
    np.testing.assert_allclose(bonds(line).lengths, np.array([0.8, 1.0, 1.5]) / 0.62)
    assert len(bonds(Atoms("H")).lengths) == 0
    mixed = bonds(molecule("H2O"))
    np.testing.assert_allclose(mixed.lengths, molecule("H2O").get_distance(0, 1) / (0.31 + 0.66), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    symbols=st.sampled_from(["Cu6", "Cu3Au3", "AlPt5"]),
    size=st.floats(0.0, 3.0),
    periodic=st.booleans(),
)
def test_the_short_ways_agree_with_the_full_comparison(seed, symbols, size, periodic):
    rng = np.random.default_rng(seed)
    n = 6
    atoms = Atoms(symbols, positions=rng.uniform(0, 6, (n, 3)), cell=[7, 7, 7], pbc=periodic)
    start = graph_from_atoms(atoms)
    graph = start.replace(positions=start.positions + torch.from_numpy(rng.normal(0, size / 2, (n, 3))))
    config = EnvConfig()
    reach = max(config.neighbor_cutoff, 3.0 * 1.36)  # gold's and platinum's covalent radius
    first, last = Bonds.of(start, reach).lengths, Bonds.of(graph, 20.0).lengths
    expected = bool((last > 1.5 * np.maximum(first, 1.0)).any())
    cohesion = Cohesion(config, 2)
    batch = AtomGraph.batch([start, start])
    cohesion.begin(batch, [0, 1])
    found = cohesion.broken(AtomGraph.batch([graph, start]), batch)
    assert (False if found is None else bool(found[0])) == expected
    assert found is None or not bool(found[1])


def test_the_limit_must_be_larger_than_one():
    with pytest.raises(ValueError, match="`bond_stretch` must be larger than 1, got 1"):
        EnvConfig(bond_stretch=1.0)


def test_an_atom_at_the_limit_is_still_felt():
    # Else an agent could have vanishing forces just inside the limit.
    slab = fcc111("Cu", (2, 2, 3), vacuum=9.0, periodic=True)
    add_adsorbate(slab, "Cu", 1.5 * 2.64, "ontop")
    evaluation = EMT().evaluate(graph_from_atoms(slab))
    assert float(evaluation.forces[-1].norm()) > 0.05


def test_rattled_crystals_that_relax_are_whole():
    cells = [bulk("Cu", cubic=True), bulk("Pt", cubic=True).repeat((2, 1, 1))]
    for k, cell in enumerate(cells):
        result, _, _ = episode(rattled(cell, 0.3, seed=k), descend, EnvConfig())
        assert result.reason == ["converged"]
