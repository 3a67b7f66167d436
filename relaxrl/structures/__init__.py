"""Where episodes start: crystals read, generated, displaced, split and weighed."""

from relaxrl.structures.alloys import AlloyConfig, random_alloy
from relaxrl.structures.check import check_structure
from relaxrl.structures.crystal import Crystal, Kind, StructureSet, perturb, split_by_parent
from relaxrl.structures.minima import MinimumConfig
from relaxrl.structures.minimize import find_minima
from relaxrl.structures.read import read_structures
from relaxrl.structures.recipe import SetRecipe, make_set
from relaxrl.structures.shipped import shipped_names
from relaxrl.structures.write import write_structures

__all__ = [
    "AlloyConfig",
    "Crystal",
    "Kind",
    "MinimumConfig",
    "SetRecipe",
    "StructureSet",
    "check_structure",
    "find_minima",
    "make_set",
    "perturb",
    "random_alloy",
    "read_structures",
    "shipped_names",
    "split_by_parent",
    "write_structures",
]
