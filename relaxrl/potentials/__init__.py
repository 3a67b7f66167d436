"""Structure in; energy, forces and stress out."""

from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.potentials.emt import EMT
from relaxrl.potentials.torch_potential import TorchPotential

__all__ = ["EMT", "Evaluation", "Potential", "TorchPotential"]
