"""Scenes of patches as two sensors see them, larger than needed, so that one can be read off the other."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from cromss.data.record import PlaceRecord

SIDE, ROOM = 120, 14


def fields(seed: int, side: int = SIDE + 2 * ROOM) -> np.ndarray:
    """Patches of five classes, 0..4, with borders in all directions."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(5, side, side)), (0, 5, 5))
    return smooth.argmax(axis=0).astype(np.uint8)


def cut(array: np.ndarray, row: int = 0, column: int = 0) -> np.ndarray:
    """What stands `row` px further up and `column` px further left, so that its content lies down and right."""
    return array[..., ROOM - row : ROOM - row + SIDE, ROOM - column : ROOM - column + SIDE]


def radar(classes: np.ndarray, seed: int) -> np.ndarray:
    """Backscatter in dB with four-look speckle; its order of classes is not that of the other sensor."""
    levels = np.array([[-22, -8, -15, -11, -18], [-28, -17, -19, -20, -24]], np.float32)
    speckle = 10 * np.log10(np.random.default_rng(seed).gamma(4, 1 / 4, (2, *classes.shape)))
    return (levels[:, classes] + speckle).astype(np.float32)


def optical(classes: np.ndarray, seed: int) -> np.ndarray:
    """Digital numbers of 13 bands in which the classes differ."""
    random = np.random.default_rng(seed)
    levels = random.uniform(300, 4000, (13, 5))
    return (levels[:, classes] + random.normal(0, 60, (13, *classes.shape))).clip(1).astype(np.uint16)


def record(name: str, seed: int, row: int = 0, column: int = 0, labels_row: int = 0, seasons: int = 1) -> PlaceRecord:
    """A place whose s1 lies (row, column) px off its s2, and whose labels lie `labels_row` px down."""
    classes = fields(seed)
    s1, s2 = cut(radar(classes, seed), row, column), cut(optical(classes, seed))
    return PlaceRecord(
        id=name,
        seasons=tuple(f"season{number}" for number in range(seasons)),
        images={"s1": np.stack([s1] * seasons), "s2": np.stack([s2] * seasons)},
        products={"s1": "GRD", "s2": "L1C"},
        labels=np.stack([cut(classes, labels_row)] * seasons),
        valid=np.ones((seasons, SIDE, SIDE), bool),
        split="train",
    )
