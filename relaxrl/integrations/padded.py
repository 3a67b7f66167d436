"""From padded arrays back to graphs, as tensors in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph

Places: TypeAlias = tuple[Tensor, Tensor]
"""Structure and place in it of each atom, (n_atoms,), int64 each."""


def graph_from_padded(observations: Mapping[str, Tensor]) -> tuple[AtomGraph, Places]:
    """The structures in a batch of observations of `relaxrl/Relax-v0`, with forces, and where each atom was.

    Args:
        observations: By key, (n_graphs, ...).

    Raises:
        ValueError: The arrays were normalised, so that they no longer hold atomic numbers.
    """
    mask, numbers = observations["mask"], observations["numbers"]
    if not bool(((mask == 0) | (mask == 1)).all()) or not bool((numbers == numbers.round()).all()):
        raise ValueError(
            "`mask` must be 0 or 1 and `numbers` atomic numbers, but they were normalised; networks of graphs know "
            "units by themselves: use VecNormalize(norm_obs=False)"
        )
    structure, place = torch.nonzero(mask, as_tuple=True)
    graph = AtomGraph(
        positions=observations["positions"][structure, place],
        cell=observations["cell"],
        pbc=observations["pbc"] > 0.5,
        atomic_numbers=numbers[structure, place].long(),
        graph_index=structure,
        forces=observations["forces"][structure, place],
    )
    return graph, (structure, place)


def padded_rows(values: Tensor, places: Places, n_graphs: int, n_max: int) -> Tensor:
    """Values of atoms (n_atoms, k) as one row for each structure, (n_graphs, n_max * k), zero where no atom is."""
    rows = values.new_zeros(n_graphs, n_max, values.shape[1])
    return rows.index_put(places, values).flatten(1)


def rows_of_atoms(rows: Tensor, places: Places, n_max: int) -> Tensor:
    """What `padded_rows` was made of: values of atoms (n_atoms, k) from (n_graphs, n_max * k)."""
    return rows.reshape(len(rows), n_max, -1)[places]
