"""Everything a training run can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from relaxrl.agents import (
    CurriculumConfig,
    ExpertConfig,
    ExplorationConfig,
    PriorityConfig,
    Schedule,
    TD3Config,
)
from relaxrl.config import configclass, with_defaults
from relaxrl.envs import EnvConfig
from relaxrl.nn import ActorConfig, CandidatesConfig, CriticConfig, DirectActorConfig
from relaxrl.training.diagnostics import DiagnosisConfig


@configclass
class ReplayConfig:
    """What is remembered, and what batches are made of."""

    capacity: int | None = None
    """Transitions kept in each of the two buffers. None: 500 per atom of the mean training structure, see
    `relaxrl.agents.default_capacity`: old transitions of another policy give wrong targets."""
    batch_size: int = 64
    """Transitions per update, from both buffers together."""
    expert_share: Schedule = field(default_factory=lambda: Schedule(start=0.25))
    """The expert's exact share of each batch, against environment steps."""
    priority: PriorityConfig | None = None
    """Prioritised sampling in both buffers; None samples uniformly."""
    n_step: int = 1
    """Environment steps joined into one transition."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least_one("batch_size", self.batch_size)
        _at_least_one("n_step", self.n_step)
        if self.capacity is not None:
            _at_least_one("capacity", self.capacity)


@configclass
class WarmUpConfig:
    """What happens before the agent acts."""

    expert_steps: int = 500
    """Environment steps driven by the expert, to fill its buffer."""
    agent_steps: int = 0
    """Environment steps of the untrained agent before the first update."""
    cloning_updates: int = 0
    """Updates on expert transitions alone before the agent acts: imitation first. The critic learns along."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("expert_steps", "agent_steps", "cloning_updates"):
            _not_negative(name, getattr(self, name))


@configclass
class EvaluationConfig:
    """How progress is judged, on crystals that are not trained on."""

    structures: tuple[str, ...] | str | None = None
    """Development crystals: files or shipped sets. None takes the `metals:dev` set where training uses `metals:train`,
    otherwise splits `fraction` of the crystals off the training set, by parent."""
    fraction: float = 0.15
    """Share of the parents that becomes the development set when `structures` is None."""
    count: int | None = 24
    """Use only this many of them, spread evenly over the set; None uses all."""
    every: int = 2000
    """Environment steps between evaluations; each also writes a checkpoint."""
    steps: int = 60
    """Longest episode of an evaluation. BFGS needs 20 to 60."""
    seed: int = 0
    """Of the random displacement of crystals that are minima. The same in all runs, so that runs are comparable."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.fraction < 1:
            raise ValueError(f"`fraction` must be between 0 and 1, got {self.fraction}")
        for name in ("every", "steps"):
            _at_least_one(name, getattr(self, name))
        if self.count is not None:
            _at_least_one("count", self.count)


@configclass
class SamplingConfig:
    """Which training crystals are drawn more often: those that the agent left with larger forces."""

    power: float = 0.5
    """0 draws all with the same frequency; see `relaxrl.agents.difficulty_weights`."""
    largest_ratio: float = 10.0
    """Between the weights of the hardest and of a solved crystal."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _not_negative("power", self.power)
        if self.largest_ratio < 1:
            raise ValueError(f"`largest_ratio` must be at least 1, got {self.largest_ratio}")


@configclass
class RunConfig:
    """Where the run lives, how long it lasts and how its time is spent."""

    dir: str = "runs/{time}"
    """Run folder; must be new or empty. `{seed}` and `{time}` are replaced."""
    seed: int = 0
    """All randomness of the run comes from it."""
    device: str = "cpu"
    """Of the networks, and of structures and torch potentials unless `env.device` names another; `cuda` where there is
    one. Replay stays on the CPU."""
    steps: int | None = None
    """The run ends after this many environment steps of all slots together."""
    minutes: float | None = None
    """... or after this time, evaluations included."""
    updates: int | None = None
    """... or after this many updates of the critics. Whichever comes first."""
    n_envs: int = 16
    """Episodes side by side; they share each call of the networks and of the potential."""
    updates_per_step: float = 0.25
    """Updates per environment step. With a cheap potential fresh transitions cost less than updates; raise it to 1 or
    more where force evaluations are expensive."""
    log_every: int = 400
    """Environment steps between rows of `metrics.csv`."""
    threads: int | None = None
    """CPU threads of torch; None leaves them as they are."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _not_negative("seed", self.seed)
        if self.steps is None and self.minutes is None and self.updates is None:
            raise ValueError("one of `steps`, `minutes` and `updates` must say when the run ends; all are null")
        for name in ("steps", "minutes", "updates", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be positive or null, got {value}")
        for name in ("n_envs", "log_every"):
            _at_least_one(name, getattr(self, name))
        if self.updates_per_step <= 0:
            raise ValueError(f"`updates_per_step` must be positive, got {self.updates_per_step}")


@configclass
class TrainConfig:
    """A run of reinforcement learning."""

    method: Literal["td3"] = "td3"
    """Tells it apart from `cloning`, see `CloningConfig`."""
    structures: tuple[str, ...] | str
    """Training crystals: files, folders, or shipped sets such as `metals:train`."""
    kind: Literal["minimum", "start"] | None = None
    """`minimum`: relaxed crystals, displaced at each reset, and so are those of the development set. `start`: taken
    as they are. None goes by what the files say, `start` if they say nothing."""
    calculator: str = "emt"
    """Potential by name (`emt`, `lj`, `eam:FILE`) or import path (`module:Class`), with arguments:
    `module:Class,key=value`."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment, its reward included."""
    actor: Annotated[ActorConfig, with_defaults(kind="direct")] = field(default_factory=DirectActorConfig)
    """The policy; `kind: direct` or `kind: hessian`."""
    init_agent: str | None = None
    """Agent that the actor starts from: the name of a shipped one, a folder or a run folder. `actor` must describe the
    same network; a gate and policy heads that the agent lacks start without effect. None starts from random
    parameters."""
    trained: Literal["actor", "heads"] = "actor"
    """What of the actor is trained: all of it, or gate and trust radius alone (`actor.policy_heads`), the step's
    direction staying the initial agent's."""
    candidates: CandidatesConfig | None = None
    """Variations of the actor's step, the best of which the critic chooses: deep Q-learning in place of TD3, with the
    actor as it is. None lets the actor act and be trained."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Each of the twin critics."""
    td3: TD3Config = field(default_factory=TD3Config)
    """The algorithm and its additions."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Buffers and batches."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """Whom the agent imitates at first."""
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    """Noise on the agent's actions."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Small structures first."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Hard structures more often."""
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    """Before the agent acts."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Judging progress."""
    diagnosis: DiagnosisConfig = field(default_factory=DiagnosisConfig)
    """From where on a figure is abnormal."""
    run: RunConfig = field(default_factory=lambda: RunConfig(steps=20_000))
    """Folder, seed, length."""

    def __post_init__(self) -> None:
        """Check what no part can check alone."""
        if self.trained == "heads" and self.actor.policy_heads is None and not self.actor.env_input_dim:
            raise ValueError("`trained: heads` needs heads to train; set `actor.policy_heads: {}`")
        if self.candidates is not None and (self.trained != "actor" or self.init_agent is None):
            raise ValueError(
                "`candidates` train the critic alone, so that the actor must have been trained before: give "
                "`init_agent`, and leave `trained` out"
            )
        if self.env.cell is not None:
            raise ValueError(
                "`env.cell` is on, but networks trained here move atoms alone; leave it out, or train in "
                "relaxrl/Relax-v0 with a library whose policies take any action (docs/other-libraries.md)"
            )
        n_features = len(self.env.features)
        for name, part in (("actor", self.actor), ("critic", self.critic)):
            if part.env_input_dim not in (0, n_features):
                raise ValueError(
                    f"`{name}.env_input_dim` is {part.env_input_dim}, but `env.features` names {n_features} features; "
                    "give both the same number, or 0 to the network to ignore them"
                )


def _at_least_one(name: str, value: float) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")


def _not_negative(name: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}")
