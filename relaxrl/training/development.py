"""Judging a policy while it is trained: alone, without a fallback, on development crystals, against BFGS."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.optimize import BFGS
from torch import Tensor

from relaxrl.agents import TD3
from relaxrl.checkpoint import write_atomically
from relaxrl.config import to_dict
from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.graph import AtomGraph, max_force
from relaxrl.nn import Actor, TwinCritic
from relaxrl.potentials import CountedCalculator, EvaluationCounter, Potential, PotentialSource, TorchCalculator
from relaxrl.structures import Crystal, perturb
from relaxrl.training.diagnostics import Figures


def development_starts(
    crystals: Sequence[Crystal],
    count: int | None,
    rattle: float | tuple[float, float],
    generator: np.random.Generator,
) -> list[Crystal]:
    """Fixed starts: minima displaced once, as the environment would, and starts as they are.

    Args:
        crystals: The development set.
        count: Take only this many, spread evenly over the set.
        rattle: Å, size of the displacement, or its range.
        generator: Source of randomness.
    """
    chosen = list(crystals)
    if count is not None and count < len(chosen):
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, count).round().astype(int)]
    starts = []
    for crystal in chosen:
        atoms = crystal.atoms
        if crystal.kind == "minimum":
            atoms = perturb(atoms, rattle, generator)
        starts.append(Crystal(crystal.id, atoms, crystal.parent, "start"))
    return starts


def bfgs_evaluations(
    starts: Sequence[Crystal], potentials: Potential | PotentialSource, fmax: float, max_steps: int, cache: Path
) -> list[int]:
    """Force evaluations of ASE's BFGS from each start, the first one included; the limit where it fails.

    Args:
        starts: Crystals of kind `start`.
        potentials: Energies and forces.
        fmax: eV/Å, of convergence.
        max_steps: Limit of BFGS's steps.
        cache: JSON file; computed only once per run.
    """
    ids = [start.id for start in starts]
    if cache.exists():
        stored = json.loads(cache.read_text(encoding="utf-8"))
        if stored["structures"] == ids and stored["fmax"] == fmax:
            return [int(count) for count in stored["evaluations"]]
    counts = []
    for start in starts:
        counter = EvaluationCounter()
        atoms = start.atoms.copy()
        atoms.calc = CountedCalculator(TorchCalculator(potentials.of([atoms])), counter)
        BFGS(atoms, logfile=None).run(fmax=fmax, steps=max_steps)
        counts.append(counter.count)
    content = {"fmax": fmax, "structures": ids, "evaluations": counts}
    write_atomically(cache, (json.dumps(content, indent=1) + "\n").encode())
    return counts


@dataclass(frozen=True)
class Judgement:
    """What an evaluation of the policy alone gave.

    Attributes:
        metrics: `eval/*` and `relax/*`, by their names in the run's metrics.
        figures: For the diagnostics.
        score: Smaller is better: the mean logarithm of evaluations against BFGS's, unconverged ones at the limit.
    """

    metrics: dict[str, float]
    figures: Figures
    score: float


class DevelopmentSet:
    """Evaluates a policy on fixed starts through the batched environment.

    Args:
        starts: Crystals of kind `start`.
        potential: Energies and forces.
        env: The environment of the training; its step limit is replaced.
        max_steps: Longest episode.
    """

    def __init__(self, starts: Sequence[Crystal], potential: Potential, env: EnvConfig, max_steps: int) -> None:
        # Rebuilt from mappings, so that the changed copy is checked as well.
        self.config = EnvConfig(**(to_dict(env) | {"max_steps": max_steps}))
        self.starts = list(starts)
        self.potential = potential
        self.env = RelaxationEnv(self.starts, potential, self.config, np.random.default_rng(0), len(self.starts))

    @torch.no_grad()
    def judge(self, learner: TD3, actor: Actor, critic: TwinCritic, bfgs: Sequence[int], t_total: int) -> Judgement:
        """Run the policy without noise from every start until all episodes have ended.

        Args:
            learner: Whose policy acts.
            actor: Its actor, asked for the gate.
            critic: Its critic, asked for its estimates.
            bfgs: Evaluations of BFGS from each start.
            t_total: Environment steps so far.
        """
        graph = self.env.reset(range(len(self.starts)))
        device = next(actor.parameters()).device
        begin, first_action = graph, torch.zeros_like(graph.positions)
        start_fmax = max_force(graph)
        rewards: list[Tensor] = []
        moved: list[Tensor] = []
        taken_back: list[Tensor] = []
        gates: list[Tensor] = []
        fmax_after: dict[int, float] = {}
        while not bool(self.env.finished.all()):
            running = ~self.env.finished
            chosen = graph.select(torch.nonzero(running).flatten())
            action = torch.zeros_like(graph.positions)
            rows = running[graph.graph_index]
            action[rows] = learner.act(chosen.to(device)).to(action)
            if not rewards:
                first_action = action
            gates.append(actor.gate(chosen.to(device)).cpu())
            result = self.env.step(action)
            rewards.append(result.reward.cpu())
            moved.append(torch.stack([result.applied[rows].norm(dim=-1), result.proposed[rows].norm(dim=-1)]))
            taken_back.append(result.a_back[running])
            graph = result.graph
            fmax_after[len(rewards)] = _geometric_mean(max_force(graph) / start_fmax)
        converged = result.terminated.cpu()
        evaluations = self.env.evaluations.cpu()
        reference = torch.tensor(bfgs, dtype=torch.float64)
        # A run that was cut short must not look better than one that BFGS has finished.
        cut_short = reference.clamp(min=self.config.max_steps + 1)
        at_limit = torch.where(converged, evaluations.double(), cut_short)
        ratios = torch.log(at_limit / reference)
        actual, proposed = torch.cat(moved, dim=1)
        a_back = torch.cat(taken_back)
        final = max_force(graph)

        discounts = learner.config.gamma ** torch.arange(len(rewards), dtype=torch.float64)
        realised = (torch.stack(rewards) * discounts[:, None]).sum(0)
        q_start = _smaller(critic, begin.to(device), first_action.to(device))
        if bool((~converged).any()):  # what would have followed a truncated episode, by the critic's own estimate
            beyond = _smaller(critic, graph.to(device), learner.act(graph.to(device)))
            realised = realised + torch.where(converged, 0.0, learner.config.gamma ** self.env.steps.cpu() * beyond)
        figures = Figures(
            t_total=t_total,
            actual_move=float(actual.mean()),
            proposed_move=float(proposed.mean()),
            q_estimate=float(q_start.mean()),
            realised_return=float(realised.mean()),
            gate=float(torch.cat(gates).mean()),
            correction_share=float((a_back > 0).double().mean()),
            a_back=float(a_back.mean()),
            fmax=_geometric_mean(final),
            fmax_target=self.config.fmax,
        )
        metrics = {
            "eval/ratio_to_bfgs": math.exp(float(ratios.mean())),
            "eval/converged": float(converged.double().mean()),
            "eval/evaluations": float(at_limit.double().mean()),
            "eval/fmax_final": _geometric_mean(final),
            "eval/mean_reward": float(torch.stack(rewards).sum(0).mean()),
        }
        # How fast the force falls says more about a policy that does not converge yet than its count.
        for steps in (1, 3, 10):
            metrics[f"eval/fmax_after_{steps}"] = fmax_after.get(steps, fmax_after[len(rewards)])
        return Judgement(metrics | figures.as_metrics(), figures, float(ratios.mean()))


def _smaller(critic: TwinCritic, graph: AtomGraph, action: Tensor) -> Tensor:
    """The twin critics' clipped estimate, (n_graphs,), float64 on the CPU."""
    return torch.minimum(*critic(graph, action)).double().cpu()


def _geometric_mean(values: Tensor) -> float:
    return float(values.clamp(min=1e-12).log().mean().exp())
