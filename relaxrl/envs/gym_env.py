"""`relaxrl/Relax-v0` and `relaxrl/RelaxFlat-v0`: the environment as Gymnasium has it, one structure at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.render import RENDER_FPS, RENDER_MODES, check_render_mode, render
from relaxrl.envs.task import Calculator, Structures, Task
from relaxrl.envs.views import FlatView, PaddedView, information, of_one
from relaxrl.typing import StateDict


class RelaxEnv(gymnasium.Env[Any, Any]):
    """Relax atomic structures in few force evaluations.

    ## Description

    An episode starts from a crystal of a set, displaced from its minimum at random or as it is. Every step displaces
    the atoms and evaluates the forces there, until they vanish. All arrays are padded with zeros from the atoms of the
    structure, `n`, to those of the largest one of the set, `n_max`. Units are Å, eV and eV/Å.

    ## Action Space

    `Box(-1, 1, (3 * n_max,), float32)`: the displacement of atom `i` in units of `config.max_step` at `3i` to `3i + 2`.
    Vectors longer than 1 are shortened to 1; entries of atoms that are not there have no effect.

    With `config.cell`, six more numbers strain the cell, and all in it, before the displacements: in units of
    `config.cell.max_strain`, with respect to `relaxrl.strain.STRAIN_BASIS`; of norm 1 at most, too.

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
    | `stress` | (6,) | with `config.cell` alone: eV/Å³; xx, yy, zz, yz, xz, xy, positive under tension |

    ## Rewards

    A weighted sum of terms, each reported in `info`: see `relaxrl.envs.RewardConfig`.

    ## Starting State

    A crystal drawn at random, or the one of `reset(options={"structure": index or id})`. Crystals of kind "minimum" are
    displaced at random by `config.rattle`, with `config.cell` strained by `config.cell.strain` before; those of kind
    "start" are taken as they are.

    ## Episode End

    Terminated: F_max <= `config.fmax`, at an energy not above the start's and with an intact structure; this alone is
    `info["is_success"]`. With `config.cell`, the stress must be small, too, see `config.cell.smax`.

    Truncated: `info["reason"]` is "step_limit", "stuck", "calculator_failed", "exploded", "energy_above_start" (forces
    vanish higher up than they began) or "broken" (the structure has come apart, at whatever forces); see
    `relaxrl.envs.Reason`.

    ## Information

    `reset` and `step` give the same keys: `proposed` and `corrected` displacement, (n_max, 3), Å; `a_back`, the
    fraction taken back; `reward_NAME` for each term; `force_evaluations` of the episode, the first included; `reason`,
    "" while the episode runs; `is_success`; `energy`, eV; `fmax`, eV/Å; `structure`, the crystal's id. With
    `config.cell` also `proposed_strain` and `corrected_strain`, (6,), `stress`, (6,), as observed, and `smax`, its
    largest principal value of what is free, eV/Å³.

    ## Arguments

    Make it with the name of the module, so that worker processes find it:
    `gymnasium.make("relaxrl:relaxrl/Relax-v0", structures="metals:train", calculator="emt")`, and likewise with
    `gymnasium.make_vec` for a batch of structures that share each call of the potential
    (`relaxrl.envs.vector_env.RelaxVectorEnv`).

    ## Version History

    * v0: first version.

    Args:
        structures: A name or path that `relaxrl.structures.read_structures` knows, ASE's `Atoms`, crystals, or several
            of any of them. Files and atoms are taken as they are, unless `info["relaxrl_kind"]` says "minimum".
        calculator: A name that `relaxrl.potentials.parse_calculator` knows, such as "emt", or a function that makes an
            ASE calculator. Not a calculator itself: each process makes its own, so that the environment can be pickled.
        config: Options of the environment; as a mapping, keys of `EnvConfig`.
        n_max: Number of atoms to pad to; that of the largest structure if None.
        render_mode: "rgb_array" for a picture of the structure with its forces as arrows, "ansi" for a table; None for
            neither.

    Raises:
        ValueError: There is no such render mode.
        StructureError: The structures can't be read, or one has more than `n_max` atoms.
        CalculatorError: There is no such calculator, or it does not know an element.
        ConfigError: The config has a wrong key or value.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012 - Gymnasium's own type
    view_type: ClassVar[type[PaddedView]] = PaddedView

    def __init__(
        self,
        structures: Structures = "metals:train",
        calculator: Calculator = "emt",
        config: EnvConfig | Mapping[str, Any] | None = None,
        n_max: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        self.task = Task.of(structures, calculator, config, n_max)
        self.render_mode = render_mode
        self.view = self.view_type(self.task.n_max, self.task.config.cell is not None)
        self.observation_space = self.view.observation_space
        self.action_space = self.view.action_space
        self._core: RelaxationEnv | None = None

    @property
    def core(self) -> RelaxationEnv:
        """The environment behind this view."""
        if self._core is None:
            self._core = self.task.core(self.np_random)
        return self._core

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds all randomness from here on; goes on with the last one if None.
            options: `{"structure": index or id}` asks for a crystal.

        Raises:
            ValueError: There is no such crystal or option.
        """
        super().reset(seed=seed)
        core = self.core
        core.generator = self.np_random
        asked = self.task.asked(options)
        graph = core.reset(None if asked is None else [self.task.index(asked)])
        return self.view.observation(graph), of_one(information(core, None, self.task.n_max))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Displace the atoms.

        Args:
            action: A member of the action space; see the class.

        Raises:
            ValueError: The action has another shape or is not finite.
            RuntimeError: There was no `reset` before.
        """
        core = self.core
        result = core.step(self.view.action(action, core.graph, self.task.config))
        return (
            self.view.observation(result.graph),
            float(result.reward),
            bool(result.terminated),
            bool(result.truncated),
            of_one(information(core, result, self.task.n_max)),
        )

    def render(self) -> Any:
        """The structure as it is now: a picture (height, width, 3), uint8, or text; None without a render mode."""
        return render(self.core, 0, self.render_mode)

    def __getstate__(self) -> StateDict:
        # A potential may not pickle; the state of the episode does.
        return self.__dict__ | {"_core": None if self._core is None else self._core.state_dict()}

    def __setstate__(self, state: StateDict) -> None:
        self.__dict__.update(state | {"_core": None})
        if state["_core"] is not None:
            self.core.load_state_dict(state["_core"])


class RelaxFlatEnv(RelaxEnv):
    """`RelaxEnv` with its observation as one row of numbers, for libraries that take nothing else.

    `relaxrl/RelaxFlat-v0`. The observation space is `Box((8 * n_max + 12,), float32)`: what
    `gymnasium.wrappers.FlattenObservation` makes of `relaxrl/Relax-v0`, that is cell, forces, mask, numbers, pbc and
    positions, one after the other, and stress with `config.cell`. All else is that of `RelaxEnv`, arguments included.
    """

    view_type = FlatView
