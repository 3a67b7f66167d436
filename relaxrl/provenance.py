"""What results were made with: versions of the package, of Python and of libraries, and the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from relaxrl import __version__

_LIBRARIES = ("ase", "e3nn", "gymnasium", "numpy", "pydantic", "scipy", "torch", "vesin")


def versions() -> dict[str, str | None]:
    """Versions by name; `commit` is None for an installed package."""
    return {"relaxrl": __version__, "python": platform.python_version(), "commit": _commit()} | {
        name: metadata.version(name) for name in _LIBRARIES
    }


def _commit() -> str | None:
    """The commit of the checkout that the package runs from; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
