"""Experts: who shows the agent a step; single BFGS iterations, or a jump to the known minimum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase.geometry import find_mic
from torch import Tensor

from relaxrl.agents.schedules import Schedule
from relaxrl.config import configclass
from relaxrl.graph import AtomGraph
from relaxrl.typing import BoolArray, FloatArray, StateDict

SAME_POSITION = 1e-7
"""Å; below this largest change of a coordinate two structures are the same and tell nothing about curvature (ASE's
value)."""

NO_CURVATURE = 1e-12
"""Smallest |Δx·Δg| / (|Δx| |Δg|) of a pair that tells about curvature: a rigid shift changes no force, and ASE's
formula would divide zero by zero. No step of BFGS itself comes near it."""
SMALLEST_EIGENVALUE = 1e-10
"""eV/Å²; guards the division where a mode is exactly flat."""


@configclass
class ExpertConfig:
    """Which expert, how often it drives an episode, and its own parameters."""

    name: Literal["bfgs", "teleport"] = "bfgs"
    """`bfgs`: single BFGS iterations; works for any start, but in short runs its first steps, scaled by `alpha`, teach
    timidity. `teleport`: jumps to the known minimum; much the better teacher where minima are known, see
    docs/ablations.md."""
    probability: Schedule = Schedule(kind="exponential", start=0.5, end=0.02, steps=10_000)
    """Chance that a new episode is driven by the expert, against environment steps; falls, so that the agent's own
    experience takes over, and never to zero, so that the expert's buffer keeps up with what the curriculum unlocks."""
    takeover: Schedule = Schedule(start=0.0)
    """Chance per step that the expert takes over an episode which the agent drives, against environment steps: then it
    shows what to do from where the agent has got to, not only from starts."""
    alpha: float = 70.0
    """eV/Å²; initial curvature of `bfgs`. 70 is ASE's default; 10 to 20 is faster on most metals."""
    max_step: float = 0.2
    """Å; the longest move of an atom per `bfgs` iteration (ASE's default)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("probability", "takeover"):
            low, high = getattr(self, name).bounds
            if low < 0.0 or high > 1.0:
                raise ValueError(f"`{name}` must stay in [0, 1], got {low} to {high}")
        if self.alpha <= 0.0:
            raise ValueError(f"`alpha` must be positive, got {self.alpha}")
        if self.max_step <= 0.0:
            raise ValueError(f"`max_step` must be positive, got {self.max_step}")


class Expert(ABC):
    """Proposes displacements for structures in numbered slots; a slot runs one episode after the other."""

    @abstractmethod
    def reset(self, slots: Sequence[int], minima: Sequence[FloatArray | None] | None = None) -> None:
        """A new episode begins in these slots.

        Args:
            slots: The slots.
            minima: For each, the positions (n_atoms, 3), Å, of the minimum that the start was made from; None where
                it is not known.
        """

    @abstractmethod
    def propose(self, graph: AtomGraph, slots: Sequence[int]) -> Tensor:
        """The expert's displacement for each structure.

        Args:
            graph: One structure per slot, in the order of `slots`, with forces.
            slots: Their slots.

        Returns:
            (n_atoms, 3), Å, float64.

        Raises:
            ValueError: What the expert needs is missing: forces, a known minimum, a reset.
        """

    @abstractmethod
    def state_dict(self) -> StateDict:
        """What it remembers of the running episodes."""

    @abstractmethod
    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""


@dataclass
class _Memory:
    """What BFGS knows of one episode: curvature, and where it was last asked."""

    hessian: FloatArray  # (3n, 3n), eV/Å²
    positions: FloatArray  # (3n,), Å
    gradient: FloatArray  # (3n,), eV/Å


class BFGSExpert(Expert):
    """One BFGS iteration from wherever the episode stands, identical to ASE's `BFGS` step by step.

    The Hessian starts at alpha times unity and is updated by the secant pair between two calls for the same slot,
    whoever made the move between them. Eigenvalues count by their absolute value. The step is scaled down as a whole
    where an atom would move farther than `max_step`.

    Args:
        alpha: eV/Å², initial curvature.
        max_step: Å.
    """

    def __init__(self, alpha: float = 70.0, max_step: float = 0.2) -> None:
        self.alpha = alpha
        self.max_step = max_step
        self._memories: dict[int, _Memory] = {}

    def reset(self, slots: Sequence[int], minima: Sequence[FloatArray | None] | None = None) -> None:
        """Forget the curvature of these slots' last episodes."""
        del minima
        for slot in slots:
            self._memories.pop(slot, None)

    def propose(self, graph: AtomGraph, slots: Sequence[int]) -> Tensor:
        """See `Expert.propose`."""
        _check_slots(graph, slots)
        steps = []
        for slot, part in zip(slots, graph.unbatch(), strict=True):
            if part.forces is None:
                raise ValueError("`graph` has no forces; the BFGS expert needs them")
            positions = part.positions.detach().cpu().numpy().astype(np.float64).ravel()
            gradient = -part.forces.detach().cpu().numpy().astype(np.float64).ravel()
            steps.append(self._step(slot, positions, gradient))
        return torch.from_numpy(np.concatenate(steps))

    def state_dict(self) -> StateDict:
        """Curvature and last point of each slot."""
        return {
            "slots": {
                slot: {"hessian": known.hessian.copy(), "positions": known.positions, "gradient": known.gradient}
                for slot, known in self._memories.items()
            }
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._memories = {
            int(slot): _Memory(known["hessian"].copy(), known["positions"], known["gradient"])
            for slot, known in state["slots"].items()
        }

    def _step(self, slot: int, positions: FloatArray, gradient: FloatArray) -> FloatArray:
        if not (np.isfinite(positions).all() and np.isfinite(gradient).all()):
            raise ValueError(f"slot {slot}: positions and forces must be finite; the BFGS expert can't go on from here")
        known = self._memories.get(slot)
        if known is None:
            hessian = np.eye(len(positions)) * self.alpha
        elif len(known.positions) != len(positions):
            raise ValueError(
                f"slot {slot} held {len(known.positions) // 3} atoms, now {len(positions) // 3}; "
                "call `reset` when an episode begins"
            )
        else:
            hessian = _secant_update(known, positions, gradient)
        self._memories[slot] = _Memory(hessian, positions, gradient)
        eigenvalues, vectors = np.linalg.eigh(hessian)
        step: FloatArray = -(
            vectors @ (gradient @ vectors / np.maximum(np.abs(eigenvalues), SMALLEST_EIGENVALUE))
        ).reshape(-1, 3)
        longest = np.linalg.norm(step, axis=1).max()
        return step * (self.max_step / longest) if longest >= self.max_step else step


def _secant_update(known: _Memory, positions: FloatArray, gradient: FloatArray) -> FloatArray:
    """The BFGS update of the Hessian from the last point to this one."""
    moved = positions - known.positions
    if np.abs(moved).max() < SAME_POSITION:
        return known.hessian
    change = gradient - known.gradient
    curvature = moved @ change
    if abs(curvature) <= NO_CURVATURE * np.linalg.norm(moved) * np.linalg.norm(change):
        return known.hessian
    response = known.hessian @ moved
    updated: FloatArray = (
        known.hessian + np.outer(change, change) / curvature - np.outer(response, response) / (moved @ response)
    )
    return updated


class TeleportExpert(Expert):
    """Jumps to the known minimum: to the nearest of its periodic images and, in a crystal, of its translates.

    A rigid shift of a crystal costs no energy, so the mean displacement is left out where all directions are periodic.
    """

    def __init__(self) -> None:
        self._minima: dict[int, FloatArray] = {}

    def reset(self, slots: Sequence[int], minima: Sequence[FloatArray | None] | None = None) -> None:
        """Take note of the minima of the episodes that begin."""
        known = minima if minima is not None else [None] * len(slots)
        for slot, minimum in zip(slots, known, strict=True):
            self._minima.pop(slot, None)
            if minimum is not None:
                self._minima[slot] = np.array(minimum, dtype=np.float64)

    def propose(self, graph: AtomGraph, slots: Sequence[int]) -> Tensor:
        """See `Expert.propose`."""
        _check_slots(graph, slots)
        jumps = []
        for slot, part in zip(slots, graph.unbatch(), strict=True):
            minimum = self._minima.get(slot)
            if minimum is None:
                raise ValueError(f"no minimum is known for the episode in slot {slot}; give it to `reset`")
            positions = part.positions.detach().cpu().numpy().astype(np.float64)
            if minimum.shape != positions.shape:
                raise ValueError(
                    f"the minimum of slot {slot} must have shape {positions.shape}, got {minimum.shape}; "
                    "call `reset` when an episode begins"
                )
            jump, _ = find_mic(minimum - positions, part.cell[0].cpu().numpy(), part.pbc[0].cpu().numpy())
            jumps.append(jump - jump.mean(axis=0) if bool(part.pbc.all()) else jump)
        return torch.from_numpy(np.concatenate(jumps))

    def state_dict(self) -> StateDict:
        """The minima of the running episodes."""
        return {"minima": dict(self._minima)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._minima = {int(slot): np.array(minimum) for slot, minimum in state["minima"].items()}


def build_expert(config: ExpertConfig) -> Expert:
    """The expert of this name."""
    if config.name == "teleport":
        return TeleportExpert()
    return BFGSExpert(alpha=config.alpha, max_step=config.max_step)


def draw_expert_episodes(config: ExpertConfig, n: int, generator: np.random.Generator, t: int) -> BoolArray:
    """Which of `n` new episodes the expert drives.

    Args:
        config: Holds the probability's schedule.
        n: Episodes that begin.
        generator: Source of randomness.
        t: Environment steps so far.

    Returns:
        (n,), bool.
    """
    drawn: BoolArray = generator.random(n) < config.probability.at(t)
    return drawn


def _check_slots(graph: AtomGraph, slots: Sequence[int]) -> None:
    if len(slots) != graph.n_graphs or len(set(slots)) != len(slots):
        raise ValueError(f"expected {graph.n_graphs} different slots, one per structure, got {list(slots)}")
