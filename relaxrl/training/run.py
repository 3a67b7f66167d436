"""Start and resume runs, whatever the method."""

from __future__ import annotations

import difflib
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

    Example:
        ::

            result = relaxrl.train({"structures": "metals:train", "run": {"minutes": 5, "dir": "runs/mine"}})
            agent = relaxrl.load_agent(result.folder)
    """
    if not isinstance(config, RunConfiguration):
        config = load_run_config(config)
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
        if override.partition("=")[0].strip() not in _CHANGEABLE:
            raise ConfigError(
                f"override `{override}`: a resumed run keeps its configuration; only {', '.join(_CHANGEABLE)} may be "
                "changed. Start a new run for anything else"
            )
    existing = RunFolder.existing(folder)
    config = load_run_config(existing.config, overrides)
    trainer = _trainer(config, existing, verbose)
    trainer.resume()
    if overrides:
        dump_config(config, existing.config)
    return trainer.run()


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
