"""Where episodes start: crystals read, generated, displaced, split and weighed."""

from relaxrl.structures.check import check_structure
from relaxrl.structures.crystal import Crystal, StructureSet, perturb, split_by_parent
from relaxrl.structures.read import read_structures
from relaxrl.structures.shipped import shipped_names

__all__ = [
    "Crystal",
    "StructureSet",
    "check_structure",
    "perturb",
    "read_structures",
    "shipped_names",
    "split_by_parent",
]
