"""Calculators by name and by import path."""

import pickle
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import FileIOCalculator
from ase.calculators.emt import EMT as AseEMT  # noqa: N811 # a class, whose name is an acronym
from ase.calculators.lj import LennardJones as AseLennardJones

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, ASEPotential, LennardJones, Morse, parse_calculator


def test_names_make_ase_calculators_and_torch_potentials() -> None:
    assert isinstance(parse_calculator("emt").create(), AseEMT)
    assert isinstance(parse_calculator("emt").potential(), EMT)
    spec = parse_calculator("lj,sigma=3.4, epsilon=0.0104,smooth=true,ro=5")
    assert spec.arguments == {"sigma": 3.4, "epsilon": 0.0104, "smooth": True, "ro": 5}
    calculator, potential = spec.create(), spec.potential()
    assert isinstance(calculator, AseLennardJones)
    assert calculator.parameters.sigma == 3.4
    assert isinstance(potential, LennardJones)
    assert (potential.sigma, potential.ro, potential.smooth) == (3.4, 5, True)
    assert isinstance(parse_calculator("morse", r0=2.5).potential(), Morse)


def test_arguments_without_a_torch_form_fall_back_to_ase() -> None:
    potential = parse_calculator("emt,asap_cutoff=true").potential()
    assert isinstance(potential, ASEPotential)
    got = potential.evaluate(graph_from_atoms(bulk("Cu", a=3.5)))
    atoms = bulk("Cu", a=3.5)
    atoms.calc = AseEMT(asap_cutoff=True)
    assert float(got.energy) == atoms.get_potential_energy()


def test_import_paths_functions_and_ase_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(parse_calculator("ase.calculators.emt:EMT").create(), AseEMT)
    assert isinstance(parse_calculator(AseLennardJones, sigma=2.0).create(), AseLennardJones)
    assert parse_calculator("tip3p,rc=4.5").create().rc == 4.5
    (tmp_path / "my_calculators.py").write_text(
        "from ase.calculators.lj import LennardJones\ndef argon(rc=8.0):\n    return LennardJones(sigma=3.4, rc=rc)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *sys.path])
    assert parse_calculator("my_calculators:argon,rc=7").create().parameters.rc == 7


def test_specs_travel_and_may_be_extended() -> None:
    spec = pickle.loads(pickle.dumps(parse_calculator("lj,sigma=3.4")))
    assert parse_calculator(spec, rc=8).arguments == {"sigma": 3.4, "rc": 8}
    assert spec.name == "lj"
    values = parse_calculator("some.module:make,elements=['Al','Fe'],model=small,device=None").arguments
    assert values == {"elements": ["Al", "Fe"], "model": "small", "device": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "etm",
            r"unknown calculator 'etm' \(did you mean 'emt'\?\); expected one of chgnet, drawn-sw, drawn-tersoff, ",
        ),
        ("lj,sgima=3", r"`lj` has no argument 'sgima' \(did you mean 'sigma'\?\); it takes sigma, epsilon"),
        ("EMTT", r"unknown calculator 'EMTT' \(did you mean 'emt'\?\)"),
        ("chgnett", r"unknown calculator 'chgnett' \(did you mean 'chgnet'\?\)"),
        ("chgnet,modle=0.3.0", r"`chgnet` has no argument 'modle' \(did you mean 'model'\?\); it takes model, device"),
        ("chgnet:file", "`chgnet` takes no file, got 'file'"),
        ("lammps", "`lammps` needs a file with its parameters: lammps:FILE"),
        ("mace", r"unknown calculator 'mace'; expected"),  # not ASE's `ace`, which is something else
        ("ase.calculators.emt", "unknown calculator .* an import path such as ase.calculators.emt:EMT"),
    ],
)
def test_unknown_names_and_arguments_come_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(CalculatorError, match=said):
        parse_calculator(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ase.calculators.nowhere:EMT", "can't import `ase.calculators.nowhere`"),
        ("ase.calculators.emt:ETM", r"`ase.calculators.emt` \(emt.py\) has no 'ETM' \(did you mean 'EMT'\?\)"),
        ("ase.calculators.emt:beta", "must be a class or a function"),
        ("ase.calculators.qmmm:SimpleQMMM,wrong=1", "can't make the calculator .* wrong=1: TypeError"),
        ("gpaw", "can't import ASE's calculator `gpaw`"),
    ],
)
def test_calculators_that_cannot_be_made(text: str, said: str) -> None:
    with pytest.raises(CalculatorError, match=said):
        parse_calculator(text).create()


def test_bad_values_and_ready_calculators_are_refused() -> None:
    with pytest.raises(CalculatorError, match="can't make the potential `lj`: `sigma` and `rc` must be positive"):
        parse_calculator("lj,sigma=0").potential()
    ready: Any = AseEMT()
    with pytest.raises(CalculatorError, match="pass its class"):
        parse_calculator(ready)


def test_unsupported_elements_are_named_before_any_evaluation() -> None:
    emt = parse_calculator("emt")
    assert emt.supports([13, 29])
    assert not emt.supports([13, 26])
    emt.check(bulk("Cu"))
    said = r"calculator emt has no parameters for S, Cl; it knows H, .*; got a.cif#0"
    with pytest.raises(CalculatorError, match=said):
        emt.check(molecule("SH2") + molecule("CH3Cl"), "a.cif#0")
    assert parse_calculator("lj").supports([92])
    assert parse_calculator("ase.calculators.emt:EMT").supports([92])


def family(sigma: float = 1.0, **kwargs: float) -> AseLennardJones:
    return AseLennardJones(sigma=sigma, **kwargs)


class Program(FileIOCalculator):
    """Hands its arguments on to a program."""

    _legacy_default_command = "true"
    implemented_properties: ClassVar[list[str]] = ["energy"]


@pytest.mark.parametrize(
    ("target", "key", "said"),
    [
        ("ase.calculators.emt:EMT", "asap_cutof", r"no argument 'asap_cutof' \(did you mean 'asap_cutoff'\?\)"),
        ("ase.calculators.emt:EMT", "sigma", r"`ase.calculators.emt:EMT` names no argument 'sigma' and may ignore it"),
        ("ase.calculators.lj:LennardJones", "sigm", r"'sigm' \(did you mean 'sigma'\?\).* epsilon, rc, ro, sigma"),
        (family, "sgima", r"'sgima' \(did you mean 'sigma'\?\)"),
    ],
)
def test_arguments_that_a_calculator_swallows_are_told(target: Any, key: str, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        parse_calculator(target, **{key: 1.0}).create()


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("ase.calculators.emt:EMT", "asap_cutoff"),
        ("ase.calculators.lj:LennardJones", "sigma"),
        (family, "sigma"),
        (family, "rc"),  # named by what the function hands it to
        (Program, "ecut"),
    ],
)
def test_arguments_that_may_mean_something_are_not(target: Any, key: str) -> None:
    parse_calculator(target, **{key: 2.0}).create()  # warnings are errors here
