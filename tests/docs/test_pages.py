"""What the pages show is run: Python as written, commands that say `sh`, and the arguments of all others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from relaxrl.cli.main import build_parser
from relaxrl.training import load_pretrain_config, load_run_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
COMMANDS = ("", "sh", "bash")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block, without the indentation of lists."""
    return [
        (match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE))
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def commands(text: str) -> list[list[str]]:
    """The `relaxrl` commands of a block as words, continued lines joined, comments dropped."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith("relaxrl ")]


RUN = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]
SHOWN = [
    pytest.param(words, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, words in enumerate(
        words for language, text in blocks(page) if language in COMMANDS for words in commands(text)
    )
]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_shows_runs_in_its_order(page: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("crystals.extxyz", "mine.extxyz", "mine.cif")):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        write(tmp_path / name, atoms)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "MPLBACKEND": "agg"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    script: list[str] = []
    for language, text in blocks(page):
        if language == "python":
            script.append(text)
        if language == "sh":
            script += [f"import subprocess\nsubprocess.run({words!r}, check=True)" for words in commands(text)]
    (tmp_path / "page.py").write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_that_is_shown_is_one_that_exists(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = build_parser().parse_args(words[1:])
    recipe = next((word for word in words if word.startswith("configs/") and word.endswith(".yaml")), None)
    overrides = [word for word in words[3:] if "=" in word and not word.startswith("-")]
    assert callable(arguments.run)
    if recipe is not None and words[1] == "train":
        load_run_config(recipe, overrides)
    elif recipe is not None and words[1] == "pretrain":
        load_pretrain_config(recipe, overrides)
