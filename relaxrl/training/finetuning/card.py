"""The page beside an agent that was adapted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relaxrl.training.finetuning.config import FinetuneConfig

if TYPE_CHECKING:
    from relaxrl.training.finetuning.finetune import FinetuneResult


def write_card(done: FinetuneResult, config: FinetuneConfig, by_parent: bool) -> str:
    """What the agent is, what it cost, and what is known of it, in Markdown."""
    outcome = f"{done.error:.0%} after {done.updates} updates"
    if not done.improved:
        outcome = f"no better after {done.updates} updates, so that the agent is the one it began with"
    split = "which share no parent with those" if by_parent else "of the same crystals as those"
    replay = f"{done.replay} frames of earlier training" if done.replay else "no replay of earlier training"
    lines = [
        f"# Agent adapted from `{config.agent}`",
        "",
        f"- **Calculator**: `{config.calculator}`{', cells relaxed' if config.cell else ''}.",
        f"- **Relaxations**: {done.relaxations}, of which {done.converged} converged to {config.fmax} eV/Å, in",
        f"  {done.force_evaluations} force evaluations and {done.seconds:.0f} s.",
        f"- **Training**: on {done.learned_from} of them, with {replay}, seed {config.seed}.",
        "- **Error of one step**, as a part of the way to the minimum, geometric mean over the points of",
        f"  {done.held_out} held-out relaxations, {split} it was trained on: {done.error_before:.0%} before,",
        f"  {outcome}.",
        f"- **Elements**: {' '.join(sorted(done.agent.elements)) or 'not known'}.",
    ]
    return "\n".join(lines) + "\n"
