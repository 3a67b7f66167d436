"""Named random generators: one seed, independent streams, all of them in a checkpoint."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from relaxrl.typing import StateDict


class Generators:
    """Independent random streams by name, made from one seed.

    A stream depends on the seed and on its own name only, so that a new consumer of randomness does not change the
    numbers that the others see.

    Args:
        seed: Non-negative integer.

    Examples:
        >>> a, b = Generators(7), Generators(7)
        >>> bool(a.numpy("reset").random() == b.numpy("reset").random())
        True
        >>> bool(a.numpy("noise").random() == a.numpy("replay").random())
        False
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}")
        self.seed = seed
        self._numpy: dict[str, np.random.Generator] = {}
        self._torch: dict[str, torch.Generator] = {}

    def numpy(self, name: str) -> np.random.Generator:
        """The NumPy stream of this name."""
        if name not in self._numpy:
            self._numpy[name] = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return self._numpy[name]

    def torch(self, name: str) -> torch.Generator:
        """The torch stream (CPU) of this name."""
        if name not in self._torch:
            entropy = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)
            self._torch[name] = torch.Generator().manual_seed(int(entropy[0]) % 2**63)
        return self._torch[name]

    def state_dict(self) -> StateDict:
        """The state of every stream used so far."""
        return {
            "seed": self.seed,
            "numpy": {name: generator.bit_generator.state for name, generator in self._numpy.items()},
            "torch": {name: generator.get_state() for name, generator in self._torch.items()},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`; streams already handed out are rewound in place."""
        self.seed = state["seed"]
        for name, value in state["numpy"].items():
            self.numpy(name).bit_generator.state = value
        for name, value in state["torch"].items():
            self.torch(name).set_state(value)
