"""A trained agent as an ASE optimizer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer
from scipy import sparse

from relaxrl.errors import CalculatorError, CheckpointError, ConfigError, StructureError
from relaxrl.optimize.cell import RelaxCell
from relaxrl.optimize.cell_surface import CellSurface, make_surface
from relaxrl.optimize.noise import hit_a_cliff, noise, verdict
from relaxrl.optimize.pilot import AgentRelieved, Pilot
from relaxrl.optimize.policy import (
    Policy,
    UntrainedElementWarning,
    check_size,
    feature_names,
    is_agent,
    load_policy,
    observe,
    suited,
    untrained_elements,
)
from relaxrl.optimize.quasi_newton import SecantPairs, newton_step
from relaxrl.optimize.restart import read_state, write_state
from relaxrl.optimize.safeguard import Point, Safeguard, SafeguardConfig, energy_change
from relaxrl.optimize.surface import FilterSurface
from relaxrl.typing import FloatArray, StateDict

MAX_TRIALS = 15
"""Trials of one quasi-Newton step; the last is shorter than the first by 0.4^14 = 3e-6."""

NO_AGENT = "no agent"
"""Why the quasi-Newton method steers where no agent was given."""

UNKNOWN_RADIUS = 0.2
"""Å; the quasi-Newton method's first step where no force difference has been seen: springs are too soft by a factor of
three on covalent and ionic crystals. The next ones are as long as they are trusted."""


class RLOptimizer(Optimizer):
    """Relax a structure with a trained agent; same constructor and `run(fmax, steps)` as `ase.optimize.BFGS`.

    Each step asks the agent for a displacement, caps it, and evaluates forces there. Where the agent shows its Hessian,
    a step that goes wrong, or does not halve the forces, corrects the Hessian for the next one; otherwise a
    displacement that makes things worse is shrunk and tried again. An agent that does no good hands over, for the rest
    of the relaxation, to a quasi-Newton method which inherits all force differences that the agent's steps have
    measured. On a rough surface, where no step makes things better, that goes on all the same. So a good agent makes it
    fast, and a bad one can't break it: after `run`, atoms stand at the last geometry accepted (after a failure on a
    rough surface at the lowest one), never above the energy of the start, and no number is NaN. See docs/optimizer.md.

    One step may take several force evaluations where trials are rejected; `force_evaluations` counts all of them, the
    first included. `handover_reason` says why the agent was relieved; empty while it is in charge.
    `calculator_failures` counts the trial geometries that the calculator refused, and `last_failure` says what it said.

    ASE's constraints are respected. With `cell`, or under `FrechetCellFilter`, `UnitCellFilter` or `StrainFilter`, the
    cell relaxes, too: an agent that shows its Hessian steps in positions and strain together, see docs/cells.md. Other
    filters, and agents without a Hessian in cells, leave all the work to the quasi-Newton method.

    Args:
        atoms: The structure, with a calculator, or a filter of it.
        restart: File from which to continue if it exists, and that is written after each step (NumPy's npz; no
            pickles). If the atoms stand where the file says, the run goes on as if never interrupted; otherwise a
            relaxation of the present geometry starts, with the curvature known so far.
        logfile: Name, open file, "-" for the terminal, None for silence.
        trajectory: Name or open trajectory; accepted geometries are written.
        append_trajectory: Add to an existing trajectory instead of replacing it.
        agent: Name or path of an agent (`sb3:PATH` for one of Stable-Baselines3), an object with `act(graph)`, or None
            for the quasi-Newton method alone. `auto`: the shipped one that was trained on all elements, if any.
        maxstep: Å; no atom moves farther in one step. None: 0.5, or as far as the agent was made to look ahead
            (`agent.max_step`) if that is farther. Larger than that of ASE's optimizers since a bad step is taken back;
            with a learned Hessian 0.3 Å costs 5 % more evaluations, 1 Å gains nothing.
        safeguard: When to reject, shrink, correct and hand over.
        cell: Whether the cell of a structure relaxes: True, or what of it may change. A filter decides for itself.
        **kwargs: For `ase.optimize.optimize.Optimizer`.

    Warns:
        UntrainedElementWarning: The agent knows what elements it was trained on, and these are others.

    Raises:
        StructureError: There are no atoms, or more than the agent has room for.
        TypeError: An argument of another kind, or one that only other optimizers have.
        CalculatorError: From `run`: no calculator, or it failed where no smaller step helps, or its forces don't
            belong to its energies. Atoms then stand at the last good geometry.
        CheckpointError: The restart file is damaged or belongs to other atoms; or there is no such agent.

    Examples:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> atoms = bulk("Cu", cubic=True)
        >>> atoms.rattle(0.1, seed=0)
        >>> atoms.calc = EMT()
        >>> optimizer = RLOptimizer(atoms, agent=None, logfile=None)
        >>> optimizer.run(fmax=0.01)
        True
    """

    defaults: ClassVar[dict[str, Any]] = {**Optimizer.defaults, "maxstep": 0.5}

    def __init__(
        self,
        atoms: Atoms,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: str | Path | None = None,
        append_trajectory: bool = False,
        agent: Policy | str | Path | None = "metals",
        maxstep: float | None = None,
        safeguard: SafeguardConfig | None = None,
        cell: RelaxCell | bool = False,
        **kwargs: Any,
    ) -> None:
        self.maxstep = float(self.defaults["maxstep"] if maxstep is None else maxstep)
        if not self.maxstep > 0:
            raise ValueError(f"`maxstep` must be positive, got {maxstep} Å")
        _check_structure(atoms)
        _check_arguments(restart, cell, kwargs)
        self._cell = RelaxCell() if cell is True else cell or None
        if self._cell is not None and not isinstance(atoms, Atoms):
            raise ConfigError(
                f"`cell` is for Atoms, got a {type(atoms).__name__}, which decides itself; give one of both"
            )
        if isinstance(agent, str):
            agent = suited(agent, set(getattr(atoms, "atoms", atoms).symbols))
        self.agent = load_policy(agent)
        # A policy that plans ahead sees farther than a Hessian; who names `maxstep` decides for both.
        reach = float(getattr(self.agent, "max_step", 0.0)) if maxstep is None else 0.0
        self._agent_maxstep = max(self.maxstep, reach)
        self.agent_name = str(agent) if isinstance(agent, str | Path) else type(agent).__name__
        self.config = safeguard or SafeguardConfig()
        super().__init__(atoms, restart, logfile, trajectory, append_trajectory, **kwargs)
        if self._surface.structure is not None:
            check_size(self.agent, len(self._surface.structure), "the structure")
        if message := untrained_elements(self.agent, self._surface.symbols):
            warnings.warn(message, UntrainedElementWarning, stacklevel=2)

    def initialize(self) -> None:
        """Start without any knowledge; ASE calls it where there is no restart file."""
        self.force_evaluations = 0
        self.handover_reason = "" if self.agent is not None else NO_AGENT
        self._surface = make_surface(self.atoms, self._cell)
        self.optimizable = self._surface.optimizable
        self.calculator_failures = 0
        self.last_failure = ""
        self._pairs = SecantPairs()
        self._pilot = None if self.agent is None else Pilot(self.agent, self._surface, self.config)
        self._safeguard = Safeguard(self.config, self.maxstep)
        self._here: Point | None = None
        self._previous: Point | None = None
        self._lowest: Point | None = None  # since the surface was taken for rough
        self._evaluated = False  # the present point, in this process: a restart file does not spare the evaluation

    @property
    def agent_in_charge(self) -> bool:
        """Whether the next step is the agent's."""
        return not self.handover_reason

    def run(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> bool:
        """Relax until all forces are below `fmax` eV/Å, or for `steps` steps; returns whether converged."""
        self._locate()
        return bool(super().run(fmax=fmax, steps=steps))

    def irun(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> Iterator[bool]:
        """Like `run`, as a generator that yields before the first and after each step whether it is converged."""
        self._locate()
        generator: Iterator[bool] = super().irun(fmax=fmax, steps=steps)
        return generator

    def step(self, gradient: FloatArray | None = None) -> None:
        """Move to the next accepted geometry.

        Args:
            gradient: Part of ASE's interface; the calculator's own cache is asked instead.
        """
        del gradient
        start = self._locate()
        try:
            if self._safeguard.out_of_patience and not self._safeguard.rough:
                self._take_for_rough(start)
            self._safeguard.check_progress(start)
            if self._safeguard.probe_is_due():
                self._look_for_noise(start)
            if self._pilot is None or not self.agent_in_charge or not self._agent_step(self._pilot, start):
                self._quasi_newton_step(start)
        except CalculatorError:
            self._stand(self._lowest or start)
            raise
        except BaseException:
            # Also on Ctrl-C: a rejected trial must not be what the user keeps.
            self._stand(start)
            raise
        if self.restart is not None and self.comm.rank == 0:
            # ASE counts the step after this function returns.
            write_state(Path(self.restart), self.state_dict() | {"nsteps": self.nsteps + 1})

    def log(self, gradient: FloatArray) -> None:
        """Write one line: ASE's columns, then force evaluations so far, and who takes the next step."""
        name = type(self).__name__
        if self.nsteps == 0:
            header = f"{'Step':>4} {'Time':>8} {'Energy':>15} {'fmax':>15} {'Evals':>6}  Policy"
            self.logfile.write(f"{' ' * len(name)}  {header}\n")
        energy, fmax = self.optimizable.get_value(), self.optimizable.gradient_norm(gradient)
        policy = "agent" if self.agent_in_charge else "quasi-Newton"
        columns = f"{self.nsteps:4d} {time.strftime('%H:%M:%S')} {energy:15.6f} {fmax:15.6f}"
        self.logfile.write(f"{name}: {columns} {self.force_evaluations:6d}  {policy}\n")

    def todict(self) -> dict[str, Any]:
        """Description for trajectories."""
        description: dict[str, Any] = super().todict()
        return {**description, "agent": self.agent_name}

    def state_dict(self) -> StateDict:
        """Everything that later steps depend on, apart from atoms, calculator and agent."""
        state: StateDict = {
            "numbers": self._surface.numbers,
            "nsteps": self.nsteps,
            "force_evaluations": self.force_evaluations,
            "handover_reason": self.handover_reason,
            "calculator_failures": self.calculator_failures,
            "last_failure": self.last_failure,
            "pairs": self._pairs.state_dict(),
            "safeguard": self._safeguard.state_dict(),
            "surface": self._surface.state_dict(),
        }
        if self._pilot is not None:
            state["pilot"] = self._pilot.state_dict()
        for name, point in (("here", self._here), ("previous", self._previous), ("lowest", self._lowest)):
            if point is not None:
                state[name] = {key: value for key, value in vars(point).items() if value is not None}
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`.

        Raises:
            CheckpointError: The state belongs to other atoms.
        """
        if not np.array_equal(state["numbers"], self._surface.numbers):
            raise CheckpointError(
                f"expected a state of the {len(self._surface.numbers)} atoms given, got one of "
                f"{len(state['numbers'])} atoms or of other elements; use another restart file"
            )
        self.nsteps = int(state["nsteps"])
        self.force_evaluations = int(state["force_evaluations"])
        if self.agent is not None and state["handover_reason"] != NO_AGENT:
            self.handover_reason = str(state["handover_reason"])
        self._pairs.load_state_dict(state["pairs"])
        # Older files don't have these.
        self.calculator_failures = int(state.get("calculator_failures", 0))
        self.last_failure = str(state.get("last_failure", ""))
        if self._pilot is not None and "pilot" in state:
            self._pilot.load_state_dict(state["pilot"])
        self._safeguard.load_state_dict(state["safeguard"])
        here, n_dof = state.get("here"), len(self._surface.numbers) * 3 + 6 * isinstance(self._surface, CellSurface)
        if here is not None and len(here["x"]) != n_dof and not isinstance(self._surface, FilterSurface):
            raise CheckpointError(
                f"expected a state with {n_dof} coordinates, got {len(here['x'])}: it belongs to a relaxation "
                f"{'at fixed' if n_dof > len(here['x']) else 'of the'} cell; use another restart file"
            )
        self._surface.load_state_dict(state.get("surface", {}))
        self._here, self._previous, self._lowest = (
            _point(state[name]) if name in state else None for name in ("here", "previous", "lowest")
        )
        self._evaluated = False

    def read(self) -> None:
        """Continue from the restart file; ASE calls it where there is one."""
        self.initialize()
        self.load_state_dict(read_state(Path(self.restart)))

    def _agent_step(self, pilot: Pilot, start: Point) -> bool:
        """Try the agent's displacement, then better or shorter ones; False if it was relieved with none accepted."""
        structure, names = self._surface.structure, feature_names(pilot.policy)
        graph = None
        if structure is not None:
            graph = observe(structure, start, self._previous, self.nsteps, self._safeguard.fmax_first, names)
        accepted, rejections, length = False, 0, self.maxstep
        try:
            displacement = self._within(pilot.propose(start, graph), self._agent_maxstep)
            while not accepted:
                length = self._surface.length(displacement)
                trial = self._try(start, displacement)
                accepted = trial is not None and self._safeguard.accepts(start, trial)
                pilot.learn(start, trial, accepted)
                if trial is not None and accepted:
                    self._accept(start, trial)
                else:
                    self._safeguard.reject()
                    rejections += 1
                pilot.check(self._safeguard, rejections)
                better = pilot.correct(start) if not accepted and pilot.surprises else None
                displacement = self._within(displacement if better is None else better, self.config.shrink * length)
        except AgentRelieved as reason:
            self.handover_reason = str(reason)
            if rejections and not accepted:
                self._safeguard.shrink(length)
        return accepted

    def _within(self, displacement: FloatArray, radius: float) -> FloatArray:
        """The displacement, scaled as a whole so that no atom moves farther than `radius` Å."""
        # Scaled by its largest component first: the length of an absurd proposal would overflow.
        peak = float(np.abs(displacement).max())
        if peak == 0:
            return displacement
        unit = displacement / peak
        length = self._surface.length(unit)
        return unit / length * min(radius, peak * length)

    def _quasi_newton_step(self, start: Point) -> None:
        """Move along the quasi-Newton direction, as far as it is trusted; on a rough surface wherever it leads."""
        if self._safeguard.should_forget:
            self._forget()
        if self._descend(start):
            return
        self._look_for_noise(start)
        self._take_for_rough(start)
        if self._descend(start):
            return
        raise CalculatorError(
            f"no step from fmax {start.fmax:.4g} eV/Å lowers the energy or the forces, and none stays below the energy "
            "of the start; expected forces that are the gradient of the energy. Check the calculator"
        )

    def _descend(self, start: Point) -> bool:
        """Try shorter and shorter steps until one stands; False where none does, or where one ran into a cliff."""
        if not self._pairs:
            self._safeguard.radius = min(self._safeguard.radius, UNKNOWN_RADIUS)
        hessian, free = self._guess(start), self._surface.free
        for _ in range(MAX_TRIALS):
            full = newton_step(start.gradient, hessian, self._pairs, free)
            if not full @ start.gradient < 0:
                self._pairs.clear()  # only rounding gets here: without pairs the step is downhill
                full = newton_step(start.gradient, hessian, self._pairs, free)
            full_length = max(self._surface.length(full), 1e-12)
            fraction = min(1.0, self._safeguard.radius / full_length)
            length = fraction * full_length
            trial = self._try(start, fraction * full)
            if trial is not None and self._safeguard.accepts(start, trial, strict=True):
                # Along its own direction the model falls by g·s for the full step, less half of it for the curvature.
                predicted = fraction * (1 - fraction / 2) * float(full @ start.gradient)
                self._safeguard.adapt(length, predicted, energy_change(start, trial))
                self._accept(start, trial)
                return True
            self._safeguard.reject()
            self._safeguard.shrink(length)
            if trial is not None and not self._safeguard.rough and hit_a_cliff(start, trial):
                break
        return False

    def _look_for_noise(self, start: Point) -> None:
        """End here if it is the noise of the calculator that keeps the forces up, at the cost of an evaluation or two.

        Raises:
            CalculatorError: It is.
        """
        found = noise(self._surface, start, float(self.fmax))
        self.force_evaluations += found.evaluations
        if message := verdict(found.size, start, float(self.fmax)):
            raise CalculatorError(message)

    def _take_for_rough(self, start: Point) -> None:
        """From now on steps need not lead down; an agent in charge is relieved."""
        self._forget()
        self._safeguard.roughen()
        self._lowest = self._lowest or start
        self.handover_reason = self.handover_reason or "the surface is rough"

    def _stand(self, point: Point) -> None:
        """Leave the atoms there."""
        self._surface.place(point)
        self._here, self._evaluated = point, False

    def _forget(self) -> None:
        """What was learned of the curvature misleads."""
        self._pairs.clear()
        if self._pilot is not None:
            self._pilot.surprises.clear()

    def _guess(self, start: Point) -> sparse.csr_array:
        """The Hessian that the quasi-Newton method starts from: the agent's where it has proved good, else springs."""
        guess = None if self._pilot is None else self._pilot.guess(start)
        return self._surface.hessian_guess(start) if guess is None else guess

    def _locate(self) -> Point:
        """The point where the atoms stand; a relaxation begins there if it is a new one."""
        point = self._surface.here()
        if point is None:
            self.force_evaluations += 1
            raise CalculatorError(
                f"the first geometry can't be evaluated: {self._surface.failure}"
            ) from self._surface.failure
        known = self._here
        # A calculator that was exchanged gives another energy at the same place.
        if known is None or not np.array_equal(point.x, known.x) or abs(point.energy - known.energy) > 1e-6:
            point = self._surface.begin(point)
            self._previous, self._lowest, self._here, self._evaluated = None, None, point, False
            self.handover_reason = "" if self.agent is not None else NO_AGENT
            if self._pilot is not None:
                self._pilot.begin()
            self._safeguard.begin(point)
        if not self._evaluated:
            self.force_evaluations += 1
            self._evaluated = True
        # Not the numbers evaluated again after a restart: a calculator may sum in another order.
        return self._here or point

    def _try(self, start: Point, displacement: FloatArray) -> Point | None:
        """One force evaluation at `start` displaced, its curvature kept; None if the calculator refuses."""
        trial = self._surface.displaced(start, displacement)
        self.force_evaluations += 1
        self._safeguard.count_failure(self._surface.failure if trial is None else None)
        if trial is None:
            self.calculator_failures += 1
            self.last_failure = str(self._surface.failure)
        else:
            self._pairs.add(trial.x - start.x, trial.gradient - start.gradient)
        return trial

    def _accept(self, start: Point, trial: Point) -> None:
        self._previous, self._here = start, trial
        if self._lowest is not None and trial.energy < self._lowest.energy:
            self._lowest = trial
        self._safeguard.accept(trial)


def _check_structure(atoms: Any) -> None:
    if not hasattr(atoms, "__ase_optimizable__"):
        raise TypeError(f"`atoms` must be Atoms or an ASE filter of them, got {type(atoms).__name__}")
    if len(atoms) == 0:
        raise StructureError("can't relax a structure without atoms")
    structure = atoms if isinstance(atoms, Atoms) else getattr(atoms, "atoms", None)
    if isinstance(structure, Atoms) and not np.isfinite(structure.positions).all():
        bad = int(np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))[0])
        raise StructureError(f"expected finite positions, got {structure.positions[bad]} for atom {bad}")


def _check_arguments(restart: str | Path | None, cell: Any, others: dict[str, Any]) -> None:
    """Mistakes of those who come from other optimizers."""
    if not isinstance(cell, RelaxCell | bool):
        raise TypeError(f"`cell` must be True, False or a RelaxCell, got {cell!r}")
    if "alpha" in others:
        raise TypeError("RLOptimizer has no `alpha`: the agent knows how stiff a structure is; leave it out")
    if restart is not None and is_agent(restart):
        raise ConfigError(f"`restart` is a file of the optimizer's own, got the agent {str(restart)!r}: say agent=...")


def _point(state: StateDict) -> Point:
    fmax, geometry = float(state["fmax"]), state.get("geometry")
    return Point(state["x"], float(state["energy"]), state["gradient"], fmax, geometry)
