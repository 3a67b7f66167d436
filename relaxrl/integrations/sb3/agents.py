"""Agents of Stable-Baselines3 on disk: saved with all that using them takes, and made into policies of graphs."""

from __future__ import annotations

import importlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from relaxrl import __version__
from relaxrl.agents import Agent
from relaxrl.envs import EnvConfig
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.integrations.policy import ObservationPolicy
from relaxrl.integrations.sb3.policies import GraphActor

MODEL, STATISTICS, FACTS = "model.zip", "vecnormalize.pkl", "sb3.json"
ALGORITHMS = {
    "clip_range": "stable_baselines3:PPO",
    "target_entropy": "stable_baselines3:SAC",
    "policy_delay": "stable_baselines3:TD3",  # DDPG, too, acts like it
    "rms_prop_eps": "stable_baselines3:A2C",
}
"""Algorithm by an attribute that only its saved models have; SB3 itself does not note it."""


def save_sb3(model: BaseAlgorithm, folder: str | Path, max_step: float | None = None) -> None:
    """Write a model, the statistics of its `VecNormalize` if it has one, and what else it takes to use it.

    Args:
        model: After training.
        folder: Made if needed; gets `model.zip`, `vecnormalize.pkl` and `sb3.json`.
        max_step: Å; that of the training environment, which is asked if None.

    Raises:
        ConfigError: The environment does not say, or a graph policy was made for another `max_step`.
    """
    folder = Path(folder)
    max_step = _max_step_of(model) if max_step is None else max_step
    actor = _graph_actor(model)
    if actor is not None and actor.max_step != max_step:
        raise ConfigError(
            f"the policy's actor_config.max_step = {actor.max_step} Å, but that of its environment is {max_step} Å; "
            "train with the same"
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / MODEL)
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        statistics.save(str(folder / STATISTICS))
    facts = {
        "algorithm": f"{type(model).__module__}:{type(model).__name__}",
        "max_step": max_step,
        "normalize": statistics is not None and statistics.norm_obs,
        "relaxrl": __version__,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


class SaveAgent(BaseCallback):
    """Calls `save_sb3`; give it to `EvalCallback(callback_on_new_best=...)` or `EveryNTimesteps`.

    Args:
        folder: Where to; replaced each time.
        max_step: See `save_sb3`.
    """

    def __init__(self, folder: str | Path, max_step: float | None = None) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.max_step = max_step

    def _on_step(self) -> bool:
        save_sb3(self.model, self.folder, self.max_step)
        return True


def load_sb3(
    path: str | Path, max_step: float | None = None, normalize: bool | None = None, algorithm: str | None = None
) -> ObservationPolicy | Agent:
    """An agent that Stable-Baselines3 trained, as a policy of graphs.

    Loading runs code that the files hold (they are pickles): use only files that you trust.

    Args:
        path: A folder written by `save_sb3`, or a model's `.zip`, with its statistics beside it, named
            `vecnormalize.pkl` or as `CheckpointCallback` names them.
        max_step: Å; that of the environment in training. None: what `save_sb3` noted, else the environment's default,
            with a warning that says so.
        normalize: Whether observations were normalised in training. None: what `save_sb3` noted, else statistics must
            be there.
        algorithm: Class of the model, as `package.module:Class`; told from the file if None.

    Returns:
        An `Agent`, for structures of any size, where the policy is one of graphs; else a policy for structures of up to
        `n_max` atoms.

    Raises:
        CheckpointError: There is no model, its statistics are missing, or it was trained in another environment.
        ConfigError: Its algorithm can't be told or imported.
    """
    model_file, facts = _find(Path(path))
    algorithm = algorithm or facts.get("algorithm") or _algorithm_of(model_file)
    model = _load_model(model_file, algorithm)
    chosen = float(max_step or facts.get("max_step") or EnvConfig().max_step)
    actor = _graph_actor(model)
    if actor is not None:
        if max_step is not None and actor.max_step != chosen:
            raise ConfigError(f"{path}: expected max_step = {actor.max_step} Å, as in training, got {chosen}")
        network = actor.network.eval().requires_grad_(False)
        return Agent(network, actor.max_step, {"description": f"trained by {algorithm}"})
    space = model.observation_space
    n_max, flat = _room(space, model_file)
    statistics = _statistics(model_file, facts.get("normalize") if normalize is None else normalize)
    if max_step is None and facts.get("max_step") is None:
        warnings.warn(
            f"{model_file}: nothing says which max_step its environment had, {chosen} Å is assumed, the default; give "
            "it (,max_step=... after the name), or save agents with relaxrl.integrations.sb3.save_sb3, which notes it",
            stacklevel=2,
        )

    def function(observations: Any) -> Any:
        shown = observations if statistics is None else statistics.normalize_obs(observations)
        return model.predict(shown, deterministic=True)[0]

    return ObservationPolicy(function, n_max, chosen, flat=flat, batched=True, name=f"sb3:{path}")


def _graph_actor(model: BaseAlgorithm) -> GraphActor | None:
    actor = getattr(model.policy, "actor", None)
    return actor if isinstance(actor, GraphActor) else None


def _max_step_of(model: BaseAlgorithm) -> float:
    environment = model.get_env()
    if environment is not None:
        try:
            return float(environment.get_attr("task", 0)[0].config.max_step)
        except AttributeError:
            pass
    raise ConfigError("the model has no environment of relaxrl that would know it; expected `max_step` in Å, got None")


def _find(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """The model's file and what is known of it."""
    if path.is_dir():
        zips = [path / name for name in (MODEL, "best_model.zip") if (path / name).is_file()] or sorted(
            path.glob("*.zip")
        )
        if len(zips) != 1 and not (path / MODEL).is_file():
            found = ", ".join(file.name for file in zips) or "none"
            raise CheckpointError(f"{path}: expected one model ({MODEL}), found {found}; name the file itself")
        file = zips[0]
    else:
        file = path if path.suffix == ".zip" or path.is_file() else path.with_suffix(".zip")
    if not file.is_file():
        raise CheckpointError(f"no model of Stable-Baselines3 at {path}: expected a .zip, or a folder that holds one")
    facts_file = file.parent / FACTS
    if file.name != MODEL or not facts_file.is_file():
        return file, {}
    try:
        return file, dict(json.loads(facts_file.read_text()))
    except ValueError as error:
        raise CheckpointError(f"{facts_file}: damaged: {error}; save the agent again with save_sb3") from error


def _algorithm_of(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            keys = json.loads(archive.read("data")).keys()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise CheckpointError(f"{file}: no model of Stable-Baselines3, or a damaged one: {error}") from error
    for key, name in ALGORITHMS.items():
        if key in keys:
            return name
    raise ConfigError(f"{file}: can't tell its algorithm; add ,algorithm=package.module:Class")


def _load_model(file: Path, algorithm: str) -> BaseAlgorithm:
    module, _, name = algorithm.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{file}: can't import its algorithm {algorithm!r}: {error}") from error
    try:
        # Else it would make room for a million observations.
        loaded: BaseAlgorithm = made.load(file, device="cpu", custom_objects={"buffer_size": 1})
    except Exception as error:  # unpickling runs foreign code: anything may come
        raise CheckpointError(
            f"{file}: can't be loaded as {algorithm}, damaged or of another version: {type(error).__name__}: {error}"
        ) from error
    return loaded


def _room(space: spaces.Space[Any], file: Path) -> tuple[int, bool]:
    """Atoms that there was room for in training, and whether observations were flat."""
    length = (space.shape or (0,))[0]
    strains = "stress" in space.spaces if isinstance(space, spaces.Dict) else length > 18 and (length - 18) % 8 == 0
    if strains:
        raise CheckpointError(
            f"{file}: trained with cells that strain (`cell` in the environment's config), so that its actions are not "
            "those of a relaxation at fixed cell; expected an agent trained without"
        )
    if isinstance(space, spaces.Dict) and "mask" in space.spaces:
        return len(space["mask"].sample()), False
    shape = space.shape or ()
    if len(shape) == 1 and shape[0] > 12 and (shape[0] - 12) % 8 == 0:
        return (shape[0] - 12) // 8, True
    raise CheckpointError(
        f"{file}: expected a model trained in relaxrl/Relax-v0 or relaxrl/RelaxFlat-v0, got observations {space}"
    )


def _statistics(model: Path, wanted: bool | None) -> VecNormalize | None:
    """What normalises observations, from the file beside the model."""
    if wanted is False:
        return None
    names = [STATISTICS, "vec_normalize.pkl"]
    checkpoint = re.fullmatch(r"(.*)_(\d+)_steps", model.stem)
    if checkpoint:
        names.insert(0, f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}_steps.pkl")
    for name in names:
        file = model.parent / name
        if file.is_file():
            with file.open("rb") as stream:
                try:
                    found = pickle.load(stream)
                except Exception as error:  # as above
                    raise CheckpointError(f"{file}: damaged, or of another version: {error}") from error
            if not isinstance(found, VecNormalize):
                raise CheckpointError(f"{file}: expected a VecNormalize, got {type(found).__name__}")
            found.training = False
            return found if found.norm_obs else None
    hint = "" if wanted else ", or add ,normalize=false if it was trained without"
    raise CheckpointError(
        f"{model}: its VecNormalize statistics are missing: expected {names[0]} beside it; save them with "
        f"env.save({names[0]!r}) or relaxrl.integrations.sb3.save_sb3{hint}"
    )
