"""The energy over actions in training: schedule, negatives, gradients, cloning with it, resumed and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import relaxrl
from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_model
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import read_metrics
from relaxrl.nn import Actor, HessianActorConfig, TrunkConfig, VerifiedActor, build_actor
from relaxrl.potentials import TorchCalculator, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.training import Cloner, CloningConfig, RunFolder, load_run_config, resume, train
from relaxrl.training.action_energy import ActionEnergyTrainer, attenuated
from relaxrl.training.action_energy_config import ActionEnergyTrainingConfig
from relaxrl.training.progressive import progressive_pace

CPU = torch.device("cpu")
TRUNK = {"cutoff": 4.0, "channels": 4, "message_channels": 4}
ACTOR = {"kind": "hessian", "trunk": TRUNK | {"layers": 4}, "head_channels": 8, "vector_channels": 4}
FIGURES = ("loss", "gap", "positive", "negative", "temperature", "saturation", "grad_norm", "lr", "not_finite")


@pytest.mark.parametrize(
    ("step", "rate", "clip"),
    [
        (0, 0.1, 0.3),
        (4_999, 0.1, 0.3),
        (5_000, 0.1, 0.3),
        (7_500, 0.2, 0.35),
        (10_000, 0.3, 0.4),
        (14_999, 0.49996, 0.49998),
        (15_000, 0.5, 0.5),
        (10**6, 0.5, 0.5),
    ],
)
def test_the_pace_rises_between_five_and_fifteen_thousand_steps(step: int, rate: float, clip: float) -> None:
    assert progressive_pace(step) == pytest.approx((rate, clip), abs=1e-9)


def test_the_rise_can_be_put_elsewhere() -> None:
    assert [progressive_pace(step, (10, 20)).rate for step in (9, 15, 20)] == pytest.approx([0.1, 0.3, 0.5])


def moved(atoms: list[Atoms], seed: int = 0) -> tuple[AtomGraph, torch.Tensor]:
    """Displaced crystals with forces, and the way back to their minima without drift."""
    rng = np.random.default_rng(seed)
    shifts = []
    copies = []
    for one in atoms:
        shift = 0.05 * rng.standard_normal((len(one), 3))
        shifts.append(shift - shift.mean(0))
        copies.append(one.copy())
        copies[-1].positions += shifts[-1]
    graph = graph_from_atoms(copies)
    return graph.replace(forces=parse_calculator("emt").potential().evaluate(graph).forces), torch.from_numpy(
        -np.concatenate(shifts)
    )


@pytest.fixture(scope="module")
def cells() -> list[Atoms]:
    return [bulk(symbol, cubic=True).repeat((1, 1, n)) for n in (1, 2) for symbol in ("Cu", "Ag", "Au")]


def energy_of(actor: Actor, **config: Any) -> ActionEnergyTrainer:
    sizes = {"model": {"channels": 4, "head_channels": 8}}
    return ActionEnergyTrainer(
        ActionEnergyTrainingConfig(**(sizes | config)), actor.config.trunk, Generators(0), CPU, ema_decay=0.9
    )


@pytest.fixture
def actor() -> Actor:
    config = HessianActorConfig(
        trunk=TrunkConfig(**(TRUNK | {"layers": 4}), forces=False, history=False), head_channels=8, vector_channels=4
    )
    actor = build_actor(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.05)
    return actor


def test_negatives_by_name_in_their_order(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells)
    inputs, output, _ = actor.proposal(graph)
    expert = expert.float()
    previous = 2.0 * expert
    kinds = ("scaled", "flipped", "previous", "noise")
    trainer = energy_of(actor, negatives=kinds, noise=(0.1, 0.3))
    columns = [action for action, _ in trainer.negatives(actor, inputs, output, expert, previous)]
    for column, factor in zip(columns[:4], (0.3, 1.7, -1.0, 2.0), strict=True):
        torch.testing.assert_close(column, factor * expert)
    for column, sigma in zip(columns[4:], (0.1, 0.3), strict=True):
        assert float((column - expert).std() / expert.std()) == pytest.approx(sigma, rel=0.2)
    assert len(trainer.negatives(actor, inputs, output, expert, None)) == 5  # no step before
    absolute = energy_of(actor, negatives=("noise",), noise=(0.3,), noise_unit="angstrom")
    ((column, _),) = absolute.negatives(actor, inputs, output, expert, None)
    assert float((column - expert).std()) == pytest.approx(0.3, rel=0.1)


def test_the_layer_of_middle_energy_is_the_hard_negative(actor: Actor, cells: list[Atoms]) -> None:
    graph, _ = moved(cells)
    inputs, output, _ = actor.proposal(graph)
    trainer = energy_of(actor, model={"channels": 4, "bounded": False})
    read = actor.layer_displacements(graph)[1:-1].float().detach()
    assert len(read) == 3
    energies = trainer.model(inputs, output, read).detach()
    assert float(energies.std(0).min()) > 0
    taken = trainer.middle_layer(actor, inputs, output)
    assert not taken.requires_grad
    for k in range(graph.n_graphs):
        middle = int(energies[:, k].argsort()[1])
        rows = graph.graph_index == k
        torch.testing.assert_close(taken[rows], read[middle][rows], rtol=1e-4, atol=1e-7)
        assert float((taken[rows] - read[(middle + 1) % 3][rows]).abs().max()) > 1e-6


def test_the_loss_is_that_of_the_square_matrix_where_sizes_are_equal(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells[:3])
    inputs, output, _ = actor.proposal(graph)
    trainer = energy_of(actor, negatives=("swap",), swaps=None)
    loss, figures = trainer.loss(actor, inputs, output, expert, torch.ones(3, dtype=torch.bool))
    mask = torch.ones(3, 4, dtype=torch.bool)
    square = trainer.model.swapped(
        output.node_features.view(3, 4, -1),
        expert.float().view(3, 4, 3),
        mask,
        inputs.forces.view(3, 4, 3),
        output.edges,
    )
    expected = relaxrl.losses.swap_info_nce(square, 0.3)
    assert float(loss.detach()) == pytest.approx(float(expected.loss.detach()), abs=1e-5)
    assert figures["action_energy/gap"] == pytest.approx(expected.gap, abs=1e-5)
    assert figures["action_energy/temperature"] == expected.temperature == 0.15


def test_structures_that_do_not_count_change_nothing(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells)
    inputs, output, _ = actor.proposal(graph)
    trainer = energy_of(actor, negatives=("swap", "flipped"))
    usable = torch.tensor([True, True, False, True, True, False])
    loss, _ = trainer.loss(actor, inputs, output, expert, usable)
    spoiled = expert.clone()
    spoiled[graph.graph_index == 2] = 7.0
    again, _ = trainer.loss(actor, inputs, output, spoiled, usable)
    assert float(again.detach()) == pytest.approx(float(loss.detach()), abs=1e-6)
    counted, _ = trainer.loss(actor, inputs, output, spoiled, torch.ones(6, dtype=torch.bool))
    assert abs(float(counted.detach()) - float(loss.detach())) > 1e-4


def test_the_weight_scales_what_flows_back_into_the_trunk_and_nothing_else(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells)
    usable = torch.ones(6, dtype=torch.bool)
    norms = {}
    for weight in (0.0, 0.5, 1.0):
        trainer = energy_of(actor, weight=weight, negatives=("swap", "layers", "flipped"))
        actor.zero_grad()
        inputs, output, _ = actor.proposal(graph)
        loss, _ = trainer.loss(actor, inputs, output, expert, usable)
        loss.backward()
        trunk = sum(float(p.grad.square().sum()) for p in actor.parameters() if p.grad is not None) ** 0.5
        own = sum(float(p.grad.square().sum()) for p in trainer.model.parameters()) ** 0.5
        norms[weight] = (trunk, own)
    assert norms[0.0][0] == 0.0
    assert norms[0.5][0] == pytest.approx(0.5 * norms[1.0][0], rel=1e-4)
    assert norms[0.0][1] == pytest.approx(norms[1.0][1], rel=1e-4) != 0.0
    output = actor.proposal(graph)[1]
    assert torch.equal(attenuated(output, 0.3).node_features, output.node_features)


def test_the_energy_learns_to_tell_right_from_wrong(actor: Actor, cells: list[Atoms]) -> None:
    trainer = energy_of(actor, weight=0.0, progressive=False, rate=1.0, negatives=("swap", "noise", "flipped"))
    usable = torch.ones(6, dtype=torch.bool)
    gaps = []
    for seed in range(60):
        graph, expert = moved(cells, seed)
        inputs, output, _ = actor.proposal(graph)
        loss, figures = trainer.loss(actor, inputs, output, expert, usable)
        loss.backward()
        figures |= trainer.step(0.01)
        gaps.append(figures["action_energy/gap"])
    assert abs(np.mean(gaps[:5])) < 0.1
    assert np.mean(gaps[-5:]) > 0.4


def test_rate_and_limit_follow_the_schedule_and_the_gradient_is_clipped(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells)
    trainer = energy_of(actor, ramp=(2, 4), negatives=("swap",))
    seen = []
    for _ in range(6):
        inputs, output, _ = actor.proposal(graph)
        loss, _ = trainer.loss(actor, inputs, output, expert, torch.ones(6, dtype=torch.bool))
        (1e4 * loss).backward()
        figures = trainer.step(2e-3)
        assert figures["action_energy/grad_norm"] > 1.0
        seen.append((figures["action_energy/lr"], figures["action_energy/grad_clip"]))
        assert all(p.grad is None for p in trainer.model.parameters())
    paces = [(0.1, 0.3), (0.1, 0.3), (0.1, 0.3), (0.3, 0.4), (0.5, 0.5), (0.5, 0.5)]
    assert seen == [pytest.approx((2e-3 * 0.1 * rate, clip)) for rate, clip in paces]


def test_what_is_not_finite_is_left_out_and_reported(actor: Actor, cells: list[Atoms]) -> None:
    graph, expert = moved(cells)
    trainer = energy_of(actor, negatives=("swap",))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    inputs, output, _ = actor.proposal(graph)
    loss, figures = trainer.loss(actor, inputs, output, expert * torch.inf, torch.ones(6, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert figures == {}
    assert trainer.step(1.0)["action_energy/not_finite"] == 1.0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    loss, _ = trainer.loss(actor, inputs, output, expert, torch.ones(6, dtype=torch.bool))
    loss.backward()
    assert trainer.step(1.0)["action_energy/not_finite"] == 0.0


def test_alignment_turns_the_slope_towards_the_right_action(actor: Actor, cells: list[Atoms]) -> None:
    trainer = energy_of(actor, weight=0.0, progressive=False, rate=1.0, negatives=("flipped",), alignment=1.0)
    aligned = []
    for seed in range(60):
        graph, expert = moved(cells, seed)
        inputs, output, _ = actor.proposal(graph)
        loss, figures = trainer.loss(actor, inputs, output, expert, torch.ones(6, dtype=torch.bool))
        loss.backward()
        trainer.step(0.01)
        aligned.append(figures["action_energy/alignment"])
    assert np.mean(aligned[:5]) > 0.8
    assert np.mean(aligned[-5:]) < np.mean(aligned[:5]) - 0.1


@pytest.fixture(scope="module")
def minima(cells: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    ase.io.write(path, cells)
    return str(path)


def configuration(minima: str, folder: Path, energy: dict[str, Any] | None, **run: Any) -> dict[str, Any]:
    return {
        "method": "cloning",
        "structures": minima,
        "kind": "minimum",
        "actor": ACTOR | {"trunk": TRUNK},
        "batch_size": 6,
        "updates_per_epoch": 3,
        "action_energy": energy,
        "evaluation": {"structures": minima, "count": 2, "steps": 30, "every": 24},
        "run": {"dir": str(folder), "updates": 8, "log_every": 12} | run,
    }


ENERGY = {
    "model": {"channels": 4, "head_channels": 8},
    "negatives": ["swap", "layers", "noise", "scaled", "flipped", "previous"],
    "alignment": 0.1,
    "ramp": [2, 6],
}


def test_interrupted_and_resumed_the_run_is_the_same_and_its_agent_can_be_switched(
    minima: str, tmp_path: Path, cells: list[Atoms]
) -> None:
    whole = train(configuration(minima, tmp_path / "whole", ENERGY), verbose=False).folder
    train(configuration(minima, tmp_path / "half", ENERGY, updates=8, steps=24), verbose=False)
    half = resume(tmp_path / "half", ("run.steps=null",), verbose=False).folder
    expected, got = (
        {k: v for k, v in read_metrics(f / "metrics.csv").items() if "time/" not in k} for f in (whole, half)
    )
    assert {f"action_energy/{figure}" for figure in FIGURES} <= set(expected)
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    assert np.nanmax(expected["action_energy/not_finite"]) == 0.0
    ours, theirs = (load_model(folder / "last")[0] for folder in (whole, half))
    assert {name.split(".")[0] for name in ours} == {"base", "model"}
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())

    agent = load_agent(str(whole / "last"))
    assert isinstance(agent.actor, VerifiedActor)
    assert agent.verifier is False
    counts = []
    for name in (f"{whole / 'last'},verifier=on", str(whole / "last")):
        atoms = cells[0].copy()
        atoms.rattle(0.05, seed=1)
        atoms.calc = TorchCalculator(parse_calculator("emt").potential())
        optimizer = relaxrl.RLOptimizer(atoms, agent=name, logfile=None)
        assert optimizer.run(fmax=0.01, steps=60)
        counts.append(optimizer.force_evaluations)
    assert len(counts) == 2


def test_with_weight_zero_the_actor_is_trained_as_without(minima: str, tmp_path: Path) -> None:
    """Streams of randomness are independent, and no gradient flows back."""
    parameters = []
    for name, energy in (
        ("plain", None),
        ("beside", ENERGY | {"weight": 0.0, "copies": 1}),
        ("aux", ENERGY | {"copies": 1}),
    ):
        config = load_run_config(configuration(minima, tmp_path / name, energy))
        assert isinstance(config, CloningConfig)
        cloner = Cloner(config, RunFolder.create(str(tmp_path / name), 0))
        for _ in range(2):
            cloner.update()
        parameters.append(torch.cat([p.detach().flatten() for p in cloner.module.parameters()]))
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])


def test_an_agent_that_exists_gets_a_verifier_and_stays_as_it_is(minima: str, tmp_path: Path) -> None:
    plain = train(configuration(minima, tmp_path / "plain", None), verbose=False).folder
    settings = configuration(minima, tmp_path / "verified", ENERGY | {"freeze_actor": True}, updates=4)
    settings["trainer"] = {"ckpt_file": str(plain / "last")}
    verified = train(settings, verbose=False).folder
    before, after = load_agent(str(plain / "last")), load_agent(str(verified / "last"))
    assert isinstance(after.actor, VerifiedActor)
    own = dict(after.actor.base.state_dict())
    assert all(torch.equal(own[name], value) for name, value in before.actor.state_dict().items())
    # And once more, from the agent with a verifier.
    again = configuration(minima, tmp_path / "again", ENERGY | {"freeze_actor": True}, updates=1)
    again["trainer"] = {"ckpt_file": str(verified / "last")}
    last = load_agent(str(train(again, verbose=False).folder / "last"))
    assert all(torch.equal(last.actor.base.state_dict()[name], value) for name, value in own.items())
    with pytest.raises(ConfigError, match=r"`action_energy.freeze_actor` needs an actor .* give `trainer.ckpt_file`"):
        load_run_config(configuration(minima, tmp_path / "none", ENERGY | {"freeze_actor": True}))


def test_batches_hold_copies_of_each_crystal(minima: str, tmp_path: Path) -> None:
    config = load_run_config(configuration(minima, tmp_path / "run", ENERGY | {"copies": 3}))
    assert isinstance(config, CloningConfig)
    chosen, graph = Cloner(config, RunFolder.create(str(tmp_path / "run"), 0)).draw()
    assert chosen[:3] == [chosen[0]] * 3
    assert chosen[3:] == [chosen[3]] * 3
    first, second = graph.unbatch()[:2]
    assert float((first.positions - second.positions).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "action_energy.negativs=[swap]",
            "unknown key `action_energy.negativs`; did you mean `action_energy.negatives`?",
        ),
        ("action_energy.negatives=[swop]", "did you mean `swap`?"),
        ("action_energy.negatives=[]", "`negatives` must name at least one kind"),
        ("action_energy.negatives=[swap, swap]", "`negatives` must name each kind once"),
        ("action_energy.model.bonded=true", "did you mean `action_energy.model.bounded`?"),
        ("action_energy.verifier.gates=[-1]", "`gates` must be positive factors"),
        ("action_energy.noise=[]", "`noise` must be positive numbers, got []"),
        ("action_energy.scales=[1.0]", "`scales` must not hold 1"),
        ("action_energy.temperature=0", "`temperature` must be positive, got 0.0"),
        ("action_energy.weight=-1", "`weight` must not be negative, got -1.0"),
        ("action_energy.ramp=[5, 5]", "`ramp` must be two updates, the earlier one first, got [5, 5]"),
        ("action_energy.copies=7", "`batch_size` must be a multiple of `action_energy.copies` = 7, got 24"),
        ("action_energy.swaps=0", "`swaps` must be at least 1, or null for all, got 0"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(
            {"method": "cloning", "structures": "metals:train", "action_energy": {}}, [override], "run.yaml"
        )
    assert message in str(caught.value)
