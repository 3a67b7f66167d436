"""What makes a relaxation end whatever proposes its steps: acceptance, step caps, and watching for progress.

Nothing here knows about atoms or agents: points of a surface go in, decisions come out.
"""

from __future__ import annotations

from dataclasses import dataclass

from relaxrl.config import configclass
from relaxrl.errors import CalculatorError
from relaxrl.typing import FloatArray, StateDict

ENERGY_RESOLUTION = 2e-7
"""Relative; energies that differ by less are taken as equal: the rounding of float32 machine-learned potentials."""
ROUGH_RADIUS = 0.2
"""Å; longest step on a rough surface, as of ASE's BFGS."""
PROBE = 30
"""Force evaluations without a new lowest fmax, after which the calculator is tried for noise."""


@configclass
class SafeguardConfig:
    """When the optimizer doubts its steps, and what it does then."""

    shrink: float = 0.4
    """Factor on a rejected step."""
    max_rejections: int = 2
    """Rejected proposals in a row, beyond which the agent hands over to the quasi-Newton method."""
    max_corrections: int = 5
    """The same for an agent that shows its Hessian: each rejected proposal corrects the next one."""
    contraction: float = 0.5
    """The agent must cut fmax by this factor per force evaluation, on average over `window`. The quasi-Newton method
    that would take over reaches 0.5 on metals: a slower agent is better relieved. For an agent that shows its Hessian
    it is the factor above which a step counts as a surprise, from which the next ones learn."""
    window: int = 2
    """Force evaluations over which that average is taken."""
    calibration: float = 0.5
    """Power of the last surprise's best-fitting factor by which the agent's whole Hessian is multiplied; 0 for none.
    On surfaces that the agent was trained on it changes nothing, elsewhere it saves a tenth of the evaluations."""
    disadvantage: float = 2.0
    """An agent that shows its Hessian hands over when springs along the bonds would have foreseen its last surprises
    better by this factor: the product, over `foresight` surprises, of the ratios of the errors."""
    foresight: int = 3
    """Surprises over which that product is taken."""
    audition: int = 3
    """First force evaluations by which an agent that shows its Hessian is judged; 0 for no judgement."""
    tolerance: float = 0.4
    """Relative error of a foreseen change of the forces that speaks neither for nor against the agent. `metals` is at
    0.1 in the median of its first steps at home, at 0.6 on covalent crystals and oxides. It hands over if one of the
    first steps is a surprise and the product of the errors so far, each divided by this, is too large."""
    credit: float = 1.3
    """Logarithm of how large that product may be for an agent that was trained on all elements; 0 for others.
    With 1 or 0.7, `metals` takes 1 and 2 % more evaluations on strained cells of its own elements."""
    idle: int = 20
    """Force evaluations without a new lowest energy or fmax, after which any agent hands over."""
    term: int = 60
    """Force evaluations after which any agent hands over. On random structures of a carbide, where it does no good,
    60 save a tenth of the evaluations; of oxides, where it does, they cost 1 % at most."""
    patience: int = 100
    """Force evaluations without a new lowest energy or fmax, after which the surface is taken for rough; after as many
    more the relaxation fails loudly."""
    max_failures: int = 4
    """Trial geometries in a row that the calculator may refuse; each next one is closer to the last good geometry."""

    def __post_init__(self) -> None:
        if not 0 < self.shrink < 1:
            raise ValueError(f"`shrink` must be between 0 and 1, got {self.shrink}")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"`calibration` must be between 0 and 1, got {self.calibration}")
        if not self.disadvantage >= 1:
            raise ValueError(f"`disadvantage` must be at least 1, got {self.disadvantage}")
        if not 0 < self.contraction <= 1:
            raise ValueError(f"`contraction` must be above 0 and at most 1, got {self.contraction}")
        if not (self.tolerance > 0 and self.credit >= 0):
            raise ValueError(
                f"`tolerance` must be positive and `credit` not negative, got {self.tolerance}, {self.credit}"
            )
        least_values = {
            "max_rejections": 0,
            "max_corrections": 0,
            "window": 1,
            "foresight": 1,
            "idle": 1,
            "term": 1,
            "audition": 0,
        }
        for name, least in (least_values | {"patience": 2, "max_failures": 0}).items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Point:
    """One evaluated geometry.

    Attributes:
        x: (n_dof,), Å.
        energy: eV.
        gradient: (n_dof,), eV/Å; constrained directions are zero.
        fmax: eV/Å.
        geometry: (n_atoms + 3, 3), Å; positions and cell, where these are not the coordinates.
    """

    x: FloatArray
    energy: float
    gradient: FloatArray
    fmax: float
    geometry: FloatArray | None = None


def energy_change(old: Point, new: Point) -> float:
    """Energy of `new` above `old`, eV; integrated from the forces where the energies can't resolve it.

    Close to a minimum the energy changes by less than its rounding error long before the forces are small.
    """
    change = new.energy - old.energy
    if abs(change) > energy_resolution(old.energy):
        return change
    return float(0.5 * (old.gradient + new.gradient) @ (new.x - old.x))


class Safeguard:
    """Decides which trial steps stand, how far a quasi-Newton step may go, and when there is no progress.

    A trial stands if it lowers the energy, or lowers fmax without rising above the energy that the relaxation started
    from. So fmax can't be bought by taking the structure apart. In strict mode fmax has to fall below everything seen
    before, which excludes endless cycles. Once the surface is taken for rough, all trials stand that are not above that
    energy.

    Args:
        config: When to doubt.
        largest: Å; the longest step.
    """

    def __init__(self, config: SafeguardConfig, largest: float) -> None:
        self.config = config
        self.largest = largest
        self.radius = largest
        self.fmax_first = 0.0
        self._ceiling = 0.0
        self._lowest_energy = 0.0
        self._best_fmax: list[float] = []  # lowest fmax after each force evaluation
        self._idle = 0
        self._failures = 0
        self._level = 0  # force evaluations without a new lowest fmax
        self._probe_at = PROBE
        self.rough = False

    def begin(self, start: Point) -> None:
        """A relaxation starts here."""
        self.radius = self.largest
        self.fmax_first = start.fmax
        self._ceiling = self._lowest_energy = start.energy
        self._best_fmax = [start.fmax]
        self._idle = self._failures = self._level = 0
        self._probe_at = PROBE
        self.rough = False

    def accepts(self, old: Point, new: Point, strict: bool = False) -> bool:
        """Whether the step from `old` to `new` stands."""
        if energy_change(old, new) <= 0:
            return True
        if self.rough:
            return new.energy <= self._ceiling
        return new.energy <= self._ceiling and new.fmax < (self._best_fmax[-1] if strict else old.fmax)

    def accept(self, trial: Point) -> None:
        """A trial was evaluated, and it stands."""
        progress = trial.energy < self._lowest_energy - energy_resolution(trial.energy)
        progress |= trial.fmax < 0.99 * self._best_fmax[-1]
        self._idle = 0 if progress else self._idle + 1
        self._level = 0 if trial.fmax < 0.99 * self._best_fmax[-1] else self._level + 1
        if self._level == 0:
            self._probe_at = PROBE
        self._lowest_energy = min(self._lowest_energy, trial.energy)
        self._best_fmax.append(min(trial.fmax, self._best_fmax[-1]))

    def reject(self) -> None:
        """A trial was evaluated, and it does not stand."""
        self._idle += 1
        self._level += 1
        self._best_fmax.append(self._best_fmax[-1])

    def roughen(self) -> None:
        """The surface has kinks or cliffs, where no step leads down though forces are large: stop asking for it."""
        if not self.rough:
            self._idle = 0
        self.rough = True
        self.radius = min(ROUGH_RADIUS, self.largest)

    def shrink(self, length: float) -> None:
        """Trust less than the step of `length` Å that was rejected."""
        self.radius = self.config.shrink * min(self.radius, length)

    def adapt(self, length: float, predicted: float, actual: float) -> None:
        """Fit the trust radius to how well an accepted step was foreseen.

        Args:
            length: Å.
            predicted: Energy change that the quadratic model promised, eV; negative.
            actual: Energy change that came, eV.
        """
        if self.rough:
            self.radius = min(ROUGH_RADIUS, self.largest)
            return
        quality = actual / predicted if predicted < 0 else 0.0
        if quality < 0.25:
            self.radius *= 0.7
        elif quality > 0.5 and length > 0.8 * self.radius:
            self.radius *= 1.5
        if quality >= 0.25:
            self.radius = max(self.radius, 2 * length)  # the model holds at least that far
        self.radius = min(self.radius, self.largest)

    @property
    def agent_stalled(self) -> bool:
        """Whether fmax fell by less than asked for over the last force evaluations."""
        if len(self._best_fmax) <= self.config.window:
            return False
        return self._best_fmax[-1] > self._best_fmax[-1 - self.config.window] * (
            self.config.contraction**self.config.window
        )

    @property
    def agent_idle(self) -> bool:
        """Whether there was no progress of any kind for longer than an agent may take."""
        return self._idle >= self.config.idle

    @property
    def term_is_over(self) -> bool:
        """Whether the relaxation takes longer than an agent may steer it."""
        return len(self._best_fmax) > self.config.term

    def probe_is_due(self) -> bool:
        """Whether fmax has found no new lowest value for so long that noise may be the reason; True once each time."""
        due = self._level >= self._probe_at
        if due:
            self._probe_at = self._level + PROBE
        return due

    @property
    def should_forget(self) -> bool:
        """Whether, after half the patience, the curvature learnt is more likely what misleads."""
        return self._idle >= self.config.patience // 2 and self._idle % (self.config.patience // 2) == 0

    @property
    def out_of_patience(self) -> bool:
        """Whether neither energy nor fmax had a new record for a long time."""
        return self._idle >= self.config.patience

    def check_progress(self, here: Point) -> None:
        """Fail loudly if neither energy nor fmax had a new record for a long time.

        Raises:
            CalculatorError: Patience has run out.
        """
        if self.out_of_patience:
            raise CalculatorError(
                f"stuck at fmax {here.fmax:.4g} eV/Å: {self._idle} force evaluations without a lower energy or force; "
                "expected forces that are the gradient of the energy. Check the calculator's convergence, or ask for "
                "a larger fmax"
            )

    def count_failure(self, failure: Exception | None) -> None:
        """The calculator gave numbers (None), or refused a trial geometry.

        Raises:
            CalculatorError: It has refused too many in a row.
        """
        self._failures = 0 if failure is None else self._failures + 1
        if self._failures > self.config.max_failures:
            raise CalculatorError(
                f"the calculator failed at {self._failures} geometries in a row, each closer to the last good one: "
                f"{failure}"
            ) from failure

    def state_dict(self) -> StateDict:
        """Records, counts and the trust radius."""
        return {
            "radius": self.radius,
            "fmax_first": self.fmax_first,
            "ceiling": self._ceiling,
            "lowest_energy": self._lowest_energy,
            "best_fmax": self._best_fmax,
            "idle": self._idle,
            "level": self._level,
            "probe_at": self._probe_at,
            "rough": self.rough,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.radius = float(state["radius"])
        self.fmax_first = float(state["fmax_first"])
        self._ceiling = float(state["ceiling"])
        self._lowest_energy = float(state["lowest_energy"])
        self._best_fmax = [float(value) for value in state["best_fmax"]]
        self._idle = int(state["idle"])
        self._failures = 0
        self._level = int(state.get("level", 0))  # older files don't have these
        self._probe_at = int(state.get("probe_at", PROBE))
        self.rough = bool(state.get("rough", False))


def energy_resolution(energy: float) -> float:
    """Differences below this can't be told from rounding, eV."""
    return ENERGY_RESOLUTION * max(1.0, abs(energy))
