"""Values of a sensor as 16-bit whole numbers, for the store's edition "int16".

In: what a sensor measures, and its values. Out: how many steps above the lowest valid value they lie, and back.

    v = round((x - low) / step) - 32768        x = low + step (v + 32768)
    low   the lowest valid value of the sensor
    step  the smallest of 1, 2, 5 times a power of ten of which 65,535 reach the highest; at least 1 for whole numbers

A value errs by half a step at most: s1 by 0.0025 dB. Whole numbers of up to 16 bits, such as s2, lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ArgumentError, RangeError
from cromss.geo.sensor import Sensor

__all__ = ["WholeSteps", "steps_of"]

_LEAST, _MOST = -(2**15), 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class WholeSteps:
    """Steps of `step` from `low` on, in the sensor's unit."""

    low: float
    step: float

    def apply(self, values: NDArray[Any], valid: NDArray[np.bool_], where: str) -> NDArray[np.int16]:
        """Values as int16 of the same shape; what is not valid becomes the least. `valid` broadcasts to `values`.

        Raises RangeError for valid values beyond the range.
        """
        known = np.where(valid, values, np.asarray(self.low)).astype(np.float64)
        steps = np.rint((known - self.low) / self.step) + _LEAST
        if steps.size and not (steps.min() >= _LEAST and steps.max() <= _MOST):
            raise RangeError(
                "values lie beyond what edition int16 can hold",
                got=f"{known.min():g} to {known.max():g}",
                expected=f"{self.low:g} to {self.low + self.step * (_MOST - _LEAST):g}",
                where=where,
                do="take edition native",
            )
        whole: NDArray[np.int16] = steps.astype(np.int16)
        return whole

    def undo(self, stored: NDArray[np.int16]) -> NDArray[np.float32]:
        """Stored numbers as values in the sensor's unit."""
        values: NDArray[np.float32] = stored.astype(np.float32)
        values -= np.float32(_LEAST)
        values *= np.float32(self.step)
        values += np.float32(self.low)
        return values

    def to_dict(self) -> dict[str, float]:
        """The steps as JSON types."""
        return {"low": self.low, "step": self.step}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WholeSteps:
        """The inverse of `to_dict`. Raises ArgumentError for anything else."""
        try:
            steps = cls(low=float(content["low"]), step=float(content["step"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError("these are no steps of values", got=repr(error), expected="low, step") from None
        if not (math.isfinite(steps.low) and 0 < steps.step < math.inf):
            raise ArgumentError("these are no steps of values", got=content, expected="a number, and one above 0")
        return steps


def steps_of(sensor: Sensor) -> WholeSteps:
    """The steps that hold the valid range of a sensor."""
    needed = (sensor.valid_max - sensor.valid_min) / (_MOST - _LEAST)
    if np.dtype(sensor.dtype).kind in "iu":
        needed = max(needed, 1.0)
    power = 10.0 ** math.floor(math.log10(needed))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= needed * (1 - 1e-12))
    return WholeSteps(low=sensor.valid_min, step=step)
