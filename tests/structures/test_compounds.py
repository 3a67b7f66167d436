"""Known crystals with other elements, on three prototypes made here; and on the packages where they are installed."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from relaxrl.config import from_dict
from relaxrl.errors import ConfigError, StructureError
from relaxrl.potentials import parse_calculator
from relaxrl.structures import compounds
from relaxrl.structures.check import closest_pair
from relaxrl.structures.compounds import CompoundConfig, candidate_crystals, fold, random_compound
from relaxrl.structures.recipe import GroupRecipe, SetRecipe, make_set
from relaxrl.structures.similar import SIMILAR
from relaxrl.structures.sources import SOURCES, SourceCrystal
from relaxrl.structures.substitution import charge_vectors, charged_elements
from relaxrl.structures.volume import at_bond_lengths, at_lowest_energy

ROCK_SALT = bulk("NaCl", "rocksalt", a=5.64)
FLUORITE = bulk("CaF2", "fluorite", a=5.46)
ZINCBLENDE = bulk("ZnS", "zincblende", a=5.41)
DIAMOND = bulk("C", "diamond", a=3.57)


def _crystal(label: str, atoms, group: int) -> SourceCrystal:
    return SourceCrystal(label, label, atoms, tuple(atoms.symbols), group, "aflow", "made here")


CRYSTALS = (
    _crystal("Halite", ROCK_SALT, 225),
    _crystal("Fluorite", FLUORITE, 225),
    _crystal("Sphalerite", ZINCBLENDE, 216),
    _crystal("Diamond", DIAMOND, 227),
)


@pytest.fixture(autouse=True)
def _sources(monkeypatch):
    compounds._families.cache_clear()
    monkeypatch.setattr(
        compounds,
        "read_source",
        lambda name, most: tuple(c for c in CRYSTALS if name == "aflow" and len(c.atoms) <= most),
    )
    yield
    compounds._families.cache_clear()


def test_covalent_crystals_have_the_elements_asked_for_and_sensible_bonds() -> None:
    config = CompoundConfig(elements=("Si", "C"), max_coordination=4.5, min_atoms=4, max_atoms=8)
    seen = {}
    for seed in range(60):
        drawn = random_compound(config, np.random.default_rng(seed))
        assert 4 <= len(drawn.atoms) <= 8
        assert set(drawn.atoms.symbols) <= {"Si", "C"}
        assert 0.9 < closest_pair(drawn.atoms)[3] < 1.1
        assert drawn.provenance == "made here"
        seen[drawn.parent] = drawn.prototype
    assert seen == {"A_227_2 C": "Diamond", "A_227_2 Si": "Diamond", "AB_216_2 CSi": "Sphalerite"}


def test_same_draw_with_and_without_calculator() -> None:
    config = CompoundConfig(elements=("Ca", "O"), rule="charges", max_atoms=8, strain=0.01)
    calculator = parse_calculator("pmmcs").create()
    for seed in range(5):
        plain = random_compound(config, np.random.default_rng(seed))
        scaled = random_compound(config, np.random.default_rng(seed), calculator)
        assert plain.parent == scaled.parent
        stretch = np.cbrt(scaled.atoms.cell.volume / plain.atoms.cell.volume)
        np.testing.assert_allclose(scaled.atoms.cell, plain.atoms.cell * stretch, atol=1e-9)


def test_ionic_crystals_are_neutral_and_ions_touch_only_the_other_sign() -> None:
    config = CompoundConfig(elements=("Na", "Mg", "Ti", "Cl", "O"), rule="charges", charges={"Ti": (4,)})
    charge = {"Na": 1, "Mg": 2, "Ti": 4, "Cl": -1, "O": -2}
    seen = set()
    for seed in range(80):
        drawn = random_compound(config, np.random.default_rng(seed))
        assert sum(charge[symbol] for symbol in drawn.atoms.symbols) == 0
        seen.add(drawn.parent)
    assert {"AB_225_2 ClNa", "AB_225_2 MgO", "A2B_225_3 O2Ti", "A2B_225_3 Na2O", "A2B_225_3 Cl2Mg"} <= seen
    assert {parent.split()[0] for parent in seen} == {"AB_225_2", "A2B_225_3", "AB_216_2"}  # an element has no charge


def test_arrangements_of_charges_are_counted() -> None:
    charges = (("Na", (1,)), ("K", (1,)), ("Mg", (2,)), ("O", (-2,)), ("F", (-1,)))
    vectors, weights = charge_vectors(CRYSTALS[1], charges)  # Ca, F2
    assert dict(zip(vectors, weights, strict=True)) == {(2, -1): 1, (-2, 1): 2}
    drawn = [charged_elements(CRYSTALS[1], charges, np.random.default_rng(seed)) for seed in range(300)]
    shares = {pair: drawn.count(list(pair)) / 300 for pair in (("Mg", "F"), ("O", "Na"), ("O", "K"))}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(0.25 < share < 0.42 for share in shares.values())  # a third each


def test_prototypes_are_chosen_and_excluded_by_label_or_family() -> None:
    config = CompoundConfig(elements=("Si", "C", "Ge"))
    assert len(candidate_crystals(config)) == 4
    (only,) = candidate_crystals(replace(config, prototypes=("Halite",)))
    assert only[0].label == "Halite"
    left = candidate_crystals(replace(config, exclude_prototypes=("AB_225_2", "Diamond")))
    assert [members[0].label for members in left] == ["Fluorite", "Sphalerite"]
    with pytest.raises(StructureError, match=r"is called Haelite; expected labels"):
        candidate_crystals(replace(config, exclude_prototypes=("Haelite",)))


def test_sites_get_elements_of_their_own(monkeypatch) -> None:
    atoms = bulk("Cu", "hcp", a=2.5, c=4.1)
    two_sites = SourceCrystal("Graphite", "", atoms, ("2b#0", "2c#1"), 194, "aflow", "made here")
    monkeypatch.setattr(compounds, "read_source", lambda _, __: (two_sites, CRYSTALS[3]))
    config = CompoundConfig(elements=("B", "C", "N"), decorate="sites", max_multiple=1, sources=("aflow",))
    parents = {random_compound(config, np.random.default_rng(seed)).parent for seed in range(60)}
    binary = {"AB_194_2 CB", "AB_194_2 BN", "AB_194_2 CN"}
    assert parents == binary | {"A_227_2 B", "A_227_2 C", "A_227_2 N"}
    part = replace(config, families=fold(two_sites.family))
    monkeypatch.setattr(compounds, "fold", lambda family: "unseen" if family == "AB_194_2" else "seen")
    compounds._families.cache_clear()
    drawn = {random_compound(part, np.random.default_rng(seed)).family for seed in range(20)}
    assert drawn == {"A_227_2"}  # none of the type that is to stay unseen, though it is made of a seen one


def test_similar_elements_keep_the_crystal_neutral() -> None:
    config = CompoundConfig(rule="similar", prototypes=("Fluorite", "Halite"))
    parents = {random_compound(config, np.random.default_rng(seed)).parent for seed in range(120)}
    sodium = {f"AB_225_2 {formula}" for formula in ("ClNa", "ClLi", "ClK", "AgCl", "BrNa", "BrLi", "BrK", "AgBr")}
    calcium = {f"A2B_225_3 {formula}" for formula in ("CaF2", "F2Sr", "F2Mg", "CdF2", "F2Yb")}
    assert parents == sodium | calcium
    few = CompoundConfig(rule="similar", prototypes=("Fluorite",), elements=("Sr", "F", "Na"))
    assert random_compound(few, np.random.default_rng(0)).parent == "A2B_225_3 F2Sr"


def test_every_stand_in_is_mutual() -> None:
    assert all(symbol in SIMILAR[other] for symbol, others in SIMILAR.items() for other in others)


def test_charges_of_the_potential_are_neutral_in_it() -> None:
    config = CompoundConfig(rule="charges", charge_table="pmmcs", required=("O",))
    assert len(config.symbols) == 28
    potential = parse_calculator("pmmcs").potential()
    for seed in range(20):
        drawn = random_compound(config, np.random.default_rng(seed))
        rows = potential._types[drawn.atoms.numbers]
        assert float(potential._parameters[rows, 0].sum()) == pytest.approx(0.0, abs=1e-9)


def test_one_family_in_ten_is_kept_from_training() -> None:
    names = [f"A{k}B_{group}_{k + 1}" for k in range(2, 20) for group in range(1, 231)]
    share = sum(fold(name) == "unseen" for name in names) / len(names)
    assert share == pytest.approx(0.1, abs=0.02)
    config = CompoundConfig(elements=("Si", "C"))
    seen, unseen = (candidate_crystals(replace(config, families=part)) for part in ("seen", "unseen"))
    assert {m.label for f in (*seen, *unseen) for m in f} == {crystal.label for crystal in CRYSTALS}
    assert all(fold(members[0].family) == "seen" for members in seen)


def test_volume_is_that_of_lowest_energy() -> None:
    atoms = at_bond_lengths(bulk("Cu", "fcc", a=9.0))
    lowest = at_lowest_energy(atoms, LennardJones(sigma=2.3, epsilon=0.1, rc=10.0), "copper")
    # Nearest neighbours of an fcc crystal of Lennard-Jones atoms are 1.0902 sigma apart.
    assert closest_pair(lowest)[2] == pytest.approx(1.0902 * 2.3, abs=0.02)


@pytest.mark.parametrize(
    ("sigma", "message"), [(20.0, "falls between"), (0.1, "collapses between"), (1.9, "has 0.38 of the volume")]
)
def test_crystals_without_a_volume_are_refused(sigma: float, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        at_lowest_energy(at_bond_lengths(bulk("Al", "fcc", a=5.0)), LennardJones(sigma=sigma, rc=10.0), "aluminium")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"elements": []}, "at least one element"),
        ({"elements": ["Si", "Si"]}, "none twice"),
        ({"elements": ["Zz"]}, "'Zz' is not an element"),
        ({"elements": ["Si"], "required": ["C"]}, "must be among `elements`"),
        ({"elements": ["Si"], "sources": ["icsd"]}, "some of aflow, minerals"),
        ({"elements": ["Si"], "min_atoms": 9, "max_atoms": 3}, "min_atoms"),
        ({"elements": ["Xe", "O"], "rule": "charges"}, "oxidation states of Xe"),
        ({"elements": ["Mg", "O"], "rule": "charges", "vacancy_probability": 0.5}, "would be charged"),
        ({"elements": ["Si"], "rule": "magic"}, "'any'"),
        ({"rule": "charges", "decorate": "sites"}, "goes with the rule `any`"),
    ],
)
def test_wrong_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(CompoundConfig, values)


def test_what_can_not_be_drawn_says_so() -> None:
    with pytest.raises(StructureError, match="no known crystal fits"):
        random_compound(CompoundConfig(elements=("Si",), max_coordination=1.0), np.random.default_rng(0))
    with pytest.raises(StructureError, match="1000 draws gave no crystal with the elements Mg, Ca"):
        random_compound(CompoundConfig(elements=("Mg", "Ca"), rule="charges"), np.random.default_rng(0))


def test_group_has_one_kind() -> None:
    with pytest.raises(ConfigError, match="exactly one of `alloys`"):
        from_dict(GroupRecipe, {"count": 1})


def test_recipe_makes_minima_of_oxides() -> None:
    recipe = from_dict(
        SetRecipe,
        {
            "name": "oxides",
            "calculator": "pmmcs",
            "splits": {
                "train": {
                    "groups": [{"count": 2, "compounds": {"elements": ["Mg", "Ca", "Sr", "O"], "rule": "charges"}}],
                    "starts": False,
                }
            },
        },
    )
    entries = make_set(recipe)["train"]
    assert len({entry.parent for entry in entries}) == 2
    for entry in entries:
        assert "O" in entry.minimum.symbols
        assert entry.prototype in {"Halite", "Sphalerite"}
        forces = entry.minimum.copy()
        forces.calc = parse_calculator("pmmcs").create()
        assert np.abs(forces.get_forces()).max() < 1e-5


def _installed(name: str) -> bool:
    try:
        SOURCES[name].path()
    except StructureError:
        return False
    return True


@pytest.mark.skipif(not (_installed("aflow") and _installed("minerals")), reason="the extra `prototypes` is missing")
def test_hundreds_of_families_of_real_crystals(monkeypatch) -> None:
    monkeypatch.undo()
    compounds._families.cache_clear()
    assert len(candidate_crystals(CompoundConfig(elements=("Si", "C"), max_atoms=24, max_species=2))) > 250
    config = CompoundConfig(rule="charges", charge_table="pmmcs", required=("O",))
    for seed in range(10):
        drawn = random_compound(config, np.random.default_rng(seed))
        assert "O" in drawn.atoms.symbols
        assert closest_pair(drawn.atoms)[3] > 0.9
