"""Which pixels of an image hold no data, as its file declares it: looked for only in the bands that one asks about.

In: values (B, H, W), the no-data value of each band, and the file's mask. Out: masks (H, W), True where nothing was
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoData"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NoData:
    """values_BHW: as the file holds them. declared_B: the no-data value of each band, None for none.

    masked_HW: where the mask of the file hides all bands; None without one.
    """

    values_BHW: NDArray[Any]
    declared_B: Sequence[float | None]
    masked_HW: NDArray[np.bool_] | None = None

    def in_band(self, band: int) -> NDArray[np.bool_]:
        """Where one band, by index, has no data."""
        missing_HW = _holds(self.values_BHW[band], self.declared_B[band])
        return missing_HW if self.masked_HW is None else missing_HW | self.masked_HW

    def in_each(self) -> NDArray[np.bool_]:
        """Where each band has no data, (B, H, W)."""
        return np.stack([self.in_band(band) for band in range(len(self.values_BHW))])

    def in_any(self, bands: Iterable[int]) -> NDArray[np.bool_]:
        """Where one of these bands has no data."""
        missing_HW = np.zeros(self.values_BHW.shape[1:], bool)
        for band in bands:
            missing_HW |= self.in_band(band)
        return missing_HW

    def in_all(self, bands: Iterable[int]) -> NDArray[np.bool_]:
        """Where none of these bands has data; most images have some everywhere, as the first band or two show."""
        missing_HW = np.ones(self.values_BHW.shape[1:], bool)
        for band in bands:
            missing_HW &= self.in_band(band)
            if not missing_HW.any():
                break
        return missing_HW


def _holds(values_HW: NDArray[Any], value: float | None) -> NDArray[np.bool_]:
    """Where a band holds a value, which may be NaN."""
    if value is None:
        return np.zeros(values_HW.shape, bool)
    if values_HW.dtype.kind in "iu" and float(value).is_integer() and abs(value) < 2**53:
        value = int(value)  # beside a float all values would become floats first
    found_HW: NDArray[np.bool_] = np.isnan(values_HW) if np.isnan(value) else np.equal(values_HW, value)
    return found_HW
