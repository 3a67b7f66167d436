"""Hook of the site: links from pages to files beside `docs/` lead to nothing there, so they become plain names."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`[cloning.py](../relaxrl/training/cloning.py)` → `cloning.py` in code type."""
    return _OUTSIDE.sub(lambda match: match[1] if "`" in match[1] else f"`{match[1]}`", markdown)
