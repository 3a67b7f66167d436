"""Cloning of the way to the minimum, on a handful of cells; and the choice between the methods of training."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import relaxrl.training.run as runs
from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_model
from relaxrl.errors import ConfigError, StructureError
from relaxrl.metrics import read_metrics
from relaxrl.nn import DirectActorConfig, HessianActorConfig
from relaxrl.training import Cloner, CloningConfig, RunFolder, TrainConfig, load_run_config, resume, train

TRUNK = {"cutoff": 4.0, "channels": 4, "message_channels": 4}
METALS = {"method": "cloning", "structures": "metals:train"}


@pytest.fixture(scope="module")
def cells() -> list[Atoms]:
    return [bulk(symbol, cubic=True).repeat((1, 1, n)) for n in (1, 2) for symbol in ("Cu", "Ag", "Au")]


@pytest.fixture(scope="module")
def minima(cells: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    ase.io.write(path, cells)  # nothing in the file says that they are minima
    return str(path)


def configuration(minima: str, folder: Path, actor: dict[str, Any] | None = None, **run: Any) -> dict[str, Any]:
    return {
        "method": "cloning",
        "structures": minima,
        "kind": "minimum",
        "actor": actor or {"kind": "hessian", "trunk": TRUNK, "head_channels": 8, "vector_channels": 4},
        "batch_size": 6,
        "updates_per_epoch": 5,
        "evaluation": {"structures": minima, "count": 3, "steps": 30, "every": 24},
        "run": {"dir": str(folder), "updates": 16, "log_every": 12} | run,
    }


def columns(folder: Path) -> dict[str, list[float]]:
    return {name: values for name, values in read_metrics(folder / "metrics.csv").items() if "time/" not in name}


def assert_same_run(first: Path, second: Path) -> None:
    expected, got = columns(first), columns(second)
    assert list(expected) == list(got)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    for agent in ("best", "last"):
        parameters, others = (load_model(folder / agent)[0] for folder in (first, second))
        assert all(torch.equal(others[name], tensor) for name, tensor in parameters.items())


@pytest.mark.parametrize(
    "actor",
    [
        {"kind": "hessian", "trunk": TRUNK, "head_channels": 8, "vector_channels": 4},
        {"kind": "direct", "trunk": TRUNK | {"layers": 2}, "head_channels": 8},
    ],
    ids=["hessian", "direct"],
)
def test_the_loss_falls_and_both_agents_can_be_used(minima: str, tmp_path: Path, actor: dict[str, Any]):
    settings = configuration(minima, tmp_path / "run", actor, updates=40, log_every=60)
    settings |= {"trainer": {"max_lr": 0.01}, "evaluation": settings["evaluation"] | {"every": 240}}
    result = train(settings, verbose=False)
    logged = columns(result.folder)
    losses = np.array(logged["train/cloning_loss"])
    losses = losses[np.isfinite(losses)]
    assert losses[-1] < losses[0] - 0.2  # logarithms: by more than 20 % in the square
    assert (result.updates, result.t_total) == (40, 240)
    assert result.best == np.nanmin(logged["eval/ratio_to_bfgs"])
    assert result.metrics["eval/converged"] == 1.0
    for folder in (result.folder, result.folder / "best", result.folder / "last"):
        agent = load_agent(str(folder))
        assert agent.metadata["method"] == "cloning"
        assert agent.actor.config.kind == actor["kind"]


def test_more_steps_than_one_are_unrolled_from_the_given_share_on(
    minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = load_run_config(configuration(minima, tmp_path / "run") | {"unroll": 3, "unroll_from": 0.5})
    assert isinstance(config, CloningConfig)
    cloner = Cloner(config, RunFolder.create(str(tmp_path / "run"), 0))
    calls = []
    evaluate = cloner.potential.evaluate
    monkeypatch.setattr(cloner.potential, "evaluate", lambda graph: calls.append(graph) or evaluate(graph))
    cloner.update()
    assert len(calls) == 1
    cloner.engine.step = 8
    calls.clear()
    cloner.update()
    assert len(calls) == 3
    fmax = [evaluate(graph).forces.norm(dim=-1).max() for graph in calls]
    assert fmax[2] < fmax[1] < fmax[0]  # each begins where the one before has led


def test_the_energy_that_is_left_counts_from_the_given_share_on(minima: str, tmp_path: Path):
    settings = configuration(minima, tmp_path / "run") | {"unroll": 2, "energy_weight": 0.5, "energy_from": 0.5}
    config = load_run_config(settings)
    assert isinstance(config, CloningConfig)
    cloner = Cloner(config, RunFolder.create(str(tmp_path / "run"), 0))
    assert "train/energy_loss" not in cloner.update()
    cloner.engine.step = 8
    metrics = cloner.update()
    # Springs of the right order of magnitude leave a part of the energy; all of it would be log(1) = 0.
    assert -9.3 < metrics["train/energy_loss"] < -0.1


def test_the_agent_that_is_judged_has_averaged_parameters(minima: str, tmp_path: Path):
    config = load_run_config(configuration(minima, tmp_path / "run") | {"trainer": {"ema_decay": 0.9}})
    assert isinstance(config, CloningConfig)
    cloner = Cloner(config, RunFolder.create(str(tmp_path / "run"), 0))
    name, expected = "head.last.bias", torch.zeros(0)
    for count in range(4):
        cloner.update()
        new = cloner.module.state_dict()[name].clone()
        decay = min(0.9, (1 + count) / (10 + count))
        expected = new if count == 0 else expected.lerp(new, 1 - decay)
    judged = cloner.current_agent().actor.state_dict()[name]
    np.testing.assert_allclose(judged, expected, rtol=1e-6)
    assert not torch.equal(judged, cloner.module.state_dict()[name])


def test_a_run_in_two_parts_equals_one_in_a_single_part(minima: str, tmp_path: Path):
    train(configuration(minima, tmp_path / "straight", steps=96), verbose=False)
    train(configuration(minima, tmp_path / "parts", steps=48), verbose=False)
    assert resume(tmp_path / "parts", ("run.steps=96",), verbose=False).t_total == 96
    assert_same_run(tmp_path / "straight", tmp_path / "parts")


@pytest.mark.parametrize("at", [0, 11])
def test_a_run_that_died_goes_on_from_its_checkpoint(
    minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
):
    train(configuration(minima, tmp_path / "straight"), verbose=False)
    update = Cloner.update

    def killed(self: Cloner) -> dict[str, float]:
        if self.updates == at:
            raise SystemExit  # no handler of the loop's own catches it
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Cloner, "update", killed)
        with pytest.raises(SystemExit):
            train(configuration(minima, tmp_path / "killed"), verbose=False)
    resume(tmp_path / "killed", verbose=False)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_a_finished_run_that_is_resumed_adds_nothing(minima: str, tmp_path: Path):
    first = train(configuration(minima, tmp_path / "run", updates=2), verbose=False)
    rows = columns(tmp_path / "run")["t_total"]
    assert resume(tmp_path / "run", verbose=False).metrics == first.metrics
    assert columns(tmp_path / "run")["t_total"] == rows


def test_crystals_that_are_not_known_to_be_minima_are_refused(minima: str, tmp_path: Path):
    settings = configuration(minima, tmp_path / "run") | {"kind": None}
    with pytest.raises(ConfigError, match=r"`cloning` needs the minimum .*cells.extxyz#0 and 5 others .*kind=minimum"):
        train(settings, verbose=False)


def test_what_is_called_a_minimum_is_displaced_in_the_development_set_too(minima: str, tmp_path: Path):
    config = load_run_config(configuration(minima, tmp_path / "run"))
    assert isinstance(config, CloningConfig)
    cloner = Cloner(config, RunFolder.create(str(tmp_path / "run"), 0))
    assert all(np.ptp(start.atoms.get_all_distances(mic=True)[0, 1:4]) > 1e-3 for start in cloner.starts)


def test_the_method_chooses_the_configuration(tmp_path: Path):
    assert isinstance(load_run_config({"structures": "metals:train", "run": {"steps": 1}}), TrainConfig)
    assert isinstance(load_run_config(METALS), CloningConfig)
    assert isinstance(load_run_config({"structures": "metals:train"}, ["method=cloning"]), CloningConfig)
    path = tmp_path / "run.yaml"
    path.write_text("method: cloning\nstructures: metals:train\n")
    assert isinstance(load_run_config(path), CloningConfig)
    folder = RunFolder.create(str(tmp_path / "run"), 0)
    assert isinstance(runs._trainer(load_run_config(METALS | {"evaluation": {"count": 1}}), folder, False), Cloner)


def test_an_unknown_method_is_named():
    with pytest.raises(
        ConfigError, match=r"`method` must be one of td3, cloning, .*, got 'clonning'; did you mean `cloning`"
    ):
        load_run_config(METALS | {"method": "clonning"})
    with pytest.raises(ConfigError, match=r"override `method=sac`: `method` must be one of td3, .*, got 'sac'"):
        load_run_config(METALS, ["method=sac"])
    with pytest.raises(ConfigError, match=r"must be one of td3, .*, got \['td3'\]"):
        load_run_config(METALS | {"method": ["td3"]})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ratle=[0.1, 0.2]", "unknown key `ratle`; did you mean `rattle`?"),
        ("evaluation.evry=1", "unknown key `evaluation.evry`; did you mean `evaluation.every`?"),
        ("actor.stifness=3", "unknown key `actor.stifness`; did you mean `actor.stiffness`?"),
        ("actor.trunk.chanels=3", "unknown key `actor.trunk.chanels`; did you mean `actor.trunk.channels`?"),
        (
            "actor.kind=dirct",
            "`actor.kind` must be one of 'direct', 'hessian', got 'dirct' (str); did you mean `direct`?",
        ),
        ("actor={kind: direct, floor: 1}", "unknown key `actor.floor`; the keys of `actor` are `kind`, `trunk`"),
        ("actor=3", "`actor` must be a mapping of keys to values, got 3 (int)"),
        ("actor.floor=-1", "`floor` must be positive, got -1.0"),
        ("actor.env_input_dim=2", "`actor.env_input_dim` must be 0, got 2"),
        ("kind=start", "`kind` must be 'minimum', got 'start'"),
        ("rattle=[0.3, 0.1]", "`rattle` must be two positive lengths in Å, the lower one first"),
        ("batch_size=0", "`batch_size` must be at least 1, got 0"),
        ("unroll_from=2", "`unroll_from` must be between 0 and 1, got 2.0"),
        ("run.updates=null", "one of `steps`, `minutes` and `updates` must say when the run ends"),
    ],
)
def test_mistakes_are_named(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_run_config(METALS, [override], "run.yaml")
    assert message in str(caught.value)
    assert "override" in str(caught.value)


def test_one_key_of_a_part_leaves_the_other_defaults_of_cloning_alone():
    overrides = ["evaluation.every=100", "run.seed=3", "actor.stiffness=3", "actor.trunk.channels=8"]
    config = load_run_config(METALS, overrides)
    assert isinstance(config, CloningConfig)
    assert (config.evaluation.every, config.evaluation.count) == (100, None)
    assert (config.run.seed, config.run.updates) == (3, CloningConfig(structures="x").run.updates)
    assert isinstance(config.actor, HessianActorConfig)  # both kinds of actor have these keys
    assert (config.actor.stiffness, config.actor.trunk.channels, config.actor.trunk.forces) == (3, 8, False)
    assert load_run_config({"structures": "x"}, ["actor.stiffness=3"]).actor == DirectActorConfig(stiffness=3)
    direct = load_run_config(METALS, ["actor={kind: direct, stiffness: 3}"])
    assert direct.actor == DirectActorConfig(stiffness=3)


def test_a_run_that_is_refused_leaves_its_folder_to_the_corrected_one(tmp_path):
    missing = {"method": "cloning", "structures": str(tmp_path / "none.xyz"), "run": {"dir": str(tmp_path / "run")}}
    for _ in range(2):  # the second time, too, it is the file that is missed, not an empty folder
        with pytest.raises(StructureError, match=r"none\.xyz"):
            train(missing, verbose=False)
    assert not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=1e-3", "the key `learning_rate` is now `trainer.max_lr`"),
        ("warm_up=10", "the key `warm_up` is now `trainer.warmup_epochs`, in epochs of `updates_per_epoch` updates"),
        ("grad_clip=1", "the key `grad_clip` is now `trainer.grad_clip`"),
        ("ema_decay=null", "the key `ema_decay` is now `trainer.ema_decay`"),
        ("trainer.seed=3", "the key `trainer.seed` has no meaning here: all randomness comes from `run.seed`"),
        ("trainer.lossfn=mae", "the key `trainer.lossfn` has no meaning here: the method has its own loss"),
        ("trainer.max_rl=1", "unknown key `trainer.max_rl`; did you mean `trainer.max_lr`?"),
        ("trainer.optimizer=Adm", "expected one of Adam, AdamW, NAdam, RAdam, got 'Adm'; did you mean `Adam`?"),
        (
            "trainer.early_stoppings={displacemnt: {}}",
            "unknown target `trainer.early_stoppings.displacemnt`; did you mean `trainer.early_stoppings.displacement",
        ),
    ],
)
def test_keys_of_the_trainer_and_keys_that_moved_there(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_run_config(METALS, [override], "run.yaml")
    assert message in str(caught.value)
    key, _, value = override.partition("=")
    if "." not in key:
        with pytest.raises(ConfigError, match=rf"run\.yaml: the key `{key}` is now"):
            load_run_config(METALS | {key: value}, source="run.yaml")


def test_cloning_over_crystals_of_several_calculators(cells: list[Atoms], tmp_path: Path) -> None:
    names = ["emt", "ase.calculators.morse:MorsePotential,r0=2.9,epsilon=0.4,rho0=5.0"]
    for k, atoms in enumerate(cells):
        atoms = atoms.copy()
        atoms.info["relaxrl_calculator"] = names[k % 2]
        ase.io.write(tmp_path / "mixed.extxyz", atoms, append=k > 0)
    values = configuration(str(tmp_path / "mixed.extxyz"), tmp_path / "run", None, updates=3)
    result = train(values | {"calculator": "stored"})
    assert result.updates == 3
    ratios = columns(tmp_path / "run")["eval/ratio_to_bfgs"]
    assert np.isfinite(ratios[-1])
