"""Many episodes side by side behind Gymnasium's vector interface: one call of the potential serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.render import RENDER_FPS, RENDER_MODES, check_render_mode, render
from relaxrl.envs.task import Calculator, Structures, Task
from relaxrl.envs.views import FlatView, PaddedView, information, merged, with_masks
from relaxrl.graph import AtomGraph

_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)


class RelaxVectorEnv(VectorEnv[Any, Any, Any]):
    """`relaxrl.envs.gym_env.RelaxEnv` for a batch of structures: `gymnasium.make_vec("relaxrl:relaxrl/Relax-v0")`.

    Spaces, rewards and information are those of `RelaxEnv`, in arrays with a first dimension (num_envs,). All episodes
    share one generator: a seed decides the whole batch, and the same seed with the same actions gives the same.

    What follows the end of an episode is `metadata["autoreset_mode"]`:

    - `SAME_STEP`: the step that ends it returns the first observation of the next one; the last observation is in
      `info["final_obs"]`, an array of objects, and its information in `info["final_info"]`, where
      `info["_final_info"]` is true.
    - `DISABLED`: it stays as it is, at no cost and with reward 0, until `reset(options={"reset_mask": mask})`.

    Gymnasium's `NEXT_STEP` is left out: it spends a step on each reset, and several libraries refuse it.

    Args:
        num_envs: Structures at once.
        structures: As in `RelaxEnv`.
        calculator: As in `RelaxEnv`.
        config: As in `RelaxEnv`.
        n_max: As in `RelaxEnv`.
        render_mode: As in `RelaxEnv`; there is a frame for each structure.
        autoreset_mode: One of the two above, or its name, "SameStep" or "Disabled".

    Raises:
        ValueError: There is no such render or autoreset mode, or `num_envs` is not positive.
        StructureError: As in `RelaxEnv`.
        CalculatorError: As in `RelaxEnv`.
        ConfigError: As in `RelaxEnv`.
    """

    view_type: ClassVar[type[PaddedView]] = PaddedView

    def __init__(
        self,
        num_envs: int = 1,
        structures: Structures = "metals:train",
        calculator: Calculator = "emt",
        config: EnvConfig | Mapping[str, Any] | None = None,
        n_max: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        check_render_mode(render_mode)
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.num_envs = num_envs
        self.task = Task.of(structures, calculator, config, n_max)
        self.core: RelaxationEnv = self.task.core(self.np_random, num_envs)
        self.render_mode = render_mode
        self.view = self.view_type(self.task.n_max, self.task.config.cell is not None)
        self.single_observation_space = self.view.observation_space
        self.single_action_space = self.view.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes.

        Args:
            seed: Seeds all randomness from here on; goes on with the last one if None.
            options: `structure`, an index or id for all or a sequence of one for each slot that begins anew;
                `reset_mask`, (num_envs,), bool, which slots those are, all if absent.

        Raises:
            ValueError: There is no such crystal, or the mask has another shape or no true entry.
        """
        super().reset(seed=seed)
        self.core.generator = self.np_random
        asked = self.task.asked(options, ("structure", "reset_mask"))
        chosen = self._slots((options or {}).get("reset_mask"))
        slots = np.flatnonzero(chosen).tolist()
        graph = self.core.reset_slots(slots, self._indices(asked, len(slots)))
        return self.view.observations(graph), with_masks(information(self.core, None, self.task.n_max), chosen)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Displace the atoms of all structures.

        Args:
            actions: (num_envs, 3 * n_max), in [-1, 1], with six more columns where cells strain; see `RelaxEnv`.

        Raises:
            ValueError: The actions have another shape or are not finite.
            RuntimeError: There was no `reset` before.
        """
        core, n_max = self.core, self.task.n_max
        result = core.step(self.view.actions(actions, core.graph, self.task.config))
        done, info = result.done.cpu().numpy(), information(core, result, n_max)
        graph = result.graph
        final: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            slots = np.flatnonzero(done).tolist()
            final = {"final_obs": self._final(graph, slots), "_final_obs": done.copy()}
            final |= {"final_info": with_masks(info, done), "_final_info": done.copy()}
            graph = core.reset_slots(slots)
            info = merged(done, information(core, None, n_max), info)
        return (
            self.view.observations(graph),
            result.reward.cpu().numpy().astype(np.float64),
            result.terminated.cpu().numpy().copy(),
            result.truncated.cpu().numpy().copy(),
            with_masks(info, np.ones_like(done)) | final,
        )

    def render(self) -> tuple[Any, ...] | None:
        """Each structure as it is now: pictures (height, width, 3), uint8, or texts; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(render(self.core, slot, self.render_mode) for slot in range(self.num_envs))

    def _slots(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        chosen = np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != np.bool_ or not chosen.any():
            raise ValueError(
                f"`reset_mask` must be bool of shape ({self.num_envs},) with a true entry, "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
        return chosen

    def _indices(self, asked: Any, n: int) -> list[int] | None:
        if asked is None:
            return None
        each = list(asked) if isinstance(asked, Sequence | np.ndarray) and not isinstance(asked, str) else [asked] * n
        if len(each) != n:
            raise ValueError(f"`structure` must be one for each of the {n} slots that begin anew, got {len(each)}")
        return [self.task.index(one) for one in each]

    def _final(self, graph: AtomGraph, slots: Sequence[int]) -> NDArray[np.object_]:
        rows = self.view.observations(graph)
        last = np.full(self.num_envs, None, dtype=object)
        for slot in slots:
            last[slot] = {key: row[slot] for key, row in rows.items()} if isinstance(rows, dict) else rows[slot]
        return last


class RelaxFlatVectorEnv(RelaxVectorEnv):
    """`RelaxVectorEnv` with observations (num_envs, 8 * n_max + 12), those of `relaxrl/RelaxFlat-v0`."""

    view_type = FlatView


def _mode(asked: AutoresetMode | str) -> AutoresetMode:
    known = {mode.value: mode for mode in _MODES}
    found = asked if isinstance(asked, AutoresetMode) else known.get(asked)
    if found not in _MODES:
        raise ValueError(f'`autoreset_mode` must be "SameStep" or "Disabled", got {asked!r}')
    return found
