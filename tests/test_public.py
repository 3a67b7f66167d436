import re
import subprocess
import sys
from pathlib import Path

import pytest

import relaxrl
from relaxrl.cli.main import COMMANDS, build_parser, main

ROOT = Path(__file__).parents[1]


def test_public_names_are_what_they_are_called():
    from relaxrl.agents import load_agent
    from relaxrl.evaluation import evaluate
    from relaxrl.optimize import RLOptimizer
    from relaxrl.training import train

    assert (relaxrl.load_agent, relaxrl.evaluate) == (load_agent, evaluate)
    assert (relaxrl.RLOptimizer, relaxrl.train) == (RLOptimizer, train)
    assert set(relaxrl.__all__) <= set(dir(relaxrl))
    with pytest.raises(AttributeError, match="relax_everything"):
        _ = relaxrl.relax_everything


def test_importing_the_package_and_asking_for_help_load_no_torch():
    code = "import sys; from relaxrl.cli.main import build_parser; build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_versions_agree():
    for name in ("pyproject.toml", "CITATION.cff"):
        found = re.search(r"^version\s*[:=]\s*\"?([\d.]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
        assert found is not None
        assert found[1] == relaxrl.__version__, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert f"relaxrl {command}" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(capsys, tmp_path):
    missing = tmp_path / "no.xyz"
    arguments = ["relax", str(missing), "--agent", "none", "--calculator", "emt", "--out", str(tmp_path / "out.xyz")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("relaxrl: error:")
    assert "no.xyz" in error
    assert "Traceback" not in error
