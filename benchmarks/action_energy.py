"""An energy over actions: what it learns by which negatives, and whether it saves force evaluations.

`python benchmarks/action_energy.py --out FOLDER` trains and judges what FOLDER does not hold yet, and prints the tables
of docs/action-energy.md and draws its curves. Verifiers are trained beside the shipped agent, which stays as it is, all
variants on the same batches; auxiliary losses in short trainings from random parameters (`configs/action-energy.yaml`).
Judged on each crystal of `metals:dev`, relaxed and then displaced three times.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from critic import BASE, FMAX, POTENTIAL, SEEDS, judged, row, stored
from torch import Tensor

from relaxrl import load_agent
from relaxrl.agents import Agent
from relaxrl.config import from_dict
from relaxrl.graph import AtomGraph, max_force, scatter_sum
from relaxrl.io import graph_from_atoms
from relaxrl.nn import VerifiedActor, VerifiedActorConfig, VerifierConfig, build_action_energy
from relaxrl.potentials import TorchCalculator
from relaxrl.structures import Crystal, perturb, read_structures
from relaxrl.structures.relaxation import relax
from relaxrl.training import Cloner, RunFolder, load_run_config, train
from relaxrl.training.action_energy import ActionEnergyTrainer
from relaxrl.training.action_energy_config import ActionEnergyTrainingConfig

RECIPE = "configs/action-energy.yaml"
UPDATES = 160
SWAP, SPEC = ("swap",), ("swap", "layers", "noise")
ALL = (*SPEC, "scaled", "flipped", "previous")
NEAR = (0.3, 0.7, 1.3, 1.7)
FAST: dict[str, Any] = {"weight": 0.0, "rate": 2.0, "ramp": [25, 75]}
VARIANTS: dict[str, dict[str, Any]] = {
    "bounded; swap": {"negatives": SWAP},
    "bounded; swap, layers, noise": {"negatives": SPEC},
    "bounded; all": {"negatives": ALL},
    "unbounded; swap": {"negatives": SWAP, "model": {"bounded": False}},
    "unbounded; swap, layers, noise": {"negatives": SPEC, "model": {"bounded": False}},
    "unbounded; all": {"negatives": ALL, "model": {"bounded": False}},
    "unbounded; all; alignment": {"negatives": ALL, "model": {"bounded": False}, "alignment": 0.5},
    "bounded; all, scales as the candidates": {"negatives": ALL, "scales": NEAR},
    "bounded; all, scales as the candidates; 480 updates": {"negatives": ALL, "scales": NEAR},
    "bounded; swap, layers, noise; slow schedule": {"negatives": SPEC, "rate": 0.1, "ramp": [5000, 15000]},
}
"""Settings of `action_energy`, over `FAST`."""
JUDGED = tuple(name for name in VARIANTS if name.count(";") and "slow" not in name and not name.endswith("; swap"))
"""Those that relax the starts."""
CAUTIOUS, MARGIN = tuple(name for name in JUDGED if name.startswith("bounded; all")), 0.1
"""Those that are judged once more with a margin: another step is taken only where its energy is lower by so much."""
WEIGHTS = (0.0, 0.3)
"""Of the auxiliary loss."""
FIGURES = ("gap", "grad_norm", "saturation", "temperature", "loss", "not_finite")


def pool() -> tuple[list[Crystal], list[Atoms]]:
    """Three displacements of the minimum of each development crystal, and those minima, one for each start."""
    calculator = TorchCalculator(POTENTIAL, stress=False)
    found = [(crystal, relax(crystal.atoms, calculator, 1e-4, 1000)) for crystal in read_structures("metals:dev")]
    minima = [(crystal, end) for crystal, end in found if end is not None]
    starts = [
        Crystal(f"{crystal.id}-{seed}", perturb(end, (0.05, 0.3), generator), crystal.parent, "start")
        for seed, generator in enumerate(map(np.random.default_rng, range(3)))
        for crystal, end in minima
    ]
    return starts, [end for _ in range(3) for _, end in minima]


class RandomChoice:
    """A random candidate at each step: what choosing without knowledge costs."""

    def __init__(self, agent: Agent, seed: int = 0) -> None:
        self.actor = with_verifier(agent, None)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        candidates = self.actor.candidates(graph)
        return candidates[int(torch.randint(len(candidates), (1,), generator=self.generator))]

    def hessian(self, graph: AtomGraph) -> Any:
        """That of the agent."""
        return self.actor.hessian(graph)


class Foresight:
    """The candidate nearest to the way to the minimum, which it knows: what a perfect energy could do."""

    def __init__(self, agent: Agent, minima: Sequence[Atoms]) -> None:
        self.actor = with_verifier(agent, None)
        self.minima = [graph_from_atoms(atoms) for atoms in minima]

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        same = [end for end in self.minima if torch.equal(end.atomic_numbers, graph.atomic_numbers)]
        ways = [_without_drift(end.positions - graph.positions, graph) for end in same]
        target = min(ways, key=lambda way: float(way.square().sum()))
        candidates = self.actor.candidates(graph)
        return candidates[int(torch.stack([_relative(one, target, graph) for one in candidates]).argmin())]

    def hessian(self, graph: AtomGraph) -> Any:
        """That of the agent."""
        return self.actor.hessian(graph)


def with_verifier(agent: Agent, trainer: ActionEnergyTrainer | None, margin: float = 0.0) -> VerifiedActor:
    """The agent's actor and a trained energy; an untrained one if None."""
    config = ActionEnergyTrainingConfig() if trainer is None else trainer.config
    sizes = VerifiedActorConfig(
        actor=agent.actor.config, energy=config.model, verifier=VerifierConfig(enabled=True, margin=margin)
    )
    if trainer is None:
        return VerifiedActor(sizes, agent.actor, build_action_energy(config.model, agent.actor.config.trunk)).eval()
    return VerifiedActor(sizes, agent.actor, trainer.exported).eval()


@functools.cache
def fitted(name: str, seed: int, out: Path) -> ActionEnergyTrainer:
    """A variant trained beside the shipped agent, on the batches that all variants of this seed see."""
    folder = out / "draws"
    shutil.rmtree(folder, ignore_errors=True)
    frozen = [f"trainer.ckpt_file={BASE}", "action_energy.freeze_actor=true", f"run.seed={seed}", f"run.dir={folder}"]
    cloner = Cloner(load_run_config(RECIPE, [*frozen, "evaluation.count=1"]), RunFolder.create(str(folder), seed))
    actor = cloner.module
    config = from_dict(ActionEnergyTrainingConfig, FAST | VARIANTS[name])
    trainer = ActionEnergyTrainer(config, actor.config.trunk, cloner.generators, torch.device("cpu"), 0.99)
    file = out / f"energy-{_slug(name)}-{seed}.pt"
    if file.exists():
        trainer.load_state_dict(torch.load(file, weights_only=True))
        return trainer
    curves: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for _ in range((480 if "480" in name else UPDATES) // 2):
        chosen, graph = cloner.draw()
        minima = graph_from_atoms([cloner.minima[k] for k in chosen]).positions
        graph, failed = cloner._evaluated(graph)
        usable, previous = ~failed, None
        for _ in range(2):  # where the crystal was displaced to, and where the agent's step has led
            usable = usable & (max_force(graph) > 0.3 * FMAX)
            with torch.no_grad():
                inputs, output, step = actor.proposal(graph)
                action = actor.decide(step, output, inputs).to(graph.positions)
            expert = _without_drift(minima - graph.positions, graph)
            loss, figures = trainer.loss(actor, inputs, output, expert, usable, previous)
            loss.backward()
            figures |= trainer.step(2e-3)
            for figure in FIGURES:
                curves[figure].append(figures.get(f"action_energy/{figure}", float("nan")))
            graph, failed = cloner._evaluated(graph.replace(positions=graph.positions + action))
            usable, previous = usable & ~failed, action
    (out / f"curves-{_slug(name)}-{seed}.json").write_text(json.dumps(curves), encoding="utf-8")
    torch.save(trainer.state_dict(), file)
    return trainer


def curves_of(name: str, out: Path, seeds: Sequence[int]) -> list[dict[str, list[float]]]:
    """The figures of every update, of each seed that there is."""
    files = [out / f"curves-{_slug(name)}-{seed}.json" for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def seen(
    trainer: ActionEnergyTrainer, agent: Agent, starts: Sequence[Crystal], minima: Sequence[Atoms]
) -> dict[str, list[float]]:
    """On the development starts: energies of wrong steps over that of the right one, and errors of what is chosen."""
    actor = with_verifier(agent, trainer)
    graph = graph_from_atoms([start.atoms for start in starts])
    target = torch.from_numpy(np.concatenate([end.positions for end in minima])) - graph.positions
    target = _without_drift(target, graph)
    graph = graph.replace(forces=POTENTIAL.evaluate(graph).forces)
    with torch.no_grad():
        inputs, output, _ = agent.actor.proposal(graph)
        candidates = actor.candidates(graph)
        energies = actor.energies(graph, candidates)
        tried = torch.stack([target, target * 0.3, target * 1.7, -target]).float()
        of_right, *of_wrong = actor.model(inputs, output, tried)
    errors = torch.stack([_relative(candidate, target, graph) for candidate in candidates])
    chosen = energies.argmin(0, keepdim=True)
    return {
        "right_below_wrong": [float((wrong > of_right).float().mean()) for wrong in of_wrong],
        "error_own": errors[0].tolist(),
        "error_chosen": errors.gather(0, chosen)[0].tolist(),
        "error_best": errors.amin(0).tolist(),
        "own_kept": (chosen[0] == 0).float().tolist(),
    }


def auxiliary(weight: float, seed: int, out: Path) -> str:
    """The run folder of a short cloning with this weight of the contrastive loss."""
    folder = out / "runs" / f"weight-{weight:g}-{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        overrides = [f"action_energy.weight={weight}", f"run.seed={seed}", f"run.dir={folder}"]
        if train(load_run_config(RECIPE, overrides), verbose=False).interrupted:
            raise KeyboardInterrupt
        (folder / "done").touch()
    return str(folder / "last")


def _without_drift(displacement: Tensor, graph: AtomGraph) -> Tensor:
    sums = scatter_sum(displacement, graph.graph_index, graph.n_graphs) / graph.atoms_per_graph.unsqueeze(1)
    return displacement - sums[graph.graph_index]


def _relative(step: Tensor, target: Tensor, graph: AtomGraph) -> Tensor:
    """|a - a*| / |a*| of each structure."""
    squared = [
        scatter_sum(vectors.square().sum(-1), graph.graph_index, graph.n_graphs) for vectors in (step - target, target)
    ]
    return (squared[0] / squared[1]).sqrt()


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _pair(values: Sequence[float]) -> str:
    """Mean over seeds, and from the lowest to the highest."""
    return f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def tables(out: Path, seeds: Sequence[int]) -> None:
    """Print what there is."""
    print("| energy; negatives | gap | gradient norm | saturation | tau | right below 0.3 / 1.7 / -1 of it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in VARIANTS:
        curves = curves_of(name, out, seeds)
        if not curves:
            continue
        last = {figure: [float(np.nanmean(one[figure][-40:])) for one in curves] for figure in FIGURES}
        known = [out / f"seen-{_slug(name)}-{seed}.json" for seed in seeds]
        looks = [json.loads(file.read_text(encoding="utf-8")) for file in known if file.exists()]
        right = " / ".join(f"{100 * np.mean([look['right_below_wrong'][k] for look in looks]):.0f}" for k in range(3))
        columns = [_pair(last[figure]) for figure in FIGURES[:4]]
        print(f"| {name} | {' | '.join(columns)} | {right} % |")
        if any(last["not_finite"]):
            print(f"{name}: not finite in {last['not_finite']}")
    print("\n| verifier | error of own step | of chosen | of best candidate | own step kept |")
    print("| --- | --- | --- | --- | --- |")
    for name in VARIANTS:
        known = [out / f"seen-{_slug(name)}-{seed}.json" for seed in seeds]
        looks = [json.loads(file.read_text(encoding="utf-8")) for file in known if file.exists()]
        if looks:
            means = [
                _pair([float(np.exp(np.log(look[f"error_{which}"]).mean())) for look in looks])
                for which in ("own", "chosen", "best")
            ]
            kept = _pair([float(np.mean(look["own_kept"])) for look in looks])
            print(f"| {name} | {' | '.join(means)} | {kept} |")

    def judgements(pattern: str) -> list[dict[str, list[int]]]:
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob(pattern))]

    head = "evaluations / reference | by seed | mean | p95 | worst | handed over |\n" + 7 * "| --- " + "|"
    base = json.loads((out / "base.json").read_text(encoding="utf-8"))
    print(f"\n| verifier of the shipped agent | {head}")
    print(row("the agent itself", [base], base))
    for name, pattern in {
        "a random candidate": "random.json",
        "the candidate nearest to the minimum": "foresight.json",
        **{name: f"judged-{_slug(name)}-[0-9].json" for name in VARIANTS},
        **{f"{name}; margin {MARGIN}": f"judged-margin-{_slug(name)}-[0-9].json" for name in VARIANTS},
    }.items():
        if runs := judgements(pattern):
            print(row(name, runs, base))
    print(f"\n| weight of the auxiliary loss | {head}")
    for weight in WEIGHTS:
        for switch in ("off", "on"):
            names = (f"weight-{weight:g}-{switch}", f"weight-{WEIGHTS[0]:g}-off")
            files = [[out / f"{name}-{seed}.json" for name in names] for seed in seeds]
            pairs = [[json.loads(file.read_text(encoding="utf-8")) for file in two if file.exists()] for two in files]
            both = [two for two in pairs if len(two) == 2]
            if both:
                print(paired_row(f"{weight:g}, verifier {switch}", both))


def paired_row(name: str, both: Sequence[Sequence[dict[str, list[int]]]]) -> str:
    """As `row`, of pairs: each seed beside the reference of its own seed."""
    logs = np.array([np.log(run["evaluations"]) - np.log(other["evaluations"]) for run, other in both])
    generator = np.random.default_rng(0)
    means = [logs[:, generator.integers(logs.shape[1], size=logs.shape[1])].mean() for _ in range(4000)]
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    counts = np.concatenate([run["evaluations"] for run, _ in both])
    handed = np.mean([run["handed_over"] for run, _ in both])
    seeds = ", ".join(f"{np.exp(one.mean()):.3f}" for one in logs)
    return (
        f"| {name} | {np.exp(logs.mean()):.3f} [{low:.3f}, {high:.3f}] | {seeds} | {counts.mean():.2f} | "
        f"{np.percentile(counts, 95):.0f} | {counts.max()} | {100 * handed:.0f} % |"
    )


def draw(out: Path, seeds: Sequence[int], path: Path) -> None:
    """Gap, saturation, gradient norm and temperature over the updates, mean of all seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, constrained_layout=True)
    window = 20
    for name in [name for name in VARIANTS if "480" not in name]:
        for axis, quantity in zip(axes.flat, FIGURES[:4], strict=True):
            mean = np.nanmean([curves[quantity] for curves in curves_of(name, out, seeds)], axis=0)
            smooth = np.convolve(np.nan_to_num(mean), np.ones(window) / window, mode="valid")
            axis.plot(np.arange(len(smooth)) + window, smooth, label=name, linewidth=1.2)
            axis.set_ylabel(quantity.replace("_", " "))
    axes[0, 0].set_ylim(-0.1, 2.5)
    axes[0, 1].set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("update")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)


def of_energies(
    names: Sequence[str], seed: int, out: Path, starts: Sequence[Crystal], minima: Sequence[Atoms]
) -> list[Callable[[], object]]:
    """Train some variants beside the shipped agent, look at what they see, and let them relax."""
    agent = load_agent(BASE)
    todo: list[Callable[[], object]] = []
    for name in names:
        slug = f"{_slug(name)}-{seed}.json"

        def look(name: str = name, slug: str = slug) -> None:
            stored(out / f"seen-{slug}", lambda: seen(fitted(name, seed, out), agent, starts, minima))

        def judge(name: str = name, slug: str = slug, margin: float = 0.0) -> None:
            file = out / f"judged{'-margin' if margin else ''}-{slug}"
            stored(file, lambda: judged(Agent(with_verifier(agent, fitted(name, seed, out), margin)), starts))

        todo.append(look)
        if name in JUDGED:
            todo.append(judge)
        if name in CAUTIOUS:
            todo.append(functools.partial(judge, margin=MARGIN))
    return todo


def of_weights(seed: int, out: Path, starts: Sequence[Crystal]) -> list[Callable[[], object]]:
    """Clone with each weight of the auxiliary loss, and relax with the verifier and without."""
    todo: list[Callable[[], object]] = []
    for weight in WEIGHTS:
        todo.append(functools.partial(auxiliary, weight, seed, out))
        for switch in ("off", "on"):

            def relax_with(weight: float = weight, switch: str = switch) -> None:
                name = f"{auxiliary(weight, seed, out)},verifier={switch}"
                stored(out / f"weight-{weight:g}-{switch}-{seed}.json", lambda: judged(load_agent(name), starts))

            todo.append(relax_with)
    return todo


def jobs(
    out: Path, seeds: Sequence[int], starts: Sequence[Crystal], minima: Sequence[Atoms]
) -> list[Callable[[], object]]:
    """What there is to do."""
    agent = load_agent(BASE)
    todo: list[Callable[[], object]] = [
        lambda: stored(out / "base.json", lambda: judged(agent, starts)),
        lambda: stored(out / "random.json", lambda: judged(RandomChoice(agent), starts)),
        lambda: stored(out / "foresight.json", lambda: judged(Foresight(agent, minima), starts)),
    ]
    # What matters most first, and one seed of it before the next: an interrupted study is still balanced.
    core = [name for name in VARIANTS if "480" not in name and "slow" not in name]
    for seed in seeds:
        todo += of_energies(core, seed, out, starts, minima)
    for seed in seeds:
        todo += of_weights(seed, out, starts)
    for seed in seeds:
        todo += of_energies([name for name in VARIANTS if name not in core], seed, out, starts, minima)
    return todo


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after this time")
    parser.add_argument("--report", action="store_true", help="run nothing, only print what there is")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for job in () if arguments.report else jobs(out, arguments.seeds, *pool()):
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        job()
    tables(out, arguments.seeds)
    if arguments.plot is not None:
        draw(out, arguments.seeds, arguments.plot)


if __name__ == "__main__":
    main()
