"""A critic given every chance: fitted to thousands of transitions over many epochs, on what the agent's trunk knows.

`benchmarks/critic.py` trains critics as large as the agent for a few hundred updates. Here the trained agent's trunk is
the feature extractor, so that a critic is a small network and its fit takes seconds: fitted Q iteration (Ernst, Geurts,
Wehenkel, JMLR 6 (2005) 503) with twin networks on experience in which half of the choices were random.
`python benchmarks/critic_offline.py --out FOLDER` collects, fits, judges and prints the table, like that script.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from critic import BASE, FMAX, POTENTIAL, SEEDS, judged, pool, row, stored
from torch import Tensor, nn

from relaxrl import load_agent
from relaxrl.agents import Agent
from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.graph import AtomGraph, force_norms, max_force, scatter_max, scatter_mean
from relaxrl.nn import CandidatesConfig, CriticConfig, RankedActor, RankedActorConfig, build_critic
from relaxrl.nn.heads import step_invariants
from relaxrl.structures import read_structures

FEATURES = ("fmax", "gain", "slope", "last_step", "step", "fmean", "n_atoms")
HISTORY = (1, 2, 3)
"""Which of them tell of the last step."""
CANDIDATES = CandidatesConfig(gates=(0.5, 0.7, 0.85, 1.15, 1.3), secant=True)
TRANSITIONS = 3600
SLOTS = 24
GAMMA = 0.9


@dataclass(frozen=True)
class Fit:
    """One way to fit and use the critic."""

    reward: str = "step"
    n_step: int = 1
    history: bool = True
    geometry: bool = True
    """Whether the trunk's invariants are read."""
    margin: float = 0.0
    updates: int = 2500


VARIANTS: dict[str, Fit] = {
    "reward -1 per step": Fit(),
    "reward mixed_delta": Fit(reward="mixed_delta"),
    "reward -log10 F_max": Fit(reward="log_force"),
    "reward: fall of the energy, -1 per step": Fit(reward="energy"),
    "reward -1 per step, returns over 3 steps": Fit(n_step=3),
    "reward -1 per step, without history features": Fit(history=False),
    "reward -1 per step, without the trunk's invariants": Fit(geometry=False),
    "reward -1 per step, margin of 0.2 steps": Fit(margin=0.2),
    "reward -log10 F_max, margin of 0.1": Fit(reward="log_force", margin=0.1),
}


class Describer:
    """The candidates of a structure, and the numbers that tell a critic of them.

    Args:
        agent: Proposes; its trunk is read.
    """

    def __init__(self, agent: Agent) -> None:
        sizes = RankedActorConfig(actor=agent.actor.config, critic=CriticConfig(), candidates=CANDIDATES)
        self.actor = agent.actor
        self.ranked = RankedActor(sizes, agent.actor, build_critic(sizes.critic))

    @torch.no_grad()
    def __call__(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (n_candidates, n_atoms, 3), Å; states (n_graphs, d); candidates (n_graphs, n_candidates, d')."""
        graph = self.ranked._with_edges(graph)
        steps = self.ranked.candidates(graph)
        inputs, output, _ = self.actor.proposal(graph)
        index, n = inputs.graph_index, inputs.n_graphs
        scalars = output.node_features[:, : self.actor.trunk.n_scalars]
        largest = torch.stack([scatter_max(column, index, n) for column in scalars.unbind(1)], dim=1)
        pooled = torch.cat([scatter_mean(scalars, index, n), largest], dim=1)
        assert graph.features is not None
        state = torch.cat([graph.features.float(), step_invariants(steps[0], inputs).float(), pooled], dim=1)

        def cosine(left: Tensor, right: Tensor) -> Tensor:
            a, b, c = (
                scatter_mean((x * y).sum(-1), index, n) for x, y in ((left, right), (left, left), (right, right))
            )
            return a / (b * c).clamp(min=1e-24).sqrt()

        told = []
        for kind, step in enumerate(steps):
            is_secant = float(kind == len(steps) - 1)
            gate = 0.0 if kind == 0 or is_secant else math.log(CANDIDATES.gates[kind - 1])
            fixed = torch.tensor([[gate, is_secant]]).expand(n, 2)
            cosines = torch.stack([cosine(step, steps[0]), cosine(step, inputs.previous_displacement.to(step))], 1)
            told.append(torch.cat([fixed, step_invariants(step, inputs).float(), cosines.float()], dim=1))
        return steps, state, torch.stack(told, dim=1)


@dataclass
class Experience:
    """Transitions in the order they were made, slot by slot within each step of the environment."""

    columns: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """One step of all slots."""
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def joined(self) -> dict[str, Tensor]:
        """Each quantity as (n_steps, n_slots, ...)."""
        return {name: torch.stack(parts) for name, parts in self.columns.items()}


def collect(agent: Agent, seed: int) -> dict[str, Tensor]:
    """Experience on the training crystals; half of the structures get a random candidate."""
    generator = np.random.default_rng(1000 + seed)
    config = EnvConfig(fmax=FMAX, max_steps=25, features=FEATURES)
    env = RelaxationEnv(read_structures("metals:train"), POTENTIAL, config, generator, SLOTS)
    describe, experience = Describer(agent), Experience()
    graph = env.reset()
    steps, state, told = describe(graph)
    for _ in range(TRANSITIONS // SLOTS):
        drawn = generator.integers(told.shape[1], size=SLOTS)
        chosen = torch.from_numpy(np.where(generator.random(SLOTS) < 0.5, 0, drawn))
        result = env.step(RankedActor.pick(steps, chosen, graph.graph_index))
        assert result.graph.forces is not None
        assert result.graph.energy is not None
        assert graph.energy is not None
        _, after_state, after_told = describe(result.graph)
        sizes = graph.atoms_per_graph
        experience.add(
            state=state,
            told=told[torch.arange(SLOTS), chosen],
            reward=result.reward,
            fmax=max_force(result.graph),
            fmean=scatter_mean(force_norms(result.graph.forces), graph.graph_index, SLOTS),
            fall=(graph.energy - result.graph.energy) / sizes,
            next_state=after_state,
            next_told=after_told,
            terminated=result.terminated,
            ended=result.done,
        )
        graph = env.reset_finished()
        steps, state, told = describe(graph)
    return experience.joined()


def rewards(data: dict[str, Tensor], kind: str) -> Tensor:
    """(n_steps, n_slots)."""
    if kind == "mixed_delta":
        return data["reward"]
    if kind == "log_force":
        return -torch.log10(data["fmax"].clamp(min=1e-6) / FMAX).clamp(min=0.0)
    cost = -torch.ones_like(data["fmax"])
    return cost + 10.0 * data["fall"] if kind == "energy" else cost


class Values(nn.Module):
    """Twin values of candidates, from normalised numbers.

    Args:
        n_state: Numbers per state.
        n_told: Numbers per candidate.
    """

    def __init__(self, n_state: int, n_told: int) -> None:
        super().__init__()
        self.twins = nn.ModuleList(
            nn.Sequential(nn.Linear(n_state + n_told, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 1))
            for _ in range(2)
        )

    def forward(self, state: Tensor, told: Tensor) -> Tensor:
        """(2, ...) from states (..., n_state) and candidates (..., n_told)."""
        joined = torch.cat([state, told], dim=-1)
        return torch.stack([twin(joined).squeeze(-1) for twin in self.twins])


class Chooser:
    """An agent whose step is chosen by fitted values."""

    def __init__(self, describe: Describer, values: Values, norm: Normal, margin: float) -> None:
        self.describe, self.values, self.norm, self.margin = describe, values, norm, margin
        self.feature_names = FEATURES
        self.chosen = np.zeros(len(CANDIDATES.gates) + 2, dtype=int)

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        steps, state, told = self.describe(graph)
        state, told = self.norm(state, told)
        value = self.values(state.unsqueeze(1).expand(-1, told.shape[1], -1), told).amin(0)[0]
        best = int(value.argmax())
        best = best if value[best] > value[0] + self.margin else 0
        self.chosen[best] += 1
        return steps[best]


class Normal:
    """Brings all numbers to mean 0 and deviation 1, and hides what a variant must not see."""

    def __init__(self, data: dict[str, Tensor], fit: Fit) -> None:
        n_told = data["next_told"].shape[-1]
        flat = {name: data[name].flatten(0, 1) for name in ("state", "next_told")}
        told = flat["next_told"].reshape(-1, n_told)
        self.mean = flat["state"].mean(0), told.mean(0)
        self.std = flat["state"].std(0).clamp(min=1e-3), told.std(0).clamp(min=1e-3)
        self.seen = torch.ones(len(self.mean[0]))
        if not fit.history:
            self.seen[list(HISTORY)] = 0.0
        if not fit.geometry:
            self.seen[len(FEATURES) + 3 :] = 0.0
        self.told_seen = torch.ones(n_told)
        if not fit.history:
            self.told_seen[-1] = 0.0

    def __call__(self, state: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised states and candidates."""
        return (
            (state - self.mean[0]) / self.std[0] * self.seen,
            (told - self.mean[1]) / self.std[1] * self.told_seen,
        )


def fitted(data: dict[str, Tensor], fit: Fit, seed: int) -> tuple[Values, Normal, float]:
    """Values after all updates, their normalisation, and the root mean square of the last TD errors."""
    norm = Normal(data, fit)
    reward, ended = rewards(data, fit.reward).float(), data["ended"]
    n_steps, n_slots = reward.shape
    # Returns over up to n steps, cut where an episode ends; each row remembers whence it bootstraps.
    total, factor, last = torch.zeros_like(reward), torch.ones_like(reward), torch.zeros_like(reward, dtype=torch.int64)
    alive = torch.ones_like(ended)
    for k in range(fit.n_step):
        rows = torch.arange(n_steps).clamp(max=n_steps - 1 - k) + k
        inside = (torch.arange(n_steps) + k < n_steps)[:, None] & alive
        total = total + torch.where(inside, GAMMA**k * reward[rows], 0.0)
        last = torch.where(inside, rows[:, None].expand_as(last), last)
        factor = torch.where(inside, GAMMA ** (k + 1), factor)
        alive = inside & ~ended[rows]
    slots = torch.arange(n_slots).expand(n_steps, n_slots)
    state, told = norm(data["state"], data["told"])
    next_state, next_told = norm(
        data["next_state"][last, slots].unsqueeze(2).expand(-1, -1, data["next_told"].shape[2], -1),
        data["next_told"][last, slots],
    )
    keep = factor * ~data["terminated"][last, slots]
    rows = [x.flatten(0, 1) for x in (state, told, total, next_state, next_told, keep)]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = Values(state.shape[-1], told.shape[-1])
    target = copy.deepcopy(values)
    optimizer = torch.optim.AdamW(values.parameters(), 1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for update in range(fit.updates):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - 0.9 * update / fit.updates)
        s, c, r, s2, c2, k = _draw(rows, generator)
        with torch.no_grad():
            bellman = r + k * target(s2, c2).amin(0).amax(-1)
        error = values(s, c) - bellman
        optimizer.zero_grad()
        nn.functional.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimizer.step()
        with torch.no_grad():
            for own, slow in zip(values.parameters(), target.parameters(), strict=True):
                slow.lerp_(own, 0.01)
        errors.append(float(error.detach().square().mean()))
    return values, norm, float(np.sqrt(np.mean(errors[-200:])))


def _draw(rows: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    chosen = torch.randint(len(rows[0]), (256,), generator=generator)
    return [column[chosen] for column in rows]


def main() -> None:
    """Collect, fit and judge what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for experience and results")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants alone")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    starts, agent = pool(), load_agent(BASE)
    base = stored(out / "base.json", lambda: judged(agent, starts))
    runs: dict[str, list[dict[str, list[int]]]] = {}
    for seed in SEEDS:
        file = out / f"experience-{seed}.pt"
        if not file.exists():
            torch.save(collect(agent, seed), file)
        data: dict[str, Tensor] = torch.load(file, weights_only=True)
        for name in arguments.only or VARIANTS:

            def judge(name: str = name, seed: int = seed, data: dict[str, Tensor] = data) -> dict[str, list[int]]:
                values, norm, error = fitted(data, VARIANTS[name], seed)
                chooser = Chooser(Describer(agent), values, norm, VARIANTS[name].margin)
                result = judged(chooser, starts)
                print(f"{name} seed {seed}: TD error {error:.3f}, chosen {chooser.chosen.tolist()}", flush=True)
                return result

            runs.setdefault(name, []).append(stored(out / f"offline-{list(VARIANTS).index(name)}-{seed}.json", judge))
    print("| critic | evaluations / agent itself | by seed | mean | p95 | worst | handed over |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(row("the agent itself", [base], base))
    for name, ones in runs.items():
        print(row(name, ones, base))


if __name__ == "__main__":
    main()
