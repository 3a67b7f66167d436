"""Crystals and networks that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import CriticConfig, DirectActor, DirectActorConfig, TrunkConfig, TwinCritic


def random_crystal(seed: int = 0, repeat: tuple[int, int, int] = (2, 1, 1), symbols: str = "CuAuAlPt") -> Atoms:
    """A strained, rattled alloy without any symmetry."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", a=3.9, cubic=True).repeat(repeat)
    names = Atoms(symbols).get_chemical_symbols()
    atoms.set_chemical_symbols(list(rng.choice(names, len(atoms))))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.standard_normal((3, 3))), scale_atoms=True)
    atoms.positions += 0.15 * rng.standard_normal((len(atoms), 3))
    return atoms


def with_vectors(atoms: Atoms, seed: int = 0) -> AtomGraph:
    """A graph with random forces of very different sizes, history and two environment features."""
    rng = np.random.default_rng(seed + 100)
    n = len(atoms)
    forces = rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-3, 0.5, (n, 1))
    return graph_from_atoms(atoms).replace(
        forces=torch.from_numpy(forces),
        previous_displacement=torch.from_numpy(0.05 * rng.standard_normal((n, 3))),
        previous_forces=torch.from_numpy(forces + 0.1 * rng.standard_normal((n, 3))),
        features=torch.from_numpy(rng.standard_normal((1, 2))),
    )


def shaken(module: torch.nn.Module, seed: int = 7) -> None:
    """Move all parameters, so that those that start at zero take part in the tests."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.3 * noise * (parameter.std() if parameter.numel() > 1 else 1.0) + 0.1 * noise)


@pytest.fixture
def crystal() -> Callable[..., Atoms]:
    return random_crystal


@pytest.fixture
def graph_of() -> Callable[..., AtomGraph]:
    return with_vectors


@pytest.fixture(params=[1, 2], ids=["lmax1", "lmax2"])
def trunk_config(request: pytest.FixtureRequest) -> TrunkConfig:
    return TrunkConfig(layers=2, cutoff=4.5, channels=6, message_channels=4, lmax=request.param, radial_functions=3)


@pytest.fixture
def actor(trunk_config: TrunkConfig) -> DirectActor:
    torch.manual_seed(0)
    actor = DirectActor(DirectActorConfig(trunk=trunk_config, env_input_dim=2)).double()
    shaken(actor)
    return actor


@pytest.fixture
def critic(trunk_config: TrunkConfig) -> TwinCritic:
    torch.manual_seed(1)
    critic = TwinCritic(CriticConfig(trunk=trunk_config, env_input_dim=2)).double()
    shaken(critic)
    return critic


@pytest.fixture
def shake() -> Callable[[torch.nn.Module], None]:
    return shaken
