"""A campaign on a real cluster of two workers, one of which is lost on the way."""

from __future__ import annotations

import os
import runpy
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
EXAMPLE = Path(__file__).parents[2] / "examples" / "campaign_dask.py"


@pytest.mark.filterwarnings("ignore")  # the cluster's own, when workers vanish
def test_the_loss_of_a_worker_loses_no_structure(tmp_path: Path) -> None:
    structures = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=seed)
        structures.append(atoms)
    write(tmp_path / "in.extxyz", structures)
    killed: list[int] = []

    def kill_one(client: distributed.Client) -> None:
        if not killed:
            killed.append(client.run(os.getpid).popitem()[1])
            os.kill(killed[0], signal.SIGKILL)

    main = runpy.run_path(str(EXAMPLE))["main"]
    out = tmp_path / "out.extxyz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main([str(tmp_path / "in.extxyz"), "--agent", "none", "--calculator", "emt", "--out", str(out)], kill_one)
    assert killed
    relaxed = read(out, ":")
    assert len(relaxed) == 12
    for start, end in zip(structures, relaxed, strict=True):
        np.testing.assert_array_equal(start.numbers, end.numbers)
        assert np.linalg.norm(end.get_forces(), axis=1).max() < 0.01
    assert not (tmp_path / "out.extxyz.journal").exists()
