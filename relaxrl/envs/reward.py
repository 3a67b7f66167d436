"""Rewards: every term a pure function of forces, with its own weight and its own entry in the report.

All functions serve structures and atoms alike: where they say F, give F_max (n_graphs,) for the reward of structures
and |F_i| (n_atoms,) for that of atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from relaxrl.config import configclass
from relaxrl.graph import force_norms, scatter_max, scatter_sum

FORCE_FLOOR = 1e-6
"""eV/Å; the logarithm of the force stops falling here."""

TERMS = ("base", "log", "delta", "energy", "step", "correction", "done", "broken")
"""Names of all terms where cells are fixed, in the order of the report."""

CELL_TERMS = (*TERMS, "stress")
"""Names of all terms where cells strain."""

Preset = Literal["force", "log_force", "step", "hybrid", "mixed", "mixed_delta"]
"""Names of ready-made sets of weights."""


@dataclass(frozen=True)
class RewardWeights:
    """Weights of all terms; a term of weight 0 is reported as 0."""

    w_max: float = 0.0
    w_mean: float = 0.0
    w_log: float = 0.0
    w_delta: float = 0.0
    w_energy: float = 0.0
    w_step: float = 0.0
    w_correction: float = 0.0
    w_done: float = 0.0
    w_broken: float = 0.0
    w_stress: float = 0.0

    @cached_property
    def counted(self) -> frozenset[str]:
        """Names of the terms that are not zero by their weight."""
        names = {name for name in CELL_TERMS if name != "base" and getattr(self, f"w_{name}")}
        return frozenset(names | ({"base"} if self.w_max or self.w_mean else set()))


PRESETS: dict[Preset, RewardWeights] = {
    "force": RewardWeights(w_max=1.0, w_stress=1.0),
    "log_force": RewardWeights(w_log=1.0),
    "step": RewardWeights(w_step=1.0),
    "hybrid": RewardWeights(w_max=1 / 3, w_log=1 / 3, w_step=1 / 3, w_stress=1 / 3),
    "mixed": RewardWeights(w_max=0.7, w_mean=0.3, w_log=0.1, w_done=10.0, w_broken=10.0, w_stress=1.0),
    "mixed_delta": RewardWeights(
        w_max=0.7, w_mean=0.3, w_log=0.1, w_done=10.0, w_broken=10.0, w_stress=1.0, w_delta=1.0, w_correction=1.0
    ),
}
"""`force`: -F_max. `log_force`: -log10 F_max. `step`: -1 per step. `hybrid`: a weighted sum of these three. `mixed`:
base, log, done and broken. `mixed_delta`: the same with delta and correction. Where cells strain, each that counts
F_max counts the stress beside it, as a force P (see `relaxrl.envs.cells.Cells.pull`): `force` is -F_max - P."""


@configclass
class RewardConfig:
    """Reward of the environment: a preset, and weights that differ from it.

    Examples:
        >>> RewardConfig(kind="mixed", w_log=0.2).weights.w_log
        0.2
        >>> RewardConfig.preset("force").weights == RewardWeights(w_max=1.0, w_stress=1.0)
        True
    """

    kind: Preset = "mixed_delta"
    """The preset that gives all weights not named below. `mixed_delta` by default: the delta term is what carries large
    systems out of high-energy regions."""

    w_max: float | None = None
    """Weight of -F_max in the base term, Å/eV; None takes the preset's, here and below."""

    w_mean: float | None = None
    """Weight of -F_mean (or -F_rms, see `norm`) in the base term, Å/eV."""

    w_log: float | None = None
    """Weight of -log10(max(F_max, 1e-6 eV/Å))."""

    w_delta: float | None = None
    """Weight of the fall of F_max in this step, Å/eV."""

    w_energy: float | None = None
    """Weight of the fall of the energy per atom in this step, 1/eV. 0 in all presets; the force norm alone attracts to
    saddle points, the energy does not."""

    w_step: float | None = None
    """Cost of one step."""

    w_correction: float | None = None
    """Cost of a step of which the action correction left nothing; proportional to `a_back`."""

    w_done: float | None = None
    """Reward of convergence."""

    w_broken: float | None = None
    """Cost of a structure that comes apart, which ends the episode: as much as `w_done` in the presets that have that,
    because where every step costs something, an early end by any means would pay."""

    w_stress: float | None = None
    """Weight of -P, the stress as a force, where cells strain, Å/eV. There, too, the log term is of the larger of F_max
    and P, and the delta term counts the fall of both."""

    norm: Literal["mean", "rms"] = "mean"
    """Whether the base term takes F_mean or F_rms."""

    @classmethod
    def preset(cls, name: str) -> RewardConfig:
        """The ready-made reward of this name.

        Raises:
            ValueError: There is none of this name.
        """
        known: tuple[Preset, ...] = get_args(Preset)
        for kind in known:
            if kind == name:
                return cls(kind=kind)
        raise ValueError(f"`{name}` is no reward preset; there are {', '.join(known)}")

    @property
    def weights(self) -> RewardWeights:
        """All weights as numbers."""
        chosen = PRESETS[self.kind]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(chosen)}
        return dataclasses.replace(chosen, **{name: value for name, value in own.items() if value is not None})


def base_term(fmax: Tensor, fmean: Tensor, w_max: float, w_mean: float) -> Tensor:
    """-w_max F_max - w_mean F_mean; both in eV/Å."""
    return torch.add(-w_max * fmax, fmean, alpha=-w_mean)


def log_term(fmax: Tensor, w_log: float) -> Tensor:
    """-w_log log10(max(F_max, 1e-6 eV/Å))."""
    return -w_log * torch.log10(fmax.clamp(min=FORCE_FLOOR))


def delta_term(fmax_before: Tensor, fmax: Tensor, w_delta: float) -> Tensor:
    """w_delta (F_max(t-1) - F_max(t)): positive whenever the step made things better, however large the force is."""
    return w_delta * (fmax_before - fmax)


def energy_term(energy_before: Tensor, energy: Tensor, n_atoms: Tensor, w_energy: float) -> Tensor:
    """w_energy (E(t-1) - E(t)) / N; eV per atom."""
    return w_energy * (energy_before - energy) / n_atoms


def correction_term(a_back: Tensor, w_correction: float) -> Tensor:
    """-w_correction a_back: grows with the fraction of the action that was taken back."""
    return -w_correction * a_back


@dataclass(frozen=True)
class Felt:
    """How large forces are.

    Attributes:
        norms: (n_atoms,), eV/Å; |F_i|.
        fmax: (n_graphs,), eV/Å; F_max.
        pull: (n_graphs,), eV/Å; P, the stress as a force. None where cells are fixed.
    """

    norms: Tensor
    fmax: Tensor
    pull: Tensor | None = None

    @property
    def most(self) -> Tensor:
        """What has to fall below fmax, (n_graphs,), eV/Å: the larger of F_max and P."""
        return self.fmax if self.pull is None else torch.maximum(self.fmax, self.pull)

    @staticmethod
    def of(forces: Tensor, graph_index: Tensor, n_graphs: int, pull: Tensor | None = None) -> Felt:
        """From forces (n_atoms, 3), eV/Å, the structure (n_atoms,) of each atom, and the pull of cells, if they do."""
        norms = force_norms(forces)
        return Felt(norms, scatter_max(norms, graph_index, n_graphs), pull)


@dataclass(frozen=True)
class Step:
    """What a reward depends on.

    Attributes:
        before: Forces before the step.
        after: Forces after it.
        energy_before: (n_graphs,), eV.
        energy: (n_graphs,), eV.
        a_back: (n_graphs,), fraction of the action taken back; None if nothing was.
        converged: (n_graphs,), bool; None if none is.
        broken: (n_graphs,), bool; whether it has come apart; None if none has.
        graph_index: (n_atoms,), int64.
        sizes: (n_graphs,), int64; atoms of each structure.
    """

    before: Felt
    after: Felt
    energy_before: Tensor
    energy: Tensor
    a_back: Tensor | None
    converged: Tensor | None
    broken: Tensor | None
    graph_index: Tensor
    sizes: Tensor

    def average(self, norm: Literal["mean", "rms"]) -> Tensor:
        """F_mean or F_rms after the step, (n_graphs,), eV/Å."""
        powers = self.after.norms**2 if norm == "rms" else self.after.norms
        mean = scatter_sum(powers, self.graph_index, len(self.energy)).div_(self.sizes)
        return mean.sqrt() if norm == "rms" else mean


def structure_terms(step: Step, weights: RewardWeights, norm: Literal["mean", "rms"] = "mean") -> dict[str, Tensor]:
    """Each term of the reward of each structure, (n_graphs,); their sum is the reward.

    Args:
        step: The step to judge.
        weights: Weight of each term.
        norm: Which average the base term takes.
    """
    average = step.average(norm) if weights.w_mean else step.after.fmax
    return _terms(step.before.fmax, step.after.fmax, average, step, weights, None)


def atom_terms(step: Step, weights: RewardWeights) -> dict[str, Tensor]:
    """Each term of the reward of each atom, (n_atoms,), for critics that value atoms one by one.

    The force terms take |F_i| in place of F_max and of the average; the terms that belong to the structure as a whole
    (energy, step, correction, done, broken, stress) are given to each of its atoms.

    Args:
        step: The step to judge.
        weights: Weight of each term.
    """
    return _terms(step.before.norms, step.after.norms, step.after.norms, step, weights, step.graph_index)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms, in their order."""
    # Terms that are zero share one tensor, which need not be added more than once.
    first, *others = {id(term): term for term in terms.values()}.values()
    for term in others:
        first = first + term
    return first


def _terms(
    before: Tensor, after: Tensor, average: Tensor, step: Step, weights: RewardWeights, spread: Tensor | None
) -> dict[str, Tensor]:
    """All terms; `spread` indexes quantities of structures to the shape of the forces."""

    def shared(value: Tensor) -> Tensor:
        return value if spread is None else value.index_select(0, spread)

    nothing = torch.zeros_like(after)
    pull, pull_before = step.after.pull, step.before.pull
    terms, counted = dict.fromkeys(TERMS if pull is None else CELL_TERMS, nothing), weights.counted
    if "base" in counted:
        terms["base"] = base_term(after, average, weights.w_max, weights.w_mean)
    if "log" in counted:
        largest = after if pull is None else torch.maximum(after, shared(pull))
        terms["log"] = log_term(largest, weights.w_log)
    if "delta" in counted:
        terms["delta"] = delta_term(before, after, weights.w_delta)
        if pull is not None and pull_before is not None:
            terms["delta"] = terms["delta"] + shared(delta_term(pull_before, pull, weights.w_delta))
    if "stress" in counted and pull is not None:
        terms["stress"] = shared(-weights.w_stress * pull)
    if "energy" in counted:
        terms["energy"] = shared(energy_term(step.energy_before, step.energy, step.sizes, weights.w_energy))
    if "step" in counted:
        terms["step"] = nothing - weights.w_step
    if "correction" in counted and step.a_back is not None:
        terms["correction"] = shared(correction_term(step.a_back, weights.w_correction))
    if "done" in counted and step.converged is not None:
        terms["done"] = shared(weights.w_done * step.converged.to(after.dtype))
    if "broken" in counted and step.broken is not None:
        terms["broken"] = shared(-weights.w_broken * step.broken.to(after.dtype))
    return terms
