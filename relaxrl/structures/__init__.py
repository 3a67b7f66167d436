"""Where episodes start: crystals read, generated, displaced, split and weighed."""

from relaxrl.structures.alloys import AlloyConfig, random_alloy
from relaxrl.structures.check import check_structure
from relaxrl.structures.compounds import Compound, CompoundConfig, random_compound
from relaxrl.structures.crystal import Crystal, Kind, StructureSet, perturb, split_by_parent
from relaxrl.structures.labelled import LabelledStructure, displaced, label, read_labelled
from relaxrl.structures.minima import MinimumConfig
from relaxrl.structures.minimize import find_minima
from relaxrl.structures.random_crystals import RandomCrystalConfig, random_crystal
from relaxrl.structures.read import Parents, read_structures
from relaxrl.structures.recipe import SetRecipe, make_set
from relaxrl.structures.shipped import shipped_names
from relaxrl.structures.write import write_structures

__all__ = [
    "AlloyConfig",
    "Compound",
    "CompoundConfig",
    "Crystal",
    "Kind",
    "LabelledStructure",
    "MinimumConfig",
    "Parents",
    "RandomCrystalConfig",
    "SetRecipe",
    "StructureSet",
    "check_structure",
    "displaced",
    "find_minima",
    "label",
    "make_set",
    "perturb",
    "random_alloy",
    "random_compound",
    "random_crystal",
    "read_labelled",
    "read_structures",
    "shipped_names",
    "split_by_parent",
    "write_structures",
]
