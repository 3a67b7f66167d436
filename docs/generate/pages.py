"""Pages of the site that are made from the code: home from the README, configuration, commands, API."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent))

from commands import commands_page
from configuration import configuration_page

ROOMS = (
    "",
    "agents",
    "envs",
    "integrations",
    "optimize",
    "evaluation",
    "training",
    "nn",
    "losses",
    "structures",
    "potentials",
)
"""Packages whose public names make the API reference; the first is `relaxrl` itself."""


def home() -> str:
    """The README; its links as seen from `docs/`, those to files outside as names."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https?:|docs/|#)", "](../", text)
    return text.replace("](docs/", "](").replace("](../docs)", "](architecture.md)")


def api_index() -> str:
    """A page that names the rooms; each room's page is written beside it."""
    lines = ["# API", "", "What each package exports; other names may change without notice.", ""]
    for room in ROOMS:
        package = f"relaxrl.{room}".rstrip(".")
        module = importlib.import_module(package)
        file = f"api/{room or 'relaxrl'}.md"
        summary = (module.__doc__ or "").strip().splitlines()[0]
        lines.append(f"- [`{package}`]({file}): {summary}")
        names = [name for name in module.__all__ if not name.startswith("__")]
        with mkdocs_gen_files.open(file, "w") as page:
            page.write(f"# `{package}`\n\n{summary}\n\n" + "\n\n".join(f"::: {package}.{name}" for name in names))
    return "\n".join(lines) + "\n"


for name, text in (
    ("index.md", home()),
    ("configuration.md", configuration_page()),
    ("commands.md", commands_page()),
    ("api.md", api_index()),
):
    with mkdocs_gen_files.open(name, "w") as page:
        page.write(text)
