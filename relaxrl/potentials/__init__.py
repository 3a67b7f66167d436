"""Structure in; energy, forces and stress out."""

from relaxrl.potentials.ase_potential import ASEPotential
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.potentials.counting import CountedCalculator, CountedPotential, EvaluationCounter
from relaxrl.potentials.eam import EAM
from relaxrl.potentials.emt import EMT
from relaxrl.potentials.lennard_jones import LennardJones
from relaxrl.potentials.mixed import MixedPotential, PotentialSource
from relaxrl.potentials.morse import Morse
from relaxrl.potentials.pmmcs import PMMCS
from relaxrl.potentials.specs import CALCULATOR_KEY, STORED, CalculatorSpec, calculator_names, parse_calculator
from relaxrl.potentials.stillinger_weber import StillingerWeber
from relaxrl.potentials.tersoff import Tersoff
from relaxrl.potentials.torch_calculator import TorchCalculator
from relaxrl.potentials.torch_potential import TorchPotential

__all__ = [
    "CALCULATOR_KEY",
    "EAM",
    "EMT",
    "PMMCS",
    "STORED",
    "ASEPotential",
    "CalculatorSpec",
    "CountedCalculator",
    "CountedPotential",
    "Evaluation",
    "EvaluationCounter",
    "LennardJones",
    "MixedPotential",
    "Morse",
    "Potential",
    "PotentialSource",
    "StillingerWeber",
    "Tersoff",
    "TorchCalculator",
    "TorchPotential",
    "calculator_names",
    "parse_calculator",
]
