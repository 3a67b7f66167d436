"""Pretraining: the trunk as a potential, on labelled structures, before it becomes part of a policy."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relaxrl.checkpoint import load_checkpoint
from relaxrl.config import dump_config, from_dict, load_config, to_dict
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import read_metrics
from relaxrl.neighbors import with_edges
from relaxrl.nn import TrunkEnergyModel, build_trunk_energy, save_pretrained
from relaxrl.nn.pretrained import BEST
from relaxrl.potentials import parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures import (
    Crystal,
    LabelledStructure,
    displaced,
    label,
    read_labelled,
    read_structures,
    split_by_parent,
)
from relaxrl.training.beginning import begin_with
from relaxrl.training.folder import RunFolder
from relaxrl.training.pretraining_config import PretrainConfig
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised import Batches, SupervisedResult, SupervisedTrainer, TrainerConfig, load_parameters
from relaxrl.training.supervised.parameters import KIND
from relaxrl.training.supervised.plots import plot_losses
from relaxrl.training.supervised.trainer import resume_source
from relaxrl.typing import FloatArray

_CHUNK = 32
"""Structures per evaluation of the model."""
_FREE = ("trainer", "device", "threads")
"""Keys that a resumed run may be given anew; the trainer has rules of its own."""


@dataclass(frozen=True)
class PretrainResult:
    """What pretraining led to.

    Attributes:
        folder: The run folder.
        model: Folder of the best potential; None if training ended before its first epoch did.
        training: What the trainer says.
        best: Validation errors of the exported potential: `validation/energy_mae` (eV per atom),
            `validation/forces_mae` (eV/Å), the same as `rmse`; and the `validation/loss` of its epoch.
        structures: Number of structures trained and validated on.
    """

    folder: Path
    model: Path | None
    training: SupervisedResult
    best: dict[str, float]
    structures: tuple[int, int]


def load_pretrain_config(path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
    """The configuration in a YAML file, with `key=value` overrides. Raises `ConfigError`."""
    return load_config(PretrainConfig, path, overrides)


def pretrain(config: PretrainConfig | Mapping[str, Any] | str | Path, verbose: bool = True) -> PretrainResult:
    """Train a trunk on energies and forces.

    Args:
        config: A configuration, nested mappings, or the path of a YAML file; see `PretrainConfig`.
        verbose: Whether to show progress on standard error.

    Raises:
        ConfigError: A key or value is wrong, or the folder holds another run.
        StructureError: A structure can't be used, or has no finite labels; names it.
        CalculatorError: The calculator is unknown, or fails for a structure.
        CheckpointError: A checkpoint can't be resumed.
    """
    if not isinstance(config, PretrainConfig):
        config = (
            from_dict(PretrainConfig, config) if isinstance(config, Mapping) else load_config(PretrainConfig, config)
        )
    folder = Path(config.trainer.save_dir)
    if config.trainer.resume:
        _check_same(config, folder)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seeded = _seeded(config)
    generators = Generators(seeded.trainer.seed or 0)
    train, validation = _data(seeded, generators)
    model = build_trunk_energy(seeded.model, generators.torch("model"))
    begun = _begin(seeded.trainer, model, train)
    make = partial(collate, cutoff=model.cutoff)
    trainer = SupervisedTrainer(
        begun,
        model,
        partial(energy_and_forces, device=seeded.device),
        Batches(train, make, seeded.batch_size),
        Batches(validation, make, seeded.batch_size),
        device=seeded.device,
        progress=TrainingProgress("pretraining", verbose),
    )
    RunFolder(folder).write_versions()
    fresh = dataclasses.replace(seeded, trainer=dataclasses.replace(seeded.trainer, resume=False))
    dump_config(fresh, folder / "config.yaml")
    result = trainer.run()
    best, exported = _export(seeded, result, trainer, train, validation)
    return PretrainResult(folder, exported, result, best, (len(train), len(validation)))


def resume_pretraining(folder: str | Path, overrides: Sequence[str] = (), verbose: bool = True) -> PretrainResult:
    """Continue the run in a folder from its last checkpoint.

    Args:
        folder: The run folder.
        overrides: `key=value`; of what may change, such as `trainer.early_stoppings`.
        verbose: Whether to show progress on standard error.

    Raises:
        CheckpointError: The folder is no run folder, or its checkpoint is damaged.
        ConfigError: An override would change the run.
    """
    path = RunFolder.existing(folder).config
    own = [f"trainer.save_dir={folder}", "trainer.resume=true"]
    return pretrain(load_pretrain_config(path, [*overrides, *own]), verbose)


def energy_and_forces(
    model: nn.Module, batch: tuple[AtomGraph, Tensor, Tensor], device: str = "cpu"
) -> dict[str, tuple[Tensor, Tensor]]:
    """Energies per atom (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, of model and labels."""
    assert isinstance(model, TrunkEnergyModel)
    graph, energy, forces = batch
    graph = graph.to(device)
    sizes = graph.atoms_per_graph
    predicted, pulls = model.energies_and_forces(graph)
    return {"energy": (predicted / sizes, energy.to(device) / sizes), "forces": (pulls, forces.to(device))}


def collate(structures: list[LabelledStructure], cutoff: float) -> tuple[AtomGraph, Tensor, Tensor]:
    """Structures as a batch with edges, their energies and their forces."""
    graph = with_edges(graph_from_atoms([each.crystal.atoms for each in structures]), cutoff)
    energies = torch.tensor([each.energy for each in structures], dtype=torch.float64)
    return graph, energies, torch.from_numpy(np.concatenate([each.forces for each in structures]))


def _begin(config: TrainerConfig, model: TrunkEnergyModel, train: Sequence[LabelledStructure]) -> TrainerConfig:
    """Calibrate a model by its training data, after the parameters that it is to begin with have been loaded.

    A potential that was trained on other labels has other energies of the elements: those are fitted anew.
    """
    numbers = [each.crystal.atoms.numbers for each in train]
    energies = np.array([each.energy for each in train])
    if config.resume or config.ckpt_file is None:
        model.calibrate(numbers, energies, [each.forces for each in train])
        return config
    begin_with(model, config.ckpt_file)
    fit_reference(model, train)
    return dataclasses.replace(config, ckpt_file=None)


def fit_reference(model: TrunkEnergyModel, structures: Sequence[LabelledStructure]) -> None:
    """Reference energies by what the network leaves of the energies of some structures; forces don't change."""
    model.get_buffer("reference").zero_()
    model.fit_reference([each.crystal.atoms.numbers for each in structures], -_energy_errors(model, structures))


def _energy_errors(model: TrunkEnergyModel, structures: Sequence[LabelledStructure]) -> FloatArray:
    """Energies of the model less the labels, (n_structures,), eV."""
    errors = []
    for first in range(0, len(structures), _CHUNK):
        part = structures[first : first + _CHUNK]
        energies = model.evaluate(graph_from_atoms([each.crystal.atoms for each in part])).energy
        errors.append(energies.cpu().numpy() - np.array([each.energy for each in part]))
    return np.concatenate(errors)


def _data(config: PretrainConfig, generators: Generators) -> tuple[list[LabelledStructure], list[LabelledStructure]]:
    """Labelled structures for training and for validation; they share no parent."""
    train = _labelled(config, config.structures, generators.numpy("displacements"))
    if config.validation.structures is not None:
        return train, _labelled(config, config.validation.structures, generators.numpy("validation"))
    fraction = config.validation.fraction
    crystals = [each.crystal for each in train]
    parts = split_by_parent(crystals, {"train": 1 - fraction, "validation": fraction}, generators.numpy("split"))
    chosen = {crystal.id for crystal in parts["validation"]}
    if not parts["train"] or not chosen:
        raise ConfigError(
            f"can't split {len({crystal.parent for crystal in crystals})} crystals into a training and a validation "
            "set; give more, or name a validation set in `validation.structures`"
        )
    kept = [each for each in train if each.crystal.id not in chosen]
    return kept, [each for each in train if each.crystal.id in chosen]


def _labelled(
    config: PretrainConfig, structures: Sequence[str] | str, generator: np.random.Generator
) -> list[LabelledStructure]:
    if config.labels is None:
        return read_labelled(structures, config.energy_key, config.forces_key, config.kind, config.parents)
    spec = parse_calculator(config.labels)
    crystals: list[Crystal] = read_structures(structures, config.kind, config.parents)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
    return label(displaced(crystals, config.rattle, config.copies, generator), spec.potential())


def _export(
    config: PretrainConfig,
    result: SupervisedResult,
    trainer: SupervisedTrainer[tuple[AtomGraph, Tensor, Tensor]],
    train: Sequence[LabelledStructure],
    validation: Sequence[LabelledStructure],
) -> tuple[dict[str, float], Path | None]:
    """Write the best potential and the loss curve; its validation errors, and where it is.

    Reference energies are fitted anew: forces, which weigh most, say nothing of them, and they drift in training.
    """
    if result.best_file is None:
        return {}, None
    rows = read_metrics(trainer.metrics_file)
    plot_losses(trainer.metrics_file, trainer.folder / "plots" / "loss.png")
    row = rows["epoch"].index(result.best_epoch)
    best = {name: values[row] for name, values in rows.items() if name.startswith("validation/")}
    model = build_trunk_energy(config.model)
    load_parameters(model, result.best_file)
    fit_reference(model, train)
    sizes = np.array([len(each.crystal.atoms) for each in validation])
    errors = _energy_errors(model, validation) / sizes
    best["validation/energy_mae"] = float(np.abs(errors).mean())
    best["validation/energy_rmse"] = float(np.sqrt(np.square(errors).mean()))
    metadata = {
        "structures": config.structures,
        "labels": config.labels,
        "seed": config.trainer.seed,
        "epoch": result.best_epoch,
        "validation": best,
    }
    elements = {int(number) for each in train for number in each.crystal.atoms.numbers}
    folder = trainer.folder / BEST
    save_pretrained(folder, model, elements, metadata)
    return best, folder


def _seeded(config: PretrainConfig) -> PretrainConfig:
    """With the seed that null stands for: a new one, or that of the run which goes on."""
    trainer = config.trainer
    if trainer.seed is not None:
        return config
    seed = secrets.randbits(32)
    if trainer.resume:
        seed = load_checkpoint(resume_source(trainer), KIND)["generators"]["seed"]
    return dataclasses.replace(config, trainer=dataclasses.replace(trainer, seed=seed))


def _check_same(config: PretrainConfig, folder: Path) -> None:
    """`ConfigError` if a resumed run would go on with other data or another model."""
    path = folder / "config.yaml"
    if not path.exists():
        return
    before, now = to_dict(load_config(PretrainConfig, path)), to_dict(config)
    for key, value in now.items():
        if key not in _FREE and before[key] != value:
            raise ConfigError(
                f"`{key}` is {value!r}, but the run in {folder} was started with {before[key]!r}; a resumed run keeps "
                "its data and its model. Start a new one for anything else"
            )
