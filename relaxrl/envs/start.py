"""How episodes start: structures displaced from their minima or as they are, with forces, checked before use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from torch import Tensor

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
    crystals: Sequence[Crystal], potential: Potential, config: EnvConfig, generator: np.random.Generator
) -> list[AtomGraph]:
    """A start for each crystal, with forces, energy and an empty history; all of them share calls of the potential.

    A minimum is displaced at random, and again where the start overlaps, explodes, fails or is converged. If it is
    converged at the last attempt too, it is taken so.

    Args:
        crystals: What to start from, one entry per start.
        potential: Energies and forces.
        config: Options.
        generator: Source of the displacements.

    Raises:
        StructureError: A start overlaps or explodes, in all attempts if the crystal is a minimum.
        CalculatorError: The calculator fails likewise.
    """
    found: dict[int, AtomGraph] = {}
    pending = list(range(len(crystals)))
    for attempt in range(config.reset_attempts):
        asked = [crystals[k] for k in pending]
        results = _evaluated([_displaced(crystal, config, generator) for crystal in asked], asked, potential, config)
        again = []
        for k, result in zip(pending, results, strict=True):
            # What is taken as it is would be the same again.
            last = attempt + 1 == config.reset_attempts or crystals[k].kind == "start"
            if isinstance(result, RelaxRLError):
                if last:
                    raise result
                again.append(k)
            elif last or bool(max_force(result) > config.fmax):
                found[k] = result
            else:
                again.append(k)
        pending = again
        if not pending:
            break
    return [found[k] for k in range(len(crystals))]


def _displaced(crystal: Crystal, config: EnvConfig, generator: np.random.Generator) -> Atoms | StructureError:
    if crystal.kind == "start":
        return crystal.atoms
    try:
        return perturb(crystal.atoms, config.rattle, generator)
    except StructureError as error:
        return StructureError(f"crystal {crystal.id}: {error}")


def _evaluated(
    drawn: Sequence[Atoms | StructureError], crystals: Sequence[Crystal], potential: Potential, config: EnvConfig
) -> list[AtomGraph | RelaxRLError]:
    """Each start with forces, or what is wrong with it."""
    results: list[AtomGraph | RelaxRLError] = []
    places, structures, free = [], [], []
    for place, (atoms, crystal) in enumerate(zip(drawn, crystals, strict=True)):
        if isinstance(atoms, StructureError):
            results.append(atoms)
            continue
        graph = graph_from_atoms(atoms)
        results.append(graph)
        if bool(overlaps(graph, radii_of(graph, config)).any()):
            unit = "Å" if config.r_min_unit == "angstrom" else "of the sum of covalent radii"
            results[place] = StructureError(
                f"crystal {crystal.id}: atoms are closer than r_min = {config.r_min:g} {unit} at the start; "
                "use a smaller rattle or r_min, or leave the structure out"
            )
            continue
        places.append(place)
        structures.append(graph)
        free.append(free_atoms(crystal))
    if not places:
        return results
    batch = AtomGraph.batch(structures)
    evaluation = potential.evaluate(batch)
    forces = evaluation.forces.to(batch.positions) * torch.cat(free)[:, None]
    batch = batch.replace(
        forces=forces,
        energy=evaluation.energy.to(batch.positions),
        previous_displacement=torch.zeros_like(forces),
        previous_forces=forces.clone(),
    )
    for k, (place, part) in enumerate(zip(places, batch.unbatch(), strict=True)):
        crystal, fmax = crystals[place], float(max_force(part))
        results[place] = part
        if bool(evaluation.failed[k]):
            said = evaluation.messages.get(k, "no reason given")
            results[place] = CalculatorError(f"crystal {crystal.id}: the calculator failed at the start: {said}")
        elif fmax > config.explosion_fmax:
            results[place] = StructureError(
                f"crystal {crystal.id}: F_max = {fmax:.3g} eV/Å at the start is beyond explosion_fmax = "
                f"{config.explosion_fmax:g}; use a smaller rattle, or leave the structure out"
            )
    return results
