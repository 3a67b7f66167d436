"""Pretraining through its command: labels, curve, resuming, export."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from relaxrl.cli.main import main
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import read_metrics
from relaxrl.nn import (
    HessianActorConfig,
    TrunkEnergyConfig,
    build_actor,
    build_trunk_energy,
    load_pretrained,
    load_trunk,
)
from relaxrl.potentials import parse_calculator
from relaxrl.structures import Crystal, label, read_labelled
from relaxrl.training import PretrainConfig, load_pretrain_config, pretrain, resume_pretraining
from relaxrl.training.pretraining import collate, energy_and_forces, fit_reference

MODEL = {"trunk": {"cutoff": 4.0, "channels": 8, "message_channels": 4}, "head_channels": 8}
PATIENCE = 120.0
"""s; for a process that has to load torch on a busy machine."""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Displaced copper and gold cells with labels of EMT."""
    path = tmp_path_factory.mktemp("labelled") / "emt.extxyz"
    images = []
    for seed in range(12):
        atoms = bulk(("Cu", "Au")[seed % 2], cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        images.append(atoms)
    ase.io.write(path, images)
    return str(path)


def configuration(structures: str, folder: Path, **trainer: Any) -> dict[str, Any]:
    settings = {"save_dir": str(folder), "max_epochs": 3, "warmup_epochs": 1, "max_lr": 0.01, "ema_decay": 0.8}
    return {
        "structures": structures,
        "model": MODEL,
        "batch_size": 4,
        "validation": {"fraction": 0.2},
        "trainer": settings | trainer,
    }


def test_forces_are_learned_and_everything_can_be_used(labelled: str, tmp_path: Path):
    settings = configuration(labelled, tmp_path / "run", max_epochs=25)
    result = pretrain(settings, verbose=False)
    rows = read_metrics(tmp_path / "run" / "pretrain_metrics.csv")
    assert rows["train/forces_mae"][-1] < 0.3 * rows["train/forces_mae"][0]
    assert result.best["validation/loss"] == min(rows["validation/loss"])
    assert sum(result.structures) == 12
    assert (tmp_path / "run" / "plots" / "loss.png").stat().st_size > 1000
    assert (tmp_path / "run" / "versions.json").exists()
    atoms = ase.io.read(labelled, "0")
    potential = load_pretrained(tmp_path / "run", torch.float64)
    forces = potential.evaluate(graph_from_atoms(atoms)).forces
    assert np.abs(forces.numpy() - atoms.get_forces()).mean() < 0.3 * np.abs(atoms.get_forces()).mean()
    trunk = load_pretrain_config(tmp_path / "run" / "config.yaml").model.trunk
    actor = build_actor(HessianActorConfig(trunk=trunk))
    load_trunk(actor, tmp_path / "run")
    assert torch.equal(actor.trunk.scalars[0].weight, load_pretrained(tmp_path / "run").trunk.scalars[0].weight)


def test_reference_energies_that_drifted_are_fitted_anew(labelled: str):
    model = build_trunk_energy(TrunkEnergyConfig(), torch.Generator().manual_seed(0))
    structures = read_labelled(labelled)
    graph = graph_from_atoms([each.crystal.atoms for each in structures])
    before = model.evaluate(graph).forces
    model.get_buffer("reference").fill_(7.0)
    fit_reference(model, structures)
    after = model.evaluate(graph)
    assert torch.equal(after.forces, before)
    errors = after.energy.numpy() - [each.energy for each in structures]
    assert np.abs(errors).max() > 0.01
    np.testing.assert_allclose([errors[0::2].mean(), errors[1::2].mean()], 0.0, atol=1e-9)  # copper, gold


def test_targets_are_energies_per_atom_and_forces_in_ase_s_units(labelled: str, tmp_path: Path):
    pretrain(configuration(labelled, tmp_path / "run", max_epochs=1), verbose=False)
    model = load_pretrained(tmp_path / "run")
    structures = read_labelled(labelled)
    structures[1] = label(
        [Crystal("two", bulk("Cu", cubic=True).repeat((2, 1, 1)), "two")], parse_calculator("emt").potential()
    )[0]
    terms = energy_and_forces(model, collate(structures[:2], model.cutoff))
    evaluated = [model.evaluate(graph_from_atoms(each.crystal.atoms)) for each in structures[:2]]
    energies, labels = terms["energy"]
    np.testing.assert_allclose(labels, [structures[0].energy / 4, structures[1].energy / 8], rtol=1e-12)
    expected = [float(evaluated[0].energy) / 4, float(evaluated[1].energy) / 8]
    np.testing.assert_allclose(energies.detach(), expected, rtol=1e-5)
    forces, labels = terms["forces"]
    np.testing.assert_allclose(labels, np.concatenate([each.forces for each in structures[:2]]), rtol=1e-12)
    np.testing.assert_allclose(forces.detach(), torch.cat([each.forces for each in evaluated]), atol=1e-5)
    assert PretrainConfig(structures="x").trainer.losses_weight == {"energy": 1.0, "forces": 1000.0}


def test_a_run_in_two_parts_equals_one_in_a_single_part(labelled: str, tmp_path: Path):
    plateau = {"lr_scheduler": "plateau"}
    pretrain(configuration(labelled, tmp_path / "straight", **plateau), verbose=False)
    pretrain(configuration(labelled, tmp_path / "parts", **(plateau | {"max_epochs": 1})), verbose=False)
    resume_pretraining(tmp_path / "parts", ["trainer.max_epochs=3"], verbose=False)
    first, second = (tmp_path / name for name in ("straight", "parts"))
    for name in ("pretrain_metrics.csv", "best/model.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.fixture(scope="module")
def alone(labelled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that nobody interrupted."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    pretrain(configuration(labelled, folder, best_k=2, log_steps=1), verbose=False)
    return folder


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("batch", [0, 1])
def test_killed_in_any_epoch_and_resumed_the_curve_is_the_same(
    labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Path, epoch: int, batch: int
):
    calls = iter(range(100))

    def dying(model: Any, terms: Any, device: str) -> Any:
        if model.training and next(calls) == 3 * epoch + batch:  # three batches per epoch
            raise SystemExit
        return energy_and_forces(model, terms, device)

    with monkeypatch.context() as patch:
        patch.setattr("relaxrl.training.pretraining.energy_and_forces", dying)
        with pytest.raises(SystemExit):
            pretrain(configuration(labelled, tmp_path / "run", best_k=2, log_steps=1), verbose=False)
    assert read_metrics(tmp_path / "run" / "pretrain_metrics.csv").get("epoch", [])[-1:] == ([epoch] if epoch else [])
    resume_pretraining(tmp_path / "run", verbose=False)
    for name in ("loss.log", "pretrain_metrics.csv", "best/model.json"):
        assert (tmp_path / "run" / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_resumed_run_keeps_its_data(labelled: str, tmp_path: Path):
    settings = configuration(labelled, tmp_path / "run", max_epochs=1)
    pretrain(settings, verbose=False)
    with pytest.raises(ConfigError, match=r"`batch_size` is 3, but the run in .* was started with 4"):
        resume_pretraining(tmp_path / "run", ["batch_size=3"], verbose=False)


def test_fine_tuning_on_other_labels_moves_references_and_the_named_modules(labelled: str, tmp_path: Path):
    pretrain(configuration(labelled, tmp_path / "first", max_epochs=1), verbose=False)
    images = []
    for each in read_labelled(labelled):
        atoms = each.crystal.atoms
        gold = int((atoms.numbers == 79).sum())
        energy = each.energy - 3.0 * len(atoms) - 2.0 * gold  # another zero of energy for each element
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=each.forces)
        images.append(atoms)
    ase.io.write(tmp_path / "shifted.extxyz", images)
    settings = configuration(str(tmp_path / "shifted.extxyz"), tmp_path / "second", max_epochs=1, ema_decay=None)
    settings["trainer"] |= {"ckpt_file": str(tmp_path / "first" / "pretrain_last.pt"), "finetune_modules": ["readout"]}
    pretrain(settings, verbose=False)
    before, after = (load_pretrained(tmp_path / name).state_dict() for name in ("first", "second"))
    shift = after["reference"] - before["reference"]
    np.testing.assert_allclose(shift[[29, 79]], [-3.0, -5.0], atol=0.3)
    moved = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"reference", "readout"}
    # The run's folder stands for its best potential, which an agent's name does not.
    settings["trainer"] |= {"ckpt_file": str(tmp_path / "first")}
    again = pretrain(settings | retold(settings, tmp_path / "again"), verbose=False)
    assert again.model is not None
    settings["trainer"] |= {"ckpt_file": "metals"}
    with pytest.raises(CheckpointError, match=r"`trainer.ckpt_file`: metals: belongs to another architecture"):
        pretrain(settings | retold(settings, tmp_path / "metals"), verbose=False)
    settings["trainer"] |= {"ckpt_file": str(tmp_path / "first")}
    with pytest.raises(CheckpointError, match=r"parameter `trunk.elements.network.0.weight` has the shape \(8, "):
        pretrain(settings | {"model": {"trunk": {"channels": 4}}} | retold(settings, tmp_path / "third"), verbose=False)


def retold(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same trainer in another folder."""
    return {"trainer": settings["trainer"] | {"save_dir": str(folder)}}


def test_labels_of_a_calculator(tmp_path: Path):
    cells = [bulk(symbol, cubic=True) for symbol in ("Cu", "Ag", "Au")]
    ase.io.write(tmp_path / "cells.extxyz", cells)
    settings = configuration(str(tmp_path / "cells.extxyz"), tmp_path / "run", max_epochs=1)
    settings |= {"labels": "emt", "kind": "minimum", "copies": 3, "validation": {"fraction": 0.3}}
    result = pretrain(settings, verbose=False)
    assert result.structures == (6, 3)  # copies of one crystal stay together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": "x"}, "unknown key `structure`; did you mean `structures`?"),
        ({"trainer": {"max_epoch": 2}}, "unknown key `trainer.max_epoch`; did you mean `trainer.max_epochs`?"),
        (
            {"model": {"trunk": {"chanels": 2}}},
            "unknown key `model.trunk.chanels`; did you mean `model.trunk.channels`",
        ),
        (
            {"trainer": {"losses_weight": {"force": 1}}},
            "`trainer.losses_weight.force`; did you mean `trainer.losses_wei",
        ),
        ({"trainer": {"losses_weight": {"forces": 1}}}, "`trainer.losses_weight` has no `energy`; give every target"),
        (
            {"trainer": {"early_stoppings": {"stress": {}}}},
            "target `trainer.early_stoppings.stress`; the targets are en",
        ),
        ({"kind": "minimum"}, "`kind: minimum` needs `labels`, a calculator"),
        ({"labels": "emt", "forces_key": "f"}, "leave out `energy_key` and `forces_key`"),
        ({"rattle": [0.2, 0.1]}, "`rattle` must be two positive lengths in Å, the lower one first"),
        ({"validation": {"fraction": 0}}, "`fraction` must be between 0 and 1, got 0.0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"structures": "x.extxyz"} | changes))
    assert main(["pretrain", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "mine.yaml" in error


def test_one_key_of_the_trainer_leaves_the_other_defaults_alone():
    from relaxrl.config import from_dict

    trainer = from_dict(PretrainConfig, {"structures": "x", "trainer": {"max_epochs": 7}}).trainer
    assert (trainer.max_epochs, trainer.run_name, trainer.losses_weight["forces"]) == (7, "pretrain", 1000.0)


def test_the_command_says_what_came_of_it(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(configuration(labelled, tmp_path / "run", max_epochs=1)))
    assert main(["pretrain", str(path), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"best checkpoint: {tmp_path / 'run' / 'pretrain_0.pt'} (epoch 1)" in said
    assert f"relaxrl.nn:PretrainedCalculator,folder={tmp_path / 'run'}" in said
    assert main(["pretrain", str(path), "--quiet"]) == 2
    assert "continue it with `resume: true`" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(tmp_path / "run"), str(path)]) == 2
    assert main(["pretrain", "batch_size=3"]) == 2


@pytest.mark.slow  # three processes that load torch
def test_kill_9_in_mid_epoch_and_resume_equal_a_run_left_alone(labelled: str, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(configuration(labelled, tmp_path / "alone", max_epochs=40, log_steps=1)))

    def command(*arguments: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-c", "import sys; from relaxrl.cli.main import main; sys.exit(main())", *arguments]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})

    killed = command("pretrain", str(path), f"trainer.save_dir={tmp_path / 'killed'}", "--quiet")
    log = tmp_path / "killed" / "loss.log"
    deadline = time.monotonic() + PATIENCE
    while killed.poll() is None and time.monotonic() < deadline:
        if log.exists() and "epoch 5/40" in log.read_text():
            break
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert "epoch 40/40" not in log.read_text()

    assert command("pretrain", "--resume", str(tmp_path / "killed"), "--quiet").wait(PATIENCE) == 0
    assert command("pretrain", str(path), "--quiet").wait(PATIENCE) == 0
    for name in ("loss.log", "pretrain_metrics.csv", "best/model.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
