"""Energy over actions: its range, its symmetries, its two interfaces; and the verifier that chooses by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ase import Atoms
from e3nn import o3

from relaxrl.agents import Agent, load_agent
from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph
from relaxrl.nn import (
    ActionEnergy,
    ActionEnergyConfig,
    Actor,
    DirectActorConfig,
    HessianActorConfig,
    TrunkConfig,
    VerifiedActor,
    VerifiedActorConfig,
    VerifierConfig,
    build_verified_actor,
)

EXACT = 1e-10
VECTORS = ("positions", "cell", "forces", "previous_displacement", "previous_forces")
SIZE = {"cutoff": 4.5, "channels": 6, "message_channels": 4}
SMALL = 1e-4
"""On the forces: steps so short that no limit touches them."""


def make(kind: str = "hessian", layers: int = 2, energy: dict | None = None, **verifier: object) -> VerifiedActor:
    if kind == "hessian":
        trunk = TrunkConfig(**SIZE, layers=layers, forces=False, history=False, lmax=2)
        actor = HessianActorConfig(trunk=trunk, head_channels=8, vector_channels=4)
    else:
        actor = DirectActorConfig(trunk=TrunkConfig(**SIZE, layers=layers), head_channels=8)
    config = VerifiedActorConfig(
        actor=actor,
        energy=ActionEnergyConfig(**({"channels": 5, "head_channels": 8} | (energy or {}))),
        verifier=VerifierConfig(**({"enabled": True} | verifier)),
    )
    return build_verified_actor(config, torch.Generator().manual_seed(2)).double()


@pytest.fixture
def graph(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> AtomGraph:
    graphs = [graph_of(crystal(0)), graph_of(crystal(1, repeat=(1, 1, 1)), seed=1)]
    batch = AtomGraph.batch(graphs).replace(features=None)
    # Forces change against the step: curvature along it is positive.
    return batch.replace(previous_forces=batch.forces + 5.0 * batch.previous_displacement)


def random_actions(n: int, graph: AtomGraph, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, graph.n_atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_energy_is_half_the_raw_value_through_a_sigmoid_of_the_given_range() -> None:
    energy = make().model
    raw = torch.tensor([-1e4, -6.0, 0.0, 2.0, 1e4], dtype=torch.float64)
    expected = [0.1, 0.1 + 2.0 * 0.04742587317756678, 1.1, 0.1 + 2.0 * 0.7310585786300049, 2.1]
    torch.testing.assert_close(energy.energy(raw), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)
    other = make(energy={"energy_scale": 4.0, "energy_offset": -1.0}).model
    assert other.energy(raw)[[0, 2, 4]].tolist() == [-1.0, 1.0, 3.0]
    assert torch.equal(make(energy={"bounded": False}).model.energy(raw), raw)


@pytest.mark.parametrize("kind", ["hessian", "direct"])
def test_energies_stay_in_range_and_bounded_is_a_name(
    graph: AtomGraph, shake: Callable[[torch.nn.Module], None], kind: str
) -> None:
    bounded, unbounded = make(kind), make(kind, energy={"bounded": False})
    for actor in (bounded, unbounded):
        with torch.no_grad():
            shake(actor.model)
            actor.model.read[-1].weight.mul_(100.0)
    candidates = bounded.candidates(graph)
    energies = bounded.energies(graph, candidates)
    assert energies.shape == (len(candidates), 2)
    assert bool((energies > 0.1).all() & (energies < 2.1).all())
    raw = unbounded.energies(graph, candidates)
    assert float(raw.abs().max()) > 2.1
    torch.testing.assert_close(torch.sigmoid(0.5 * raw) * 2.0 + 0.1, energies, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kind", ["hessian", "direct"])
def test_the_energy_is_invariant_when_crystal_and_action_turn_together(
    graph: AtomGraph, shake: Callable[[torch.nn.Module], None], kind: str
) -> None:
    actor = make(kind, energy={"bounded": False})
    shake(actor)
    actions = random_actions(3, graph)
    energies = actor.energies(graph, actions)
    assert float(energies.std()) > 1e-4
    rotation = -o3.rand_matrix(dtype=torch.float64)  # and inverted
    turned = graph.replace(**{name: getattr(graph, name) @ rotation.T for name in VECTORS})
    torch.testing.assert_close(actor.energies(turned, actions @ rotation.T), energies, rtol=0, atol=EXACT)
    assert not torch.allclose(actor.energies(turned, actions), energies, atol=1e-6)  # the action alone does not turn


def test_a_batch_is_its_structures_one_by_one_and_atoms_have_no_order(
    graph: AtomGraph, shake: Callable[[torch.nn.Module], None]
) -> None:
    actor = make(energy={"bounded": False})
    shake(actor)
    actions = random_actions(2, graph)
    energies = actor.energies(graph, actions)
    first = 0
    for k, single in enumerate(graph.unbatch()):
        own = actions[:, first : first + single.n_atoms]
        torch.testing.assert_close(actor.energies(single, own)[:, 0], energies[:, k], rtol=0, atol=EXACT)
        first += single.n_atoms
    single = graph.unbatch()[0]
    order = torch.randperm(single.n_atoms, generator=torch.Generator().manual_seed(1))
    per_atom = ("positions", "atomic_numbers", "forces", "previous_displacement", "previous_forces")
    mixed = single.replace(**{name: getattr(single, name)[order] for name in per_atom})
    torch.testing.assert_close(
        actor.energies(mixed, actions[:, : single.n_atoms][:, order])[:, 0], energies[:, 0], rtol=0, atol=EXACT
    )


def test_an_atom_matters_to_its_neighbours_energy_only_through_messages(graph: AtomGraph) -> None:
    """With layers, the total is not a sum of what each atom's own action says."""
    actions = random_actions(2, graph)
    mixed = actions[:1].clone()
    mixed[0, 0] = actions[1, 0]
    both = torch.cat([actions[:1], mixed, torch.zeros_like(mixed)])
    both[2, 0] = actions[0, 0]
    other = both[2:].clone()
    other[0, 0] = actions[1, 0]
    for layers, additive in ((0, True), (1, False)):
        actor = make(energy={"bounded": False, "layers": layers})
        e = actor.energies(graph, torch.cat([both, other]))[:, 0]
        assert (abs(float((e[1] - e[0]) - (e[3] - e[2]))) < EXACT) is additive


def test_gradients_reach_the_action_and_the_trunk(graph: AtomGraph) -> None:
    actor = make()
    actions = random_actions(1, graph).requires_grad_()
    inputs, output, _ = actor.base.proposal(graph)
    actor.model(inputs, output, actions).sum().backward()
    assert float(actions.grad.norm()) > 0
    assert any(p.grad is not None and float(p.grad.norm()) > 0 for p in actor.base.trunk.parameters())


def padded(actor: VerifiedActor, graph: AtomGraph, actions: torch.Tensor, junk: float):
    """Context, actions, mask and forces as tensors, atoms of the second structure not at the front; and the edges."""
    inputs, output, _ = actor.base.proposal(graph)
    sizes = graph.atoms_per_graph.tolist()
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, : sizes[0]] = True
    mask[1, 3 : 3 + sizes[1]] = True
    context = torch.full((2, 10, output.node_features.shape[1]), junk).double()
    context[mask] = output.node_features
    forces = torch.full((2, 10, 3), junk).double()
    forces[mask] = inputs.forces
    stacked = torch.full((2, len(actions), 10, 3), junk).double()
    for k, action in enumerate(actions):
        layer = stacked[:, k]
        layer[mask] = action
    return context, stacked, mask, forces, output.edges


def test_padded_tensors_give_the_energies_of_the_graph(
    graph: AtomGraph, shake: Callable[[torch.nn.Module], None]
) -> None:
    actor = make()
    shake(actor)
    actions = random_actions(3, graph)
    expected = actor.energies(graph, actions).T
    for junk in (0.0, float("nan")):
        context, stacked, mask, forces, edges = padded(actor, graph, actions, junk)
        got = actor.model.padded(context, stacked, mask, forces, edges)
        assert got.shape == (2, 3)
        torch.testing.assert_close(got, expected, rtol=0, atol=EXACT)
        one = actor.model.padded(context, stacked[:, 1], mask, forces, edges)
        assert one.shape == (2,)
        torch.testing.assert_close(one, expected[:, 1], rtol=0, atol=EXACT)
        without = actor.model.padded(context, stacked, mask)
        assert bool(torch.isfinite(without).all())
        assert not torch.allclose(without, expected, atol=1e-6)


def test_swapped_energies_are_those_of_each_context_with_each_action() -> None:
    energy = make().model
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(3, 4, energy.context_dim, generator=generator, dtype=torch.float64)
    action = 0.1 * torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    swapped = energy.swapped(context, action, mask)
    assert swapped.shape == (3, 3)
    for i in range(3):
        for j in range(3):
            one = energy.padded(context[i : i + 1], action[j : j + 1], mask[:1])
            torch.testing.assert_close(swapped[i, j], one[0], rtol=0, atol=EXACT)
    mask[1, 3] = False
    with pytest.raises(ValueError, match=r"equally many atoms only, got \[4, 3, 4\]"):
        energy.swapped(context, action, mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_mask": torch.ones(2, 4)}, "`pad_mask` must be bool"),
        ({"pad_mask": torch.zeros(2, 4, dtype=torch.bool)}, "at least one atom"),
        ({"context": torch.zeros(2, 4, 3)}, r"`context` must have shape \(B, S, D\)"),
        ({"action": torch.zeros(2, 3, 3)}, r"`action` must have shape \(B=2, H=4, 3\) or"),
        ({"forces": torch.zeros(2, 3, 3)}, r"`forces` must have shape \(B=2, S=4, 3\), got \(2, 3, 3\)"),
    ],
)
def test_wrong_tensors_are_named(change: dict, message: str) -> None:
    energy = make().model
    right = {
        "context": torch.zeros(2, 4, energy.context_dim).double(),
        "action": torch.zeros(2, 4, 3).double(),
        "pad_mask": torch.ones(2, 4, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        energy.padded(**(right | change))


def test_a_context_of_another_trunk_is_refused(graph: AtomGraph) -> None:
    actor = make()
    inputs, output, _ = actor.base.proposal(graph)
    other = ActionEnergy(ActionEnergyConfig(), TrunkConfig(channels=3)).double()
    with pytest.raises(ValueError, match="comes from another trunk"):
        other(inputs, output, random_actions(1, graph))


@pytest.mark.parametrize("kind", ["hessian", "direct"])
def test_layers_are_read_out_and_the_last_one_is_the_step(graph: AtomGraph, kind: str) -> None:
    base: Actor = make(kind, layers=3).base
    read = base.layer_displacements(graph)
    assert read.shape == (4, graph.n_atoms, 3)
    torch.testing.assert_close(read[-1], base(graph), rtol=0, atol=EXACT)
    inputs, output, _ = base.proposal(graph)
    assert torch.equal(base.read_outs(inputs, output, slice(1, -1)), read[1:-1])
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.05)
        moved = base.layer_displacements(graph)
    assert all(float((moved[k] - moved[k + 1]).norm()) > 1e-6 for k in range(3))


@pytest.mark.parametrize(("kind", "n"), [("hessian", 6), ("direct", 5)])
def test_the_unmodified_step_is_always_the_first_candidate(graph: AtomGraph, kind: str, n: int) -> None:
    actor = make(kind, gates=(0.5, 1.3))
    few = graph.replace(forces=SMALL * graph.forces)
    candidates = actor.candidates(few).detach()
    assert len(candidates) == n
    assert torch.equal(candidates[0], actor.base(few))
    for k, gate in ((3, 0.5), (4, 1.3)):
        torch.testing.assert_close(candidates[k], gate * candidates[0], rtol=1e-6, atol=0)
    none = make(kind, gates=(), perturbed=0, secant=False)
    assert torch.equal(none.candidates(few), candidates[:1])
    assert torch.equal(none(few), candidates[0])


def test_perturbed_candidates_are_near_turn_along_and_stay_the_same_in_any_batch(graph: AtomGraph) -> None:
    actor = make(gates=(), secant=False, perturbed=2, perturbation=0.1)
    few = graph.replace(forces=SMALL * graph.forces)
    candidates = actor.candidates(few).detach()
    own = candidates[0]
    for k in (1, 2):
        size = float((candidates[k] - own).norm() / own.norm())
        assert 0.02 < size < 0.2
    assert not torch.equal(candidates[1], candidates[2])
    rotation = -o3.rand_matrix(dtype=torch.float64)
    turned = few.replace(**{name: getattr(few, name) @ rotation.T for name in VECTORS})
    torch.testing.assert_close(actor.candidates(turned), candidates @ rotation.T, rtol=0, atol=1e-12)
    last = few.unbatch()[1]
    torch.testing.assert_close(actor.candidates(last), candidates[:, -last.n_atoms :], rtol=0, atol=1e-12)


def test_the_lowest_energy_wins_and_the_margin_holds_back() -> None:
    energies = torch.tensor([[1.0, 1.0, 0.3], [0.9, 0.5, 0.4], [1.2, 0.4, 0.3]])
    assert make(margin=0.0).choose(energies).tolist() == [1, 2, 0]
    assert make(margin=0.2).choose(energies).tolist() == [0, 2, 0]


def test_a_known_energy_decides_and_the_switch_gives_the_actors_own_step(graph: AtomGraph) -> None:
    actor = make(gates=(0.5,), perturbed=0, secant=False)
    few = graph.replace(forces=SMALL * graph.forces)

    class Known(torch.nn.Module):
        def forward(self, inputs, output, actions):
            del output
            length = torch.stack([a.norm(dim=-1) for a in actions])
            sums = length.new_zeros(len(actions), inputs.n_graphs).index_add(1, inputs.graph_index, length)
            return sums * torch.tensor([1.0, -1.0]).double()  # short steps in the first, long ones in the second

    actor.model = Known()
    own = actor.base(few)
    factors = torch.tensor([0.5, 1.0]).double()[graph.graph_index].unsqueeze(-1)
    torch.testing.assert_close(actor(few), factors * own, rtol=1e-6, atol=0)
    actor.enabled = False
    assert torch.equal(actor(few), own)


@pytest.mark.parametrize("kind", ["hessian", "direct"])
def test_a_verified_agent_is_saved_loaded_and_switched(
    graph: AtomGraph, tmp_path: Path, kind: str, shake: Callable[[torch.nn.Module], None]
) -> None:
    actor = make(kind, gates=(0.6, 1.5), margin=0.0)
    shake(actor.model)
    folder = tmp_path / "agent"
    Agent(actor).save(folder)
    again = load_agent(folder)
    assert isinstance(again.actor, VerifiedActor)
    assert again.actor.config == actor.config
    assert torch.equal(again.act(graph), Agent(actor).act(graph))
    candidates = actor.candidates(graph)
    assert torch.equal(again.actor.energies(graph, candidates), actor.energies(graph, candidates))
    assert not torch.equal(again.act(graph), Agent(actor.base).act(graph))
    off, on = load_agent(f"{folder},verifier=off"), load_agent(f"{folder},verifier=on")
    assert (again.verifier, off.verifier, on.verifier, load_agent("metals").verifier) == (True, False, True, None)
    assert torch.equal(off.act(graph), Agent(actor.base).act(graph))
    assert torch.equal(on.act(graph), again.act(graph))
    single = graph.unbatch()[0]
    if kind == "hessian":
        assert again.hessian(single).shape == (3 * single.n_atoms, 3 * single.n_atoms)
    else:
        assert again.hessian(single) is None
    with pytest.raises(ConfigError, match=r"expected ,verifier=on or ,verifier=off, got ,verifier=of$"):
        load_agent(f"{folder},verifier=of")
    with pytest.raises(ConfigError, match="agent 'metals,verifier=off': this agent has no verifier to switch"):
        load_agent("metals,verifier=off")


def test_what_can_not_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a Hessian"):
        make("direct", secant=True)
    with pytest.raises(ValueError, match="positive factors"):
        VerifierConfig(gates=(0.0,))
    with pytest.raises(ValueError, match="`perturbed` must not be negative"):
        VerifierConfig(perturbed=-1)
    with pytest.raises(ValueError, match="`layers` must be 0 to 6"):
        ActionEnergyConfig(layers=7)
    with pytest.raises(ValueError, match="`energy_scale` must be positive"):
        ActionEnergyConfig(energy_scale=0.0)
