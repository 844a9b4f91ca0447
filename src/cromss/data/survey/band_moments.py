"""Mean and standard deviation of the bands of a sensor, summed up image by image without losing digits.

In: the images of a set, or of parts of it, in any number. Out: (mean, std) a band over all valid pixels.

    m <- m + d n' / (n + n'),    q <- q + q' + d^2 n n' / (n + n'),    d = m' - m,    std = sqrt(q / n)

(Chan, Golub, LeVeque 1983; n pixels, m mean, q sum of squared deviations; ' the part that is added.) The sum of squares
alone would lose a small spread around a large mean, such as temperatures in kelvin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandMoments"]


@dataclass(kw_only=True)
class BandMoments:
    """Sums over images of one sensor. mean_B, squares_B: float64; squares_B of the deviations from mean_B."""

    bands: tuple[str, ...]
    pixels: int = 0
    mean_B: NDArray[np.float64] = field(init=False)
    squares_B: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.mean_B, self.squares_B = np.zeros(len(self.bands)), np.zeros(len(self.bands))

    def add(self, image_BHW: NDArray[Any], valid_HW: NDArray[np.bool_]) -> None:
        """Count the valid pixels of one image, in the sensor's unit."""
        values_BN = image_BHW[:, valid_HW].astype(np.float64)
        if values_BN.size:
            mean_B = values_BN.mean(axis=1)
            squares_B = np.square(values_BN - mean_B[:, None]).sum(axis=1)
            self._take(values_BN.shape[1], mean_B, squares_B)

    def merge(self, other: BandMoments) -> None:
        """Add the sums of another part of the set."""
        if other.pixels:
            self._take(other.pixels, other.mean_B, other.squares_B)

    def _take(self, pixels: int, mean_B: NDArray[np.float64], squares_B: NDArray[np.float64]) -> None:
        total, step_B = self.pixels + pixels, mean_B - self.mean_B
        self.squares_B = self.squares_B + squares_B + step_B**2 * (self.pixels * pixels / total)
        self.mean_B = self.mean_B + step_B * (pixels / total)
        self.pixels = total

    def table(self) -> dict[str, tuple[float, float]]:
        """Band -> (mean, std of all pixels); nothing where no pixel was counted."""
        if not self.pixels:
            return {}
        std_B = np.sqrt(self.squares_B / self.pixels)
        return {band: (float(mean), float(std)) for band, mean, std in zip(self.bands, self.mean_B, std_B, strict=True)}
