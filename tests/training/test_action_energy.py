"""The energy over actions in training: schedule, negatives, gradients, cloning with it, resumed and saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import relaxrl
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import Actor, HessianActorConfig, TrunkConfig, build_actor
from relaxrl.potentials import parse_calculator
from relaxrl.seeding import Generators
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
    assert float(loss) == 0.0
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
