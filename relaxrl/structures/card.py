"""What a set holds and where it comes from, in words for those who get its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import yaml

from relaxrl.config import to_dict
from relaxrl.provenance import versions
from relaxrl.structures.archive import Entry
from relaxrl.structures.cooking import Outcome
from relaxrl.structures.recipe import SetRecipe

_FAMILIES = 12
"""Families listed of each part, the most frequent ones."""


def set_card(
    recipe: SetRecipe,
    parts: Mapping[str, Sequence[Outcome]],
    failures: Mapping[str, Mapping[str, int]],
    evaluations: Mapping[str, int],
    command: str | None,
) -> str:
    """A page in Markdown about a set: parts, calculators, elements, families, sources and licences, how to make it.

    Args:
        recipe: What it was made from.
        parts: Its entries by split.
        failures: Candidates left out, by split and reason.
        evaluations: Force evaluations by split, those of candidates left out included.
        command: That made it; None where no command did.
    """
    entries = {name: [one.entry for one in part if one.entry is not None] for name, part in parts.items()}
    splitting = {"parent": "parent (prototype and reduced formula)", "composition": "composition (reduced formula)"}
    cell = "forces and stress vanish" if recipe.minimum.cell else "forces vanish at the cell given"
    check = {"hessian": "the Hessian has no direction that leads down", "rattle": "displaced, they come back"}
    lines = [
        f"# {recipe.name}",
        "",
        f"True minima: {cell} (fmax {recipe.minimum.fmax:g} eV/Å), and {check[recipe.minimum.check]}. "
        f"No {splitting[recipe.split_by]} is in two parts. Seed {recipe.seed}.",
        "",
        "| part | structures | atoms | elements | parents | left out | evaluations | frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(name, entries[name], parts[name], failures, evaluations) for name in parts),
    ]
    for title, key in (("Calculators", _calculator), ("Families", _family)):
        lines += ["", f"## {title}", ""]
        for name, part in entries.items():
            counted = Counter(map(key, part)).most_common()
            shown = ", ".join(f"{what} ({count})" for what, count in counted[:_FAMILIES])
            more = f" and {len(counted) - _FAMILIES} more" if len(counted) > _FAMILIES else ""
            lines.append(f"- {name}: {shown}{more}")
    lines += ["", "## Sources", ""]
    sources = Counter(one.source or "prototypes of relaxrl, MIT" for part in parts.values() for one in part)
    lines += [f"- {source}: {count} structures" for source, count in sources.most_common()]
    lost = {name: reasons for name, reasons in failures.items() if reasons}
    if lost:
        lines += ["", "## Candidates left out", ""]
        for name, reasons in lost.items():
            told = ", ".join(f"{reason} ({count})" for reason, count in Counter(reasons).most_common())
            lines.append(f"- {name}: {told}")
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    lines += ["", "## How it was made", "", *([f"`{command}`", ""] if command else []), f"With {made_with}.", ""]
    lines += [
        "```yaml",
        yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True, width=110).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _row(
    name: str,
    entries: Sequence[Entry],
    outcomes: Sequence[Outcome],
    failures: Mapping[str, Mapping[str, int]],
    evaluations: Mapping[str, int],
) -> str:
    sizes = [len(entry.minimum) for entry in entries]
    elements = " ".join(sorted({symbol for entry in entries for symbol in entry.minimum.symbols}))
    cells = [
        name,
        f"{len(entries)} {'minima' if entries[0].start is None else 'starts'}",
        f"{min(sizes)}-{max(sizes)}",
        elements,
        len({entry.parent for entry in entries}),
        sum(failures.get(name, {}).values()),
        evaluations.get(name, 0),
        sum(len(outcome.frames) for outcome in outcomes),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _calculator(entry: Entry) -> str:
    return f"`{entry.calculator}`"


def _family(entry: Entry) -> str:
    return entry.parent.rpartition(" ")[0]
