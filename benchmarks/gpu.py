"""CPU against GPU: steps of the environment and updates per second, from batches of 32 structures to 4096.

    python -m benchmarks.gpu --page docs/gpu.md

Copper crystals under EMT, which relax along the forces and begin anew after 20 steps; networks with their default
configuration. Without a CUDA device, the columns of the CPU alone are measured. Where the time of an update goes is
printed with `--profile`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.__main__ import write
from benchmarks.environment import RATE, ROLLOUT_STEPS, environment, forces_of
from benchmarks.timing import in_turns, machine, milliseconds, table
from benchmarks.updates import cloner, learner, replay
from relaxrl.potentials import EMT

SIZES = (32, 128, 512, 1024, 4096)


def steps_per_second(n_atoms: int, n_envs: int, device: str, limit: float) -> float:
    """Steps of single structures per second, resets included."""
    env = environment(n_atoms, n_envs, EMT(), ROLLOUT_STEPS, device)

    def step() -> None:
        env.step(RATE * forces_of(env.graph))
        env.reset_finished()

    times = in_turns({"step": step}, 2 * ROLLOUT_STEPS, limit)["step"]
    return n_envs / float(np.mean(times))


def update_calls(n_atoms: int, batch: int, device: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Two updates of TD3 on a sample of `batch` transitions, one of which moves the actor; one update of cloning."""
    buffer, td3, draws = replay(n_atoms), learner(device), np.random.default_rng(0)
    noise, cloning = torch.Generator().manual_seed(0), cloner(n_atoms, batch, folder, device)

    def update() -> None:
        for _ in range(2):
            td3.update(buffer.sample(batch, draws), None, noise)

    return {"td3": update, "cloning": cloning.update}


def rows(n_atoms: int, sizes: list[int], devices: list[str], limit: float) -> list[list[str]]:
    """One row per batch; what would take longer than `limit` s for a step is left out, and all larger batches."""
    found, slow = [], set[tuple[str, str]]()
    for size in sizes:
        cells = [str(size)]
        for what in ("steps", "td3", "cloning"):
            for device in devices:
                if (what, device) in slow:
                    cells.append("")
                    continue
                if what == "steps":
                    rate = steps_per_second(n_atoms, size, device, limit)
                    seconds = size / rate
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        call = update_calls(n_atoms, size, device, Path(folder))[what]
                        seconds = 1e-3 * milliseconds(in_turns({what: call}, 10, limit)[what])
                    rate = (2 if what == "td3" else 1) / seconds
                cells.append(f"{rate:.3g}")
                if seconds > limit / 8:
                    slow.add((what, device))
        found.append(cells)
        print(" | ".join(cells), flush=True)
    return found


def profiled(n_atoms: int, batch: int, device: str) -> str:
    """Where the time of two updates of TD3 and one of cloning goes."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with tempfile.TemporaryDirectory() as folder:
        calls = update_calls(n_atoms, batch, device, Path(folder))
        for call in calls.values():
            call()
        with profile(activities=activities) as trace:
            for call in calls.values():
                call()
    by = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    shown: str = trace.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60)
    return shown


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="the page's table is written here; printed alone by default")
    parser.add_argument("--atoms", type=int, default=32, help="of each structure: 8, 32 or 108")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="structures of a batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for each number")
    parser.add_argument("--profile", action="store_true", help="print where the time of an update goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    if args.profile:
        print(profiled(args.atoms, args.sizes[0], devices[-1]))
        return
    what = ("environment / (steps/s)", "TD3 / (updates/s)", "cloning / (updates/s)")
    head = ["structures", *(f"{name}, {device}" for name in what for device in devices)]
    sizes = " ".join(str(size) for size in args.sizes)
    command = f"python -m benchmarks.gpu --atoms {args.atoms} --sizes {sizes} --threads {args.threads}"
    result = table(head, rows(args.atoms, args.sizes, devices, args.limit))
    text = f"`{command}` on {machine()}; {card}. {args.atoms} atoms each.\n\n{result}"
    print(text)
    if args.page is not None:
        write(args.page, text)


if __name__ == "__main__":
    main()
