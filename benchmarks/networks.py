"""Cost of actor and critic per call, neighbour list included, and what the rearranged convolution saves.

    python benchmarks/networks.py --threads 1

Variants: `fused` is `relaxrl.nn.Convolution`; `e3nn` has one `o3.TensorProduct` ("uvu", weights from the same radial
functions) per edge in its place, and `e3nn-script` the same compiled by TorchScript. All have the same channels, paths
and edges.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import e3nn
import numpy as np
import torch
from ase.build import bulk
from e3nn import o3
from torch import Tensor, nn

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.nn import Critic, CriticConfig, DirectActor, DirectActorConfig, Edges, Trunk, TrunkConfig
from relaxrl.nn.convolution import natural_irreps, natural_paths

CELLS = {8: (2, 1, 1), 32: (2, 2, 2), 108: (3, 3, 3), 256: (4, 4, 4)}
"""Repetitions of the cubic fcc cell for each number of atoms."""


class PerEdgeConvolution(nn.Module):
    """The usual e3nn convolution: a depthwise tensor product per edge, a sum over neighbours, a linear layer."""

    def __init__(self, config: TrunkConfig, irreps_out: o3.Irreps) -> None:
        super().__init__()
        irreps_in = natural_irreps(config.message_channels, config.lmax)
        paths = natural_paths(config.lmax, config.lmax, config.lmax)
        irreps_middle = o3.Irreps([(config.message_channels, (l_out, (-1) ** l_out)) for _, _, l_out in paths])
        instructions = [(l_in, l_edge, k, "uvu", True) for k, (l_in, l_edge, _) in enumerate(paths)]
        self.product = o3.TensorProduct(
            irreps_in,
            o3.Irreps.spherical_harmonics(config.lmax),
            irreps_middle,
            instructions,
            shared_weights=False,
            internal_weights=False,
        )
        self.weights = nn.Linear(config.radial_functions, self.product.weight_numel, bias=False)
        self.linear = o3.Linear(irreps_middle, irreps_out)

    def forward(self, features: Tensor, edges: Edges) -> Tensor:
        """New features of atoms from features and edges, as `relaxrl.nn.Convolution`."""
        centre, neighbour = edges.index
        messages = self.product(features[neighbour], edges.harmonics, self.weights(edges.radial))
        output: Tensor = self.linear(scatter_sum(messages, centre, len(features)))
        return output


@contextmanager
def jit_mode(mode: str) -> Iterator[None]:
    """Let e3nn compile its generated code in this way, for modules made inside."""
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode=mode)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)


def use_per_edge(trunk: Trunk) -> None:
    """Replace the convolutions of a trunk."""
    for layer in trunk.layers:
        layer.convolution = PerEdgeConvolution(trunk.config, trunk.irreps)


def networks(variant: str, config: TrunkConfig) -> tuple[DirectActor, Critic]:
    """Actor and critic of one variant."""
    with jit_mode("script" if variant == "e3nn-script" else "eager"):
        actor, critic = DirectActor(DirectActorConfig(trunk=config)), Critic(CriticConfig(trunk=config))
        if variant != "fused":
            use_per_edge(actor.trunk)
            use_per_edge(critic.trunk)
    return actor, critic


def structures(n_atoms: int, n_graphs: int, rng: np.random.Generator) -> AtomGraph:
    """Rattled copper with random forces and history."""
    crystals = []
    for _ in range(n_graphs):
        atoms = bulk("Cu", cubic=True).repeat(CELLS[n_atoms])
        atoms.positions += 0.1 * rng.standard_normal((len(atoms), 3))
        crystals.append(atoms)
    graph = graph_from_atoms(crystals)
    forces = torch.from_numpy(rng.standard_normal((graph.n_atoms, 3)))
    return graph.replace(forces=forces, previous_displacement=0.01 * forces, previous_forces=0.9 * forces)


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Shortest time of a call, measured for about this long; others may be using the machine."""
    for _ in range(3):  # TorchScript specialises in the first calls
        call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(actor: DirectActor, critic: Critic, graph: AtomGraph, seconds: float) -> list[float]:
    """Milliseconds of actor and critic, forward, then forward and backward."""
    action = (0.01 * graph.forces).requires_grad_()

    def forward(network: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():
            return network()

    calls: list[Callable[[], Tensor]] = [lambda: actor(graph), lambda: critic(graph, action)]
    times = [milliseconds(lambda call=call: forward(call), seconds) for call in calls]
    times += [milliseconds(lambda call=call: call().sum().backward(), seconds) for call in calls]
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each number")
    parser.add_argument("--sizes", default="8x1,32x1,108x1,32x16", help=f"ATOMSxGRAPHS; atoms of {list(CELLS)}")
    parser.add_argument("--variants", default="fused,e3nn,e3nn-script")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--lmax", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # TorchScript is deprecated; that is a part of what this compares.
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    config = TrunkConfig(layers=args.layers, cutoff=args.cutoff, channels=args.channels, lmax=args.lmax)
    variants = {name: networks(name, config) for name in args.variants.split(",")}
    sizes = [tuple(int(part) for part in size.split("x")) for size in args.sizes.split(",")]
    actor = next(iter(variants.values()))[0]
    print(f"{args.layers} layers, {args.cutoff:g} Å, {actor.trunk.irreps}, {args.threads} thread(s), milliseconds")
    for name, (network, critic) in variants.items():
        counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (network, critic)]
        print(f"{name}: {counts[0]} parameters in the actor, {counts[1]} in one critic")
    print("atoms x graphs   edges   list |     variant | forward: actor, critic | forward and backward: actor, critic")
    for n_atoms, n_graphs in sizes:
        graph = structures(n_atoms, n_graphs, np.random.default_rng(0))
        edges = with_edges(graph, args.cutoff).edge_index
        assert edges is not None
        listed = milliseconds(lambda graph=graph: with_edges(graph, args.cutoff), args.seconds)
        reference: list[float] = []
        for name, (network, critic) in variants.items():
            times = measure(network, critic, graph, args.seconds)
            reference = reference or times
            pairs = zip(times, reference, strict=True)
            cells = [f"{value:7.1f} ({value / first:3.1f}x)" for value, first in pairs]
            size = f"{n_atoms} x {n_graphs}"
            print(f"{size:>14} {edges.shape[1]:>7} {listed:6.2f} | {name:>11} | " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
