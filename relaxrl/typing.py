"""Names for the array types that the package passes around."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
StateDict = dict[str, Any]
"""What an object needs to go on bit for bit: tensors, arrays, numbers, strings, lists and dicts of them."""
