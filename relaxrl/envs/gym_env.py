"""`relaxrl/Relax-v0`: the environment as Gymnasium has it, one structure at a time, padded to a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from relaxrl.config import from_dict
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.reward import TERMS
from relaxrl.envs.types import StepResult
from relaxrl.errors import StructureError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.potentials import CalculatorSpec, parse_calculator
from relaxrl.structures import Crystal, read_structures
from relaxrl.typing import StateDict

Float32Array = NDArray[np.float32]
Observation = dict[str, Any]  # of float32 arrays; Gymnasium's type of a Dict space

LARGEST = 1e6
"""Bound of positions (Å), cells (Å) and forces (eV/Å) in observations; some libraries refuse infinite bounds."""


class RelaxEnv(gymnasium.Env[Observation, Float32Array]):
    """Relax atomic structures in few force evaluations.

    ## Description

    An episode starts from a crystal of a set, displaced from its minimum at random or as it is. Every step displaces
    the atoms and evaluates the forces there, until they vanish. All arrays are padded with zeros from the atoms of the
    structure, `n`, to those of the largest one of the set, `n_max`. Units are Å, eV and eV/Å.

    ## Action Space

    `Box(-1, 1, (3 * n_max,), float32)`: the displacement of atom `i` in units of `config.max_step` at `3i` to `3i + 2`.
    Vectors longer than 1 are shortened to 1; entries of atoms that are not there have no effect.

    ## Observation Space

    A `Dict` of float32 boxes:

    | key | shape | meaning |
    | --- | --- | --- |
    | `numbers` | (n_max,) | atomic numbers |
    | `positions` | (n_max, 3) | Å; never wrapped into the cell |
    | `forces` | (n_max, 3) | eV/Å |
    | `cell` | (3, 3) | Å; rows are the lattice vectors |
    | `pbc` | (3,) | 1 where periodic |
    | `mask` | (n_max,) | 1 where there is an atom |

    ## Rewards

    A weighted sum of terms, each reported in `info`: see `relaxrl.envs.RewardConfig`.

    ## Starting State

    A crystal drawn at random, or the one of `reset(options={"structure": index or id})`. Crystals of kind "minimum" are
    displaced at random by `config.rattle`; those of kind "start" are taken as they are.

    ## Episode End

    Terminated: F_max <= `config.fmax`, at an energy not above the start's and with the structure in one piece.
    Truncated: `info["reason"]` is "step_limit", "stuck", "calculator_failed", "exploded", "energy_above_start" or
    "broken"; see `relaxrl.envs.Reason`.

    ## Information

    `reset` and `step` give the same keys: `proposed` and `corrected` displacement, (n_max, 3), Å; `a_back`, the
    fraction taken back; `reward_NAME` for each term; `force_evaluations` of the episode, the first included; `reason`,
    "" while the episode runs; `is_success`; `energy`, eV; `fmax`, eV/Å; `structure`, the crystal's id.

    ## Arguments

    Make it with the name of the module, so that worker processes find it:
    `gymnasium.make("relaxrl:relaxrl/Relax-v0", structures="metals:train", calculator="emt")`.

    ## Version History

    * v0: first version.

    Args:
        structures: A name or path that `relaxrl.structures.read_structures` knows, several of them, or crystals.
        calculator: A name that `relaxrl.potentials.parse_calculator` knows, such as "emt", or a function that makes an
            ASE calculator. Not a calculator itself: each process makes its own, so that the environment can be pickled.
        config: Options of the environment; as a mapping, keys of `EnvConfig`.
        n_max: Number of atoms to pad to; that of the largest structure if None.
        render_mode: None; there is nothing to see.

    Raises:
        StructureError: The structures can't be read, or one has more than `n_max` atoms.
        CalculatorError: There is no such calculator, or it does not know an element.
        ConfigError: The config has a wrong key or value.
    """

    def __init__(
        self,
        structures: str | Sequence[str] | Sequence[Crystal] = "metals:train",
        calculator: str | CalculatorSpec | Callable[..., Any] = "emt",
        config: EnvConfig | Mapping[str, Any] | None = None,
        n_max: int | None = None,
        render_mode: None = None,
    ) -> None:
        self.crystals = _crystals(structures)
        self.config = config if isinstance(config, EnvConfig) else from_dict(EnvConfig, config or {}, source="config")
        self.render_mode = render_mode
        largest = max(self.crystals, key=lambda crystal: len(crystal.atoms))
        self.n_max = len(largest.atoms) if n_max is None else n_max
        if len(largest.atoms) > self.n_max:
            raise StructureError(f"crystal {largest.id} has {len(largest.atoms)} atoms, more than n_max = {self.n_max}")
        self._calculator = parse_calculator(calculator)
        for crystal in self.crystals:
            self._calculator.check(crystal.atoms, crystal.id)
        self._core: RelaxationEnv | None = None
        per_atom, per_component = (self.n_max,), (self.n_max, 3)
        self.observation_space = spaces.Dict(
            {
                "numbers": spaces.Box(0, 118, per_atom, np.float32),
                "positions": spaces.Box(-LARGEST, LARGEST, per_component, np.float32),
                "forces": spaces.Box(-LARGEST, LARGEST, per_component, np.float32),
                "cell": spaces.Box(-LARGEST, LARGEST, (3, 3), np.float32),
                "pbc": spaces.Box(0, 1, (3,), np.float32),
                "mask": spaces.Box(0, 1, per_atom, np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (3 * self.n_max,), np.float32)

    @property
    def core(self) -> RelaxationEnv:
        """The environment behind this view."""
        if self._core is None:
            self._core = RelaxationEnv(self.crystals, self._calculator.potential(), self.config, self.np_random)
        return self._core

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds all randomness from here on; goes on with the last one if None.
            options: `{"structure": index or id}` asks for a crystal.

        Raises:
            ValueError: There is no such crystal.
        """
        super().reset(seed=seed)
        core = self.core
        core.generator = self.np_random
        asked = (options or {}).get("structure")
        graph = core.reset(None if asked is None else [self._index(asked)])
        return self._observation(graph), self._info(graph, None)

    def step(self, action: Float32Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Displace the atoms.

        Args:
            action: (3 * n_max,), in [-1, 1]; see the class.
        """
        core = self.core
        expected = (3 * self.n_max,)
        if np.shape(action) != expected:
            raise ValueError(f"`action` must have shape {expected} (3 * n_max), got {np.shape(action)}")
        vectors = np.asarray(action, dtype=np.float64).reshape(self.n_max, 3)[: core.graph.n_atoms]
        result = core.step(torch.from_numpy(self.config.max_step * vectors))
        return (
            self._observation(result.graph),
            float(result.reward),
            bool(result.terminated),
            bool(result.truncated),
            self._info(result.graph, result),
        )

    def _index(self, asked: int | str) -> int:
        if isinstance(asked, str):
            for index, crystal in enumerate(self.crystals):
                if crystal.id == asked:
                    return index
            raise ValueError(f"there is no structure `{asked}`; the first is `{self.crystals[0].id}`")
        return asked

    def _observation(self, graph: AtomGraph) -> Observation:
        assert graph.forces is not None, "set by the core"
        mask = np.zeros(self.n_max, dtype=np.float32)
        mask[: graph.n_atoms] = 1.0
        return {
            "numbers": self._padded(graph.atomic_numbers),
            "positions": self._padded(graph.positions),
            "forces": self._padded(graph.forces),
            "cell": graph.cell[0].cpu().numpy().astype(np.float32),
            "pbc": graph.pbc[0].cpu().numpy().astype(np.float32),
            "mask": mask,
        }

    def _padded(self, values: torch.Tensor) -> Float32Array:
        padded = np.zeros((self.n_max, *values.shape[1:]), dtype=np.float32)
        padded[: len(values)] = values.clamp(-LARGEST, LARGEST).cpu().numpy()
        return padded

    def _info(self, graph: AtomGraph, result: StepResult | None) -> dict[str, Any]:
        core = self.core
        nothing = torch.zeros_like(graph.positions)
        terms = {f"reward_{name}": 0.0 if result is None else float(result.terms[name]) for name in TERMS}
        return {
            "proposed": self._padded(nothing if result is None else result.proposed),
            "corrected": self._padded(nothing if result is None else result.applied),
            "a_back": 0.0 if result is None else float(result.a_back),
            **terms,
            "force_evaluations": int(core.evaluations),
            "reason": "" if result is None else result.reason[0],
            "is_success": False if result is None else bool(result.terminated),
            "energy": 0.0 if graph.energy is None else float(graph.energy),
            "fmax": float(max_force(graph)),
            "structure": self.crystals[int(core.indices)].id,
        }

    def __getstate__(self) -> StateDict:
        # A potential may not pickle; the state of the episode does.
        return self.__dict__ | {"_core": None if self._core is None else self._core.state_dict()}

    def __setstate__(self, state: StateDict) -> None:
        self.__dict__.update(state | {"_core": None})
        if state["_core"] is not None:
            self.core.load_state_dict(state["_core"])


def _crystals(structures: str | Sequence[str] | Sequence[Crystal]) -> Sequence[Crystal]:
    if isinstance(structures, str):
        return read_structures([structures])
    crystals: list[Crystal] = []
    for item in structures:
        crystals.extend([item] if isinstance(item, Crystal) else read_structures([item]))
    if not crystals:
        raise StructureError("`structures` is empty; the environment needs at least one")
    return crystals
