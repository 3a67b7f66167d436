"""How episodes start: structures displaced from their minima or as they are, with forces, checked before use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from torch import Tensor

from relaxrl.cell import check_cell
from relaxrl.envs.cells import Cells, Freedom, evaluate, random_strain
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.integrity import overlaps, radii_of
from relaxrl.errors import CalculatorError, RelaxRLError, StructureError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.potentials.base import Potential
from relaxrl.structures import Crystal, perturb


def free_atoms(crystal: Crystal) -> Tensor:
    """Which atoms may move, (n_atoms,), bool: all that no `FixAtoms` holds.

    Raises:
        StructureError: The crystal has no atoms, or another kind of constraint.
    """
    if not len(crystal.atoms):
        raise StructureError(f"crystal {crystal.id} has no atoms")
    free = torch.ones(len(crystal.atoms), dtype=torch.bool)
    for constraint in crystal.atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise StructureError(
                f"crystal {crystal.id}: the environment knows the constraint FixAtoms only, "
                f"got {type(constraint).__name__}; remove it, or leave the structure out"
            )
        free[torch.as_tensor(constraint.get_indices())] = False
    return free


def draw_starts(
    crystals: Sequence[Crystal],
    potential: Potential,
    config: EnvConfig,
    generator: np.random.Generator,
    device: torch.device | str = "cpu",
    freedom: Freedom | None = None,
) -> AtomGraph:
    """A start for each crystal, with forces, energy and an empty history; all of them share calls of the potential.

    A minimum is displaced at random, and again where the start overlaps, explodes, fails or is converged. If it is
    converged at the last attempt too, it is taken so.

    Args:
        crystals: What to start from, one entry per start.
        potential: Energies and forces.
        config: Options.
        generator: Source of the displacements.
        device: Where the structures are put.
        freedom: Of the crystals, one after the other, where cells strain: minima are strained at random, too.

    Raises:
        StructureError: A start overlaps or explodes, in all attempts if the crystal is a minimum.
        CalculatorError: The calculator fails likewise.
    """
    found: list[AtomGraph] = []
    places: list[int] = []
    pending = list(range(len(crystals)))
    draw = _Draw(potential, config, generator, device)
    for attempt in range(config.reset_attempts):
        free = None if freedom is None else freedom.select(pending, device)
        batch, errors = draw.evaluated([crystals[k] for k in pending], free)
        again = []
        for place, error in sorted(errors.items()):
            # What is taken as it is would be the same again.
            if attempt + 1 == config.reset_attempts or crystals[pending[place]].kind == "start":
                raise error
            again.append(place)
        if batch is not None:
            good, graph, pull = batch
            if attempt + 1 < config.reset_attempts:
                at_rest = (max_force(graph) <= config.fmax).tolist()
                if pull is not None:
                    at_rest = [rests and pulls <= config.fmax for rests, pulls in zip(at_rest, pull, strict=True)]
                rejected = [crystals[pending[k]].kind != "start" and at_rest[n] for n, k in enumerate(good)]
                again += [k for k, no in zip(good, rejected, strict=True) if no]
                if any(rejected):
                    graph = graph.select([n for n, no in enumerate(rejected) if not no])
                    good = [k for k, no in zip(good, rejected, strict=True) if not no]
            if good:
                found.append(graph)
                places += [pending[k] for k in good]
        pending = [pending[k] for k in sorted(again)]
        if not pending:
            break
    if len(found) == 1 and places == list(range(len(crystals))):
        return found[0]
    return AtomGraph.batch(found).select(np.argsort(places).tolist())


@dataclass(frozen=True)
class _Draw:
    """Draws and evaluates starts."""

    potential: Potential
    config: EnvConfig
    generator: np.random.Generator
    device: torch.device | str

    def evaluated(
        self, crystals: Sequence[Crystal], freedom: Freedom | None
    ) -> tuple[tuple[list[int], AtomGraph, list[float] | None] | None, dict[int, RelaxRLError]]:
        """Starts with forces where they could be made, their places and pull, and what is wrong at the other places."""
        config = self.config
        errors: dict[int, RelaxRLError] = {}
        drawn: dict[int, Atoms] = {}
        for place, crystal in enumerate(crystals):
            try:
                drawn[place] = self._displaced(crystal, None if freedom is None else freedom.projector[place])
            except StructureError as error:
                errors[place] = StructureError(f"crystal {crystal.id}: {error}")
        if not drawn:
            return None, errors
        places, batch = list(drawn), graph_from_atoms(list(drawn.values())).to(self.device)
        overlapping = overlaps(batch, radii_of(batch, config)).tolist()
        if any(overlapping):
            for place, overlap in zip(places, overlapping, strict=True):
                if overlap:
                    errors[place] = _overlapping(crystals[place], config)
            batch = batch.select([n for n, overlap in enumerate(overlapping) if not overlap])
            places = [place for place, overlap in zip(places, overlapping, strict=True) if not overlap]
        if not places:
            return None, errors
        evaluation = evaluate(self.potential, batch, freedom is not None)
        free = torch.cat([free_atoms(crystals[place]) for place in places]).to(batch.positions.device)
        forces = evaluation.forces.to(batch.positions) * free[:, None]
        batch = batch.replace(
            forces=forces,
            energy=evaluation.energy.to(batch.positions),
            previous_displacement=torch.zeros_like(forces),
            previous_forces=forces.clone(),
        )
        fmax, failed = max_force(batch).tolist(), evaluation.failed.tolist()
        for n, place in enumerate(places):
            if failed[n]:
                said = evaluation.messages.get(n, "no reason given")
                errors[place] = CalculatorError(
                    f"crystal {crystals[place].id}: the calculator failed at the start: {said}"
                )
            elif fmax[n] > config.explosion_fmax:
                errors[place] = StructureError(
                    f"crystal {crystals[place].id}: F_max = {fmax[n]:.3g} eV/Å at the start is beyond explosion_fmax = "
                    f"{config.explosion_fmax:g}; use a smaller rattle, or leave the structure out"
                )
        kept = [n for n, place in enumerate(places) if place not in errors]
        if not kept:
            return None, errors
        if freedom is not None and evaluation.stress is not None:
            batch = batch.replace(stress=evaluation.stress.to(batch.positions))
        places, batch = [places[n] for n in kept], batch if len(kept) == len(places) else batch.select(kept)
        pull = None
        if freedom is not None and config.cell is not None:
            pull = Cells(config.cell, config.fmax).pull(batch, freedom.select(places, self.device)).tolist()
        return (places, batch, pull), errors

    def _displaced(self, crystal: Crystal, projector: Tensor | None) -> Atoms:
        if crystal.kind == "start":
            return crystal.atoms
        atoms, config = crystal.atoms, self.config
        if projector is not None and config.cell is not None:
            strain = random_strain(config.cell, projector, self.generator)
            atoms = atoms.copy()
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True, apply_constraint=False)
            check_cell(atoms)
        return perturb(atoms, config.rattle, self.generator)


def _overlapping(crystal: Crystal, config: EnvConfig) -> StructureError:
    unit = "Å" if config.r_min_unit == "angstrom" else "of the sum of covalent radii"
    return StructureError(
        f"crystal {crystal.id}: atoms are closer than r_min = {config.r_min:g} {unit} at the start; "
        "use a smaller rattle or r_min, or leave the structure out"
    )
