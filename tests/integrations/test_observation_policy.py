"""Functions from observations to actions, from whatever library, at work in relaxations."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from relaxrl.cli.main import main
from relaxrl.errors import ConfigError, RelaxRLError, StructureError
from relaxrl.graph import AtomGraph
from relaxrl.integrations import ObservationPolicy, load_foreign

from .conftest import MAX_STEP

MODULE = """
from relaxrl.integrations import ObservationPolicy

def downhill(softness=0.05, n_max=5):
    return ObservationPolicy(lambda seen: softness / 0.2 * seen["forces"].ravel(), n_max=n_max, max_step=0.2)

def bare():
    return lambda seen: seen["forces"]

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """The name of a file with policies, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = Path(f"policies_of_{abs(hash(request.node.name))}.py")
    path.write_text(MODULE)
    return path


@pytest.mark.parametrize("flat", [False, True])
def test_the_policy_moves_atoms_as_the_environment_does(make, flat):
    env = make(flat=flat)
    observation, _ = env.reset(seed=2)
    wanted = np.random.default_rng(0).uniform(-1, 1, 15).astype(np.float32)
    seen = []

    def function(given):
        seen.append(given)
        return wanted

    graph = env.unwrapped.core.graph
    policy = ObservationPolicy(function, n_max=5, max_step=MAX_STEP, flat=flat)
    displacement = policy.act(graph)
    _, _, _, _, info = env.step(wanted)
    np.testing.assert_allclose(displacement, info["proposed"][:4], atol=1e-5)
    assert np.linalg.norm(displacement, axis=1).max() == pytest.approx(MAX_STEP)
    for key, value in observation.items() if not flat else [("all", observation)]:
        np.testing.assert_array_equal(seen[0][key] if not flat else seen[0], value)
    assert policy.act(AtomGraph.batch([graph, graph])).shape == (8, 3)


def test_bad_answers_and_large_structures_are_errors(make):
    env = make()
    env.reset(seed=0)
    graph = env.unwrapped.core.graph
    with pytest.raises(StructureError, match="n_max = 3 atoms, got a structure of 4"):
        ObservationPolicy(lambda seen: seen["forces"].ravel(), n_max=3).act(graph)
    with pytest.raises(RelaxRLError, match=r"must have shape \(1, 15\)"):
        ObservationPolicy(lambda _: np.zeros(12), n_max=5).act(graph)
    with pytest.raises(RelaxRLError, match="finite"):
        ObservationPolicy(lambda _: np.full(15, np.nan), n_max=5).act(graph)
    with pytest.raises(ValueError, match="max_step > 0"):
        ObservationPolicy(np.asarray, n_max=5, max_step=0.0)


def test_policies_are_found_by_import_path_and_by_file(module):
    by_file = load_foreign(f"policy:{module}:downhill,softness=0.02,n_max=7")
    assert by_file.max_atoms == 7
    assert load_foreign(f"policy:{module.stem}:downhill").max_atoms == 5
    with pytest.raises(ConfigError, match="did you mean 'downhill'"):
        load_foreign(f"policy:{module}:downhil")
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.py"):
        load_foreign("policy:nowhere.py:downhill")
    with pytest.raises(ConfigError, match="can't import no_such_module"):
        load_foreign("policy:no_such_module:downhill")
    with pytest.raises(ConfigError, match="ObservationPolicy"):
        load_foreign(f"policy:{module}:bare")
    with pytest.raises(ConfigError, match="KeyError: 'weights'"):
        load_foreign(f"policy:{module}:broken")
    with pytest.raises(ConfigError, match="sofness"):
        load_foreign(f"policy:{module}:downhill,sofness=0.1")
    with pytest.raises(ConfigError, match=r"expected policy:package\.module:name"):
        load_foreign("policy:downhill")


def test_relax_and_evaluate_take_them(module, atoms, tmp_path, capsys):
    write(tmp_path / "start.xyz", atoms, format="extxyz")
    agent = f"policy:{module}:downhill"
    out = tmp_path / "out.extxyz"
    common = ["--calculator", "emt", "--fmax", "0.05"]
    assert main(["relax", str(tmp_path / "start.xyz"), "--agent", agent, "--out", str(out), *common]) == 0
    arguments = ["--structures", str(tmp_path / "start.xyz"), "--methods", "BFGS", *common]
    assert main(["evaluate", "--agent", agent, "--out", str(tmp_path / "report"), *arguments]) == 0
    assert "agent:policy:" in (tmp_path / "report" / "runs.csv").read_text()
    capsys.readouterr()
    # Too small for the structure: told before any run.
    for command in (
        ["relax", str(tmp_path / "start.xyz"), "--out", str(out), *common],
        ["evaluate", "--out", str(tmp_path / "report"), *arguments],
    ):
        assert main([*command, "--agent", f"{agent},n_max=2"]) == 2
        error = capsys.readouterr().err
        assert "4 atoms" in error
        assert "n_max = 2" in error
