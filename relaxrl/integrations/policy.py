"""A function from observations to actions, as other RL libraries train it, as a policy of graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from relaxrl.envs import limit_radially
from relaxrl.envs.views import FlatView, PaddedView
from relaxrl.errors import RelaxRLError, StructureError
from relaxrl.graph import AtomGraph


class ObservationPolicy:
    """Displacements by a function that was trained in `relaxrl/Relax-v0` or `relaxrl/RelaxFlat-v0`.

    Shows the function what the environment would, and does with its action what the environment does. So it can be
    evaluated, and used as an ASE optimizer, whatever library it comes from.

    Args:
        function: From an observation, a dict of arrays or one flat array, to an action (3 * n_max,) in [-1, 1].
        n_max: Atoms that there was room for in training.
        max_step: Å; `max_step` of the environment's configuration in training.
        flat: Whether it was trained in `RelaxFlat-v0`.
        batched: Whether the function takes observations of several structures at once, (n_graphs, ...) each.
        name: What tables call it.

    Raises:
        ValueError: `n_max` or `max_step` is not positive.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.optimize import RLOptimizer
        >>> from ase.calculators.emt import EMT
        >>> def downhill(observation):
        ...     return 0.1 * observation["forces"].ravel()
        >>> atoms = bulk("Cu", cubic=True)
        >>> atoms.rattle(0.1, seed=0)
        >>> atoms.calc = EMT()
        >>> RLOptimizer(atoms, agent=ObservationPolicy(downhill, n_max=8), logfile=None).run(fmax=0.05)
        True
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        n_max: int,
        max_step: float = 0.5,
        flat: bool = False,
        batched: bool = False,
        name: str = "policy",
    ) -> None:
        if n_max < 1 or not max_step > 0:
            raise ValueError(f"expected n_max >= 1 and max_step > 0 Å, got {n_max} and {max_step}")
        self.function = function
        self.max_step = max_step
        self.batched = batched
        self.name = name
        self._view = FlatView(n_max) if flat else PaddedView(n_max)

    @property
    def max_atoms(self) -> int:
        """Atoms of the largest structure that it can be shown."""
        return self._view.n_max

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements (n_atoms, 3), Å, each no longer than `max_step`.

        Args:
            graph: Structures with forces.

        Raises:
            StructureError: One has more atoms than there is room for.
            RelaxRLError: The function's answer is of another shape or not finite.
        """
        largest = int(graph.atoms_per_graph.max())
        if largest > self.max_atoms:
            raise StructureError(
                f"{self.name} was trained with room for n_max = {self.max_atoms} atoms, got a structure of {largest}; "
                "train it in an environment with a larger n_max"
            )
        if self.batched:
            actions = np.asarray(self.function(self._view.observations(graph)))
        else:
            parts = graph.unbatch() if graph.n_graphs > 1 else [graph]
            actions = np.stack([np.asarray(self.function(self._view.observation(part))) for part in parts])
        try:
            return limit_radially(self._view.displacements(actions, graph, self.max_step), self.max_step)
        except ValueError as error:
            raise RelaxRLError(f"{self.name}: {error}") from error
