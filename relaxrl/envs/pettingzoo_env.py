"""The environment with one agent per atom, behind PettingZoo's parallel interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.render import RENDER_FPS, RENDER_MODES, check_render_mode, render
from relaxrl.envs.task import Calculator, Structures, Task
from relaxrl.envs.types import StepResult
from relaxrl.envs.views import LARGEST, FlatView, Float32Array, check_finite, information, of_one
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.neighbors import with_edges

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError("agents per atom need PettingZoo: pip install 'relaxrl[pettingzoo]'") from error

_OF_VECTORS = ("proposed", "corrected")
_OWN, _PER_NEIGHBOR = 4, 7


class RelaxParallelEnv(ParallelEnv[str, Any, Any]):
    """Relax atomic structures, each atom by an agent of its own.

    ## Description

    Agents are `atom_0` to `atom_(n - 1)` of the structure at hand; `possible_agents` are those of the largest one. All
    act at once, and an episode ends for all of them together, as that of `relaxrl.envs.gym_env.RelaxEnv` does.

    ## Action Space

    `Box(-1, 1, (3,), float32)`: the displacement of the atom in units of `config.max_step`; longer than 1 is shortened.

    ## Observation Space

    `Box((4 + 7 * n_neighbors,), float32)`: atomic number and force (eV/Å) of the atom; then, for each of its nearest
    neighbours within `config.neighbor_cutoff`, periodic images included and the nearest first, the atomic number, the
    vector to it (Å) and its force. Zeros where there are fewer. `state()` is the whole structure, as in
    `relaxrl/RelaxFlat-v0`, for critics that see all.

    ## Rewards

    Those of all atoms add up to the reward of `RelaxEnv`, R: with the terms of the reward for atom i alone, r_i (|F_i|
    in place of F_max), and their mean over the n atoms, r, atom i gets (R + r_i - r) / n.

    ## Information

    Each agent has the keys of `RelaxEnv`'s; `proposed` and `corrected`, (3,), are its own.

    Args:
        structures: As in `RelaxEnv`.
        calculator: As in `RelaxEnv`.
        config: As in `RelaxEnv`.
        n_max: As in `RelaxEnv`; the number of `possible_agents`.
        n_neighbors: Neighbours that an atom sees; fcc crystals have 12 nearest ones.
        render_mode: As in `RelaxEnv`.

    Raises:
        ImportError: PettingZoo is not there.
        ValueError: `n_neighbors` is not positive, or there is no such render mode.
        RelaxRLError: As in `RelaxEnv`.
    """

    metadata: dict[str, Any] = {"name": "relax_v0", "render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012 - PettingZoo's own type

    def __init__(
        self,
        structures: Structures = "metals:train",
        calculator: Calculator = "emt",
        config: EnvConfig | Mapping[str, Any] | None = None,
        n_max: int | None = None,
        n_neighbors: int = 12,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        if n_neighbors < 1:
            raise ValueError(f"`n_neighbors` must be at least 1, got {n_neighbors}")
        self.task = Task.of(structures, calculator, config, n_max)
        if self.task.config.cell is not None:
            raise ConfigError(
                "config: `cell` is for one agent that moves all, such as relaxrl/Relax-v0; agents per atom have no "
                "strain among their actions: leave it out"
            )
        self.n_neighbors = n_neighbors
        self.render_mode = render_mode
        self.possible_agents = [f"atom_{k}" for k in range(self.task.n_max)]
        self.agents: list[str] = []
        self._view = FlatView(self.task.n_max)
        length = _OWN + _PER_NEIGHBOR * n_neighbors
        # Each agent keeps one and the same object, whose samples can be seeded.
        self.observation_spaces = {
            agent: spaces.Box(-LARGEST, LARGEST, (length,), np.float32) for agent in self.possible_agents
        }
        self.action_spaces = {agent: spaces.Box(-1.0, 1.0, (3,), np.float32) for agent in self.possible_agents}
        self.state_space = self._view.observation_space
        self.core: RelaxationEnv = self.task.core(seeding.np_random()[0])

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent can do."""
        return self.action_spaces[agent]

    def state(self) -> Float32Array:
        """The whole structure, (8 * n_max + 12,)."""
        flat: Float32Array = self._view.observation(self.core.graph)
        return flat

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin an episode.

        Args:
            seed: Seeds all randomness from here on; goes on with the last one if None.
            options: `{"structure": index or id}` asks for a crystal.

        Raises:
            ValueError: There is no such crystal.
        """
        if seed is not None:
            self.core.generator = seeding.np_random(seed)[0]
        asked = (options or {}).get("structure")  # PettingZoo's own tests give others too
        graph = self.core.reset(None if asked is None else [self.task.index(asked)])
        self.agents = self.possible_agents[: graph.n_atoms]
        return self._observations(graph), self._infos(None)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Displace all atoms.

        Args:
            actions: For each of `agents`, (3,), in [-1, 1].

        Raises:
            ValueError: An agent has no action, or one of another shape or not finite; or there is no such agent.
            RuntimeError: There was no `reset` before.
        """
        self.core.graph  # noqa: B018 - says so where there was no reset
        agents = self.agents
        if not agents and not actions:
            return {}, {}, {}, {}, {}
        if actions.keys() != set(agents):
            odd = sorted(actions.keys() ^ set(agents))
            raise ValueError(f"`actions` must be one for each of the {len(agents)} agents; missing or unknown: {odd}")
        rows = np.stack([_vector(actions[agent], agent) for agent in agents])
        result = self.core.step(torch.from_numpy(self.task.config.max_step * rows))
        rated = result.atom_reward
        rewards = ((result.reward + rated - rated.mean()) / len(agents)).tolist()
        infos, observations = self._infos(result), self._observations(result.graph)
        terminated, truncated = bool(result.terminated), bool(result.truncated)
        if terminated or truncated:
            self.agents = []
        return (
            observations,
            dict(zip(agents, rewards, strict=True)),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def render(self) -> Any:
        """The structure as it is now: a picture (height, width, 3), uint8, or text; None without a render mode."""
        return render(self.core, 0, self.render_mode)

    def close(self) -> None:
        """Nothing is held open."""

    def _observations(self, graph: AtomGraph) -> dict[str, Float32Array]:
        assert graph.forces is not None, "set by the core"
        seen = with_edges(graph, self.task.config.neighbor_cutoff)
        assert seen.edge_index is not None, "made just now"
        centre, neighbour = seen.edge_index.cpu().numpy()
        vectors = seen.edge_vectors().cpu().numpy()
        numbers, forces = graph.atomic_numbers.cpu().numpy(), graph.forces.cpu().numpy()
        order = np.lexsort((np.linalg.norm(vectors, axis=1), centre))
        centre, neighbour, vectors = centre[order], neighbour[order], vectors[order]
        rank = np.arange(len(centre)) - np.searchsorted(centre, centre)
        near = rank < self.n_neighbors
        around = np.zeros((len(numbers), self.n_neighbors, _PER_NEIGHBOR))
        seen_there = np.column_stack([numbers[neighbour], vectors, forces[neighbour]])
        around[centre[near], rank[near]] = seen_there[near]
        rows = np.concatenate([numbers[:, None], forces, around.reshape(len(numbers), -1)], axis=1)
        rows = rows.clip(-LARGEST, LARGEST).astype(np.float32)
        return {agent: row.copy() for agent, row in zip(self.agents, rows, strict=True)}

    def _infos(self, result: StepResult | None) -> dict[str, dict[str, Any]]:
        info = of_one(information(self.core, result, self.task.n_max))
        own = {key: info[key] for key in _OF_VECTORS}
        return {
            agent: info | {key: rows[place].copy() for key, rows in own.items()}
            for place, agent in enumerate(self.agents)
        }


def parallel_env(**arguments: Any) -> RelaxParallelEnv:
    """`RelaxParallelEnv` by the name that PettingZoo's modules give it."""
    return RelaxParallelEnv(**arguments)


def _vector(action: Any, agent: str) -> Any:
    vector = np.asarray(action, dtype=np.float64)
    if vector.shape != (3,):
        raise ValueError(f"the action of `{agent}` must have shape (3,), got {vector.shape}")
    check_finite(vector)
    return vector
