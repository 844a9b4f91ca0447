"""How often each value of a small unsigned type occurs in an array.

In: an array of uint8 or uint16. Out: value -> pixels, of the values that occur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["value_counts"]


def value_counts(values: NDArray[Any]) -> dict[int, int]:
    """The values that occur, in their order, and how often; counted, not sorted."""
    counts_V = np.bincount(values.ravel())
    return {value: int(counts_V[value]) for value in counts_V.nonzero()[0].tolist()}
