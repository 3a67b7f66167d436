"""Parts of the networks against e3nn, tables and numbers worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
from collections.abc import Callable
from importlib import resources

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from e3nn import o3

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import (
    CriticConfig,
    DirectActor,
    DirectActorConfig,
    TrunkConfig,
    format_receptive_field,
    receptive_field_report,
)
from relaxrl.nn.convolution import Convolution, natural_irreps, natural_paths
from relaxrl.nn.elements import ESTIMATED, PROPERTY_NAMES, covalent_radii, property_table
from relaxrl.nn.embedding import bessel_basis, polynomial_envelope, smooth_norm, unit_vectors


@pytest.mark.parametrize("lmax", [1, 2])
def test_the_convolution_equals_one_tensor_product_of_e3nn_per_edge(
    lmax: int, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    torch.manual_seed(0)
    config = TrunkConfig(layers=2, cutoff=4.5, channels=4, lmax=lmax, radial_functions=3)
    actor = DirectActor(DirectActorConfig(trunk=config)).double()
    edges = actor.trunk(actor._inputs(graph_of(crystal(0)))).edges
    channels, functions = 5, 3
    irreps_in, irreps_out = natural_irreps(channels, lmax), natural_irreps(2, lmax)
    convolution = Convolution(irreps_in, irreps_out, lmax, functions).double()
    n_atoms = edges.neighbours.shape[0]
    features = torch.randn(n_atoms, irreps_in.dim, dtype=torch.float64)

    # The same weights, spread over edges: W[e] = sum_h R_h(e) W_h, for each path a (channels, 2) matrix.
    paths = natural_paths(lmax, lmax, lmax)
    product = o3.TensorProduct(
        irreps_in,
        o3.Irreps.spherical_harmonics(lmax),
        irreps_out,
        [(l_in, l_edge, l_out, "uvw", True, 1.0) for l_in, l_edge, l_out in paths],
        irrep_normalization="component",
        path_normalization="none",
        shared_weights=False,
        internal_weights=False,
    ).double()
    weights = []
    blocks = {degree: iter(_per_path(convolution, degree, functions, channels)) for degree in range(lmax + 1)}
    for _, _, l_out in paths:
        weights.append(torch.einsum("eh,huw->euw", edges.radial, next(blocks[l_out])).flatten(1))
    centre, neighbour = edges.index
    messages = product(features[neighbour], edges.harmonics, torch.cat(weights, dim=1))
    norm = 1.0 + torch.zeros(n_atoms, dtype=torch.float64).index_add(0, centre, edges.envelope**2)
    expected = torch.zeros(n_atoms, irreps_out.dim, dtype=torch.float64).index_add(0, centre, messages)
    # e3nn keeps its coupling coefficients in float32.
    assert torch.allclose(convolution(features, edges), expected / norm.sqrt().unsqueeze(-1), rtol=0, atol=1e-6)


def _per_path(convolution: Convolution, degree: int, functions: int, channels: int) -> list[torch.Tensor]:
    weight = convolution.linear.weight_view_for_instruction(degree) / math.sqrt(convolution.irreps_coupled[degree].mul)
    return list(weight.view(-1, functions, channels, weight.shape[-1]))


def test_the_envelope_and_its_two_derivatives_vanish_at_the_cutoff() -> None:
    lengths = torch.tensor([0.0, 2.5, 5.0, 5.5], dtype=torch.float64, requires_grad=True)
    values = polynomial_envelope(lengths, 5.0)
    assert values.tolist() == [1.0, 1 - 28 / 2**6 + 48 / 2**7 - 21 / 2**8, 0.0, 0.0]
    (slope,) = torch.autograd.grad(values.sum(), lengths, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), lengths)
    assert slope[2:].tolist() == [0.0, 0.0]
    assert curvature[2:].tolist() == [0.0, 0.0]


def test_bessel_functions_by_hand() -> None:
    values = bessel_basis(torch.tensor([0.0, 1.0], dtype=torch.float64), cutoff=4.0, number=2)
    expected = [math.sin(n * math.pi / 4) for n in (1, 2)]
    assert torch.allclose(values[1], torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(values[0], torch.tensor([math.pi / 4, math.pi / 2], dtype=torch.float64))


def test_directions_and_norms_are_safe_at_zero() -> None:
    vectors = torch.tensor([[0.0, 0, 0], [3.0, 0, 4.0]], dtype=torch.float64, requires_grad=True)
    units = unit_vectors(vectors)
    assert torch.allclose(units, torch.tensor([[0.0, 0, 0], [0.6, 0, 0.8]], dtype=torch.float64))
    norms = smooth_norm(vectors.square().sum(-1))
    assert norms[0] == 0
    assert float(norms[1].detach()) == pytest.approx(5.0, rel=1e-6)
    (gradient,) = torch.autograd.grad(units.sum() + norms.sum(), vectors)
    assert torch.isfinite(gradient).all()


def test_elements_are_tabulated_and_told_apart() -> None:
    table = torch.tensor(property_table())
    assert table.shape == (119, len(PROPERTY_NAMES))
    assert torch.isfinite(table).all()
    distances = torch.cdist(table[1:100], table[1:100]) + 10 * torch.eye(99)
    assert distances.min() > 1e-3
    column = {name: table[:, k] for k, name in enumerate(PROPERTY_NAMES)}
    numbers = column["electronegativity"]
    bonded = [number for number in range(1, 119) if number not in (2, 10, 18, 36)]
    assert numbers[9] == numbers[bonded].max()  # fluorine
    assert column["atomization_enthalpy"][74] == column["atomization_enthalpy"].max()  # tungsten
    # Copper, silver and gold: the same but for their period.
    for name in ("valence_electrons", "d_electrons", "block_d"):
        assert column[name][29] == column[name][47] == column[name][79]
    assert covalent_radii()[29] == 1.12


def test_elements_up_to_bismuth_lack_nothing_and_estimates_move_no_other_element() -> None:
    rows = list(csv.DictReader(resources.files("relaxrl.nn").joinpath("elements.csv").read_text().splitlines()))
    table = torch.tensor(property_table(), dtype=torch.float64)
    for name in ("electronegativity", "atomization_enthalpy"):
        measured = torch.tensor([float(row[name]) if row[name] else torch.nan for row in rows], dtype=torch.float64)
        known = ~torch.isnan(measured)
        assert set((torch.nonzero(~known[:83]).flatten() + 1).tolist()) == set(ESTIMATED[name])
        column = table[1:, PROPERTY_NAMES.index(name)]
        expected = (measured[known] - measured[known].mean()) / measured[known].std()
        torch.testing.assert_close(column[known], expected)
        assert (column[torch.tensor([number - 1 for number in ESTIMATED[name]])] != 0).all()
    ytterbium, thulium, lutetium = (table[number, PROPERTY_NAMES.index("electronegativity")] for number in (70, 69, 71))
    assert lutetium < ytterbium < thulium


def test_elements_that_are_alike_get_features_that_are_alike() -> None:
    torch.manual_seed(0)
    actor = DirectActor(DirectActorConfig())

    def features(number: int) -> torch.Tensor:
        return actor.trunk.elements(torch.tensor([number]))[0].detach()

    def distance(a: int, b: int) -> float:
        return float((features(a) - features(b)).norm())

    silver, gold, oxygen, caesium = 47, 79, 8, 55
    assert distance(silver, gold) < 0.5 * min(distance(silver, oxygen), distance(silver, caesium))


def test_the_trunk_exposes_every_layer(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    graph = graph_of(crystal(0))
    config = TrunkConfig(layers=3, channels=8, lmax=2)
    actor = DirectActor(DirectActorConfig(trunk=config))
    output = actor.trunk(actor._inputs(graph))
    assert str(actor.trunk.irreps) == "16x0e+8x1o+8x2e"
    assert len(output.layer_features) == 4
    assert output.layer_features[-1] is output.node_features
    assert output.node_features.shape == (8, 16 + 24 + 40)
    assert output.edges.harmonics.shape == (output.edges.index.shape[1], 9)
    layers = actor.layer_displacements(graph)
    assert layers.shape == (4, 8, 3)
    assert torch.allclose(layers[-1], actor(graph))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layers": 1}, "`layers` must be 2 to 6, got 1"),
        ({"layers": 7}, "`layers` must be 2 to 6, got 7"),
        ({"cutoff": 0.0}, "`cutoff` must be positive"),
        ({"lmax": 0}, "`lmax` must be 1 to 3, got 0"),
        ({"max_neighbors": 0}, "`max_neighbors` must be at least 1"),
        ({"channels": 0}, "`channels` must be at least 1, got 0"),
        ({"colour": 1}, "colour"),
    ],
)
def test_trunk_sizes_out_of_range_are_named(change: dict[str, object], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        TrunkConfig(**change)


def test_network_sizes_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="`env_input_dim` must not be negative, got -1"):
        CriticConfig(env_input_dim=-1)
    with pytest.raises(ValueError, match="`max_step` must be positive, got 0"):
        DirectActorConfig(max_step=0.0)
    assert dataclasses.asdict(DirectActorConfig())["trunk"]["layers"] == 3


def test_max_neighbors_limits_the_edges(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    actor = DirectActor(DirectActorConfig(trunk=TrunkConfig(layers=2, channels=4, max_neighbors=7)))
    inputs = actor._inputs(graph_of(crystal(0)))
    assert torch.all(torch.bincount(inputs.edge_index[0]) == 7)


def test_the_receptive_field_of_a_chain_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    # 12 atoms 2 Å apart in a ring of 24 Å: the farthest is 12 Å away, 3 edges of up to 4 Å (2 spacings).
    ring = Atoms("Cu12", positions=[[2.0 * k, 0, 0] for k in range(12)], cell=[24, 20, 30], pbc=True)
    with caplog.at_level(logging.WARNING):
        report = receptive_field_report(
            graph_from_atoms([ring, bulk("Cu")]), layers=3, cutoff=4.1, names=["ring", "Cu"]
        )
    assert report[0].heights == pytest.approx((24.0, 20.0, 30.0))
    assert report[0].reach == pytest.approx(12.3)
    assert [field.hops for field in report] == [3, 0]
    assert [field.sees_all for field in report] == [True, True]
    assert not caplog.records

    with caplog.at_level(logging.WARNING):
        report = receptive_field_report(graph_from_atoms(ring), layers=2, cutoff=4.1)
    assert not report[0].sees_all
    assert "up to 3 edges apart, beyond the 2 layers" in caplog.text
    assert "beyond the receptive field" in format_receptive_field(report)


def test_cell_heights_of_a_skewed_cell_and_parts_without_contact() -> None:
    skewed = Atoms("Cu", cell=[[4, 0, 0], [4, 3, 0], [0, 0, 5]], pbc=True)
    assert receptive_field_report(graph_from_atoms(skewed), 3, 5.0)[0].heights == pytest.approx((2.4, 3.0, 5.0))
    apart = Atoms("Cu2", positions=[[0, 0, 0], [50, 0, 0]])
    field = receptive_field_report(graph_from_atoms(apart), 3, 5.0)[0]
    assert field.hops == math.inf
    assert field.warning is not None
    assert "no path of edges" in field.warning
