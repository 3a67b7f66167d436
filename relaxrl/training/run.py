"""Start and resume runs, whatever the method."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from relaxrl.config import dump_config, from_dict, read_mapping, to_dict
from relaxrl.errors import ConfigError
from relaxrl.training.cloning import Cloner
from relaxrl.training.cloning_config import CloningConfig
from relaxrl.training.config import TrainConfig
from relaxrl.training.constraints import ConstraintTrainer
from relaxrl.training.constraints_config import ConstraintsConfig
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient_config import GradientConfig, refuse_moved
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.result import TrainResult
from relaxrl.training.rl import Trainer
from relaxrl.training.surrogate import SurrogateTrainer
from relaxrl.training.surrogate_config import SurrogateConfig

RunConfiguration = TrainConfig | CloningConfig | ConstraintsConfig | SurrogateConfig
"""What can be trained; the key `method` tells them apart."""

_METHODS: dict[str, type[RunConfiguration]] = {
    "td3": TrainConfig,
    "cloning": CloningConfig,
    "constraints": ConstraintsConfig,
    "surrogate": SurrogateConfig,
}
_CHANGEABLE = ("run.steps", "run.minutes", "run.updates", "run.threads")
"""Keys that a resumed run may be given anew."""
_OF_TRAINER = ("max_epochs", "early_stoppings", "early_stopping_mode", "log_file", "log_steps", "log_epochs")
"""The same in the section `trainer` of methods that have one."""


def load_run_config(
    config: Mapping[str, Any] | str | Path, overrides: Sequence[str] = (), source: str = "mapping"
) -> RunConfiguration:
    """The configuration of a run, of the class that its `method` names (`td3` if it names none).

    Args:
        config: Nested mappings, or the path of a YAML file.
        overrides: `key=value` each; nested keys with dots.
        source: What errors call a mapping.

    Raises:
        ConfigError: The file can't be read, or a key or value is wrong.
    """
    if not isinstance(config, Mapping):
        source = str(config)
        config = read_mapping(config)
    method = config.get("method", "td3")
    place = source
    for override in overrides:
        key, _, value = override.partition("=")
        if key.strip() == "method":
            method, place = value.strip(), f"override `{override}`"
    if not isinstance(method, str) or method not in _METHODS:
        near = difflib.get_close_matches(str(method), _METHODS, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise ConfigError(f"{place}: `method` must be one of {', '.join(_METHODS)}, got {method!r}{hint}")
    if issubclass(_METHODS[method], GradientConfig):
        refuse_moved(config, overrides, source)
    return from_dict(_METHODS[method], config, overrides, source)


def train(config: RunConfiguration | Mapping[str, Any] | str | Path, verbose: bool = True) -> TrainResult:
    """Train an agent.

    Args:
        config: A configuration, nested mappings, or the path of a YAML file; see `TrainConfig`, `CloningConfig` and
            `ConstraintsConfig` for the keys.
        verbose: Whether to show a progress bar and evaluations on standard error.

    Raises:
        ConfigError: A key or value is wrong, or the run folder is not empty.
        StructureError: A crystal can't be used.
        CalculatorError: The calculator is unknown, fails, or does not know an element.

    Examples:
        ::

            result = relaxrl.train({"structures": "metals:train", "run": {"minutes": 5, "dir": "runs/mine"}})
            agent = relaxrl.load_agent(result.folder)
    """
    if not isinstance(config, RunConfiguration):
        config = load_run_config(config)
    if isinstance(config, GradientConfig) and config.trainer.resume:
        return _continued(config, verbose)
    folder = RunFolder.create(config.run.dir, config.run.seed)
    resolved = from_dict(type(config), to_dict(config), [f"run.dir={folder.path}"])
    trainer = _trainer(resolved, folder, verbose)
    # Only now: what is refused because of its crystals leaves an empty folder, which the corrected run can use.
    folder.write_versions()
    dump_config(resolved, folder.config)
    return trainer.run()


def resume(folder: str | Path, overrides: tuple[str, ...] = (), verbose: bool = True) -> TrainResult:
    """Continue a run from its last checkpoint; on a CPU the numbers are those of a run that was never interrupted.

    Args:
        folder: The run folder.
        overrides: `run.steps=`, `run.minutes=` or `run.updates=` to go on for longer; nothing else may change.
        verbose: Whether to show a progress bar and evaluations on standard error.

    Raises:
        CheckpointError: The folder is no run folder, or its checkpoint is damaged.
        ConfigError: An override would change the run.
    """
    for override in overrides:
        if not _changeable(override.partition("=")[0].strip()):
            free = ", ".join((*_CHANGEABLE, *(f"trainer.{key}" for key in _OF_TRAINER)))
            raise ConfigError(
                f"override `{override}`: a resumed run keeps its configuration; only {free} may be changed. Start a "
                "new run for anything else"
            )
    existing = RunFolder.existing(folder)
    config = load_run_config(existing.config, overrides)
    trainer = _trainer(config, existing, verbose)
    trainer.resume()
    if overrides:
        dump_config(config, existing.config)
    return trainer.run()


def _continued(config: GradientConfig, verbose: bool) -> TrainResult:
    """The run that `trainer.resume` asks for: the one in `run.dir`, which must be of this configuration."""
    folder = config.run.dir.replace("{seed}", str(config.run.seed))
    given = _flat(to_dict(config))
    stored = _flat(to_dict(load_run_config(RunFolder.existing(folder).config)))
    overrides = []
    for key, value in given.items():
        if key in ("run.dir", "trainer.resume") or stored.get(key) == value:
            continue
        if not _changeable(key):
            raise ConfigError(
                f"`{key}` is {value!r}, but the run in {folder} was started with {stored.get(key)!r}; a resumed run "
                "keeps its configuration. Start a new one for anything else"
            )
        overrides.append(f"{key}={json.dumps(value)}")
    return resume(folder, tuple(overrides), verbose)


def _changeable(key: str) -> bool:
    """Whether a resumed run may be given this key anew; keys below early stopping's count as that."""
    return key in _CHANGEABLE or any(f"{key}.".startswith(f"trainer.{name}.") for name in _OF_TRAINER)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return flat


def _trainer(
    config: RunConfiguration, folder: RunFolder, verbose: bool
) -> Trainer | Cloner | ConstraintTrainer | SurrogateTrainer:
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    if isinstance(config, CloningConfig):
        return Cloner(config, folder, TrainingProgress("cloning", verbose))
    if isinstance(config, ConstraintsConfig):
        return ConstraintTrainer(config, folder, TrainingProgress("constraints", verbose))
    if isinstance(config, SurrogateConfig):
        return SurrogateTrainer(config, folder, TrainingProgress("surrogate", verbose))
    return Trainer(config, folder, TrainingProgress("training", verbose))
