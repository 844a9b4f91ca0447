"""Whether a place has something to learn from: pixels with data in every season, and classes where labels are given.

In: validity and usability of all seasons. Out: nothing, or the error that names the file of the first empty season.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cromss.errors import LabelError, RangeError

__all__ = ["require_usable"]


def require_usable(
    valid_THW: NDArray[np.bool_], usable_THW: NDArray[np.bool_], images: Sequence[str], labels: Sequence[str]
) -> None:
    """Raise RangeError or LabelError unless each season has a pixel with data, and one with data and a class.

    images, labels: the files of each season, for the message; labels is empty where a source has none.
    """
    for season, (valid_HW, usable_HW) in enumerate(zip(valid_THW, usable_THW, strict=True)):
        if not valid_HW.any():
            raise RangeError(
                "a scene has no pixel with data in all its images",
                got="0 pixels",
                expected="at least 1",
                where=images[season],
                do="leave the scene out, or check the no-data value of its files",
            )
        if not usable_HW.any():
            raise LabelError(
                "a scene has no labelled pixel where its images have data",
                got="0 pixels with a class",
                expected="at least 1",
                where=labels[season],
                do="leave the scene out, or check its labels and their no-data value",
            )
