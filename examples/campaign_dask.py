"""Relax many structures on a Dask cluster: here one of two processes, elsewhere whatever address your scheduler has.

    python examples/campaign_dask.py crystals.extxyz --calculator emt --out relaxed.extxyz
    python examples/campaign_dask.py crystals.extxyz --calculator emt --out relaxed.extxyz --address tcp://host:8786

Dask hands the work of a worker that is lost to another one. What is done stands in `relaxed.extxyz.journal`: the
same command goes on after the loss of everything else. Ray works the same way, with three lines for an executor:

    class RayExecutor(concurrent.futures.Executor):
        def submit(self, function, *arguments):
            return ray.remote(function).remote(*arguments).future()
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from ase.io import write
from dask.distributed import Client, LocalCluster

from relaxrl.optimize import Campaign, Conditions
from relaxrl.potentials import parse_calculator
from relaxrl.structures import read_structures


def main(argv: Sequence[str] | None = None, watch: Callable[[Client], None] | None = None) -> None:
    """Relax and write.

    Args:
        argv: Words of the command line; those of the process if None.
        watch: Called with the client after each structure, to look at the cluster while it works.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--agent", default="metals")
    parser.add_argument("--calculator", required=True)
    parser.add_argument("--fmax", type=float, default=0.01, help="eV/Å")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--address", help="of a scheduler; a cluster of two local workers if not given")
    arguments = parser.parse_args(argv)
    crystals = [(crystal.id, crystal.atoms) for crystal in read_structures(arguments.file)]
    agent = None if arguments.agent == "none" else arguments.agent
    conditions = Conditions(agent, parse_calculator(arguments.calculator), arguments.fmax)
    campaign = Campaign(crystals, conditions, arguments.out.with_name(f"{arguments.out.name}.journal"))
    cluster = arguments.address or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with Client(cluster) as client:

        def executor() -> Executor:
            return client.get_executor(pure=False)

        for done in campaign.run(workers=2, executor=executor):
            print(f"{done.name}: {done.force_evaluations} force evaluations, {done.reason}", flush=True)
            if watch is not None:
                watch(client)
    write(arguments.out, campaign.structures_as_they_are())
    campaign.journal.remove()


if __name__ == "__main__":
    main()
