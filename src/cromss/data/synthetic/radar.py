"""Sentinel-1 as it sees a place: backscatter in VV and VH.

In: a Landscape, its Ground, the truth of one season, the month. Out: (2, H, W) float32 dB.

    sigma = mean[class] + offset[patch] + phenology + texture + slope (dB), as power through the sensor's blur, times
    speckle

Speckle is Gamma(looks, 1 / looks) of four looks, independent from pixel to pixel: about 2.3 dB of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cromss.data.synthetic.fields import Array, correlated
from cromss.data.synthetic.landscape import BUILT, CROPS, FLOODED, SHRUB, TREES, WATER, Labels, Landscape
from cromss.data.synthetic.spectra import Ground, cover_of
from cromss.data.synthetic.worlds import World

__all__ = ["BANDS", "CLASS_DB", "Echoes", "draw_echoes", "listen"]

BANDS = ("VV", "VH")

# dB by class, rows in the order of Dynamic World: medians of the same real scenes by the rule of `spectra.CLASS_DN`.
CLASS_DB = np.array(
    [
        [-18.4, -24.1],  # water
        [-9.8, -15.1],  # trees
        [-12.4, -18.1],  # grass
        [-10.1, -16.1],  # flooded vegetation
        [-11.3, -18.2],  # crops
        [-10.5, -16.7],  # shrub and scrub
        [-9.4, -15.9],  # built
        [-11.6, -19.0],  # bare
        [-11.7, -17.8],  # snow and ice
    ]
)
# What the real medians hide because real labels err: reeds in water echo twice in VV, walls echo strongly, bare rock
# and soil and wet snow scatter little into VH. In dB, chosen so that radar alone can tell the classes about as well as
# in life.
APART_DB = np.array(
    [
        [-1.0, -1.6],
        [0.0, 1.3],
        [-1.5, -1.4],
        [3.0, 0.2],
        [0.0, -0.3],
        [-0.8, -0.6],
        [4.0, 1.2],
        [-1.0, -3.2],
        [-3.5, -3.6],
    ]
)
OFFSET_DB = np.array([2.0, 2.2])  # standard deviation between patches, for good, in VV and VH
SHARED = 0.6  # share of its variance that the two bands have in common
MOISTURE_DB = 1.0  # standard deviation between patches, of one season, the same in both bands
WIND_DB = 2.0  # standard deviation between seasons, on open water, in VV
CALIBRATION_DB = 0.3  # standard deviation between images
LOOKS = 4
BLUR_PX = 0.6  # the pixel is 10 m, the resolution about 20 m
DB_RANGE = (-54.0, 26.0)  # the range of real scenes


@dataclass(frozen=True, kw_only=True)
class Echoes:
    """What of the radar picture stays over the year, in dB: of the patches, and of the pixels (H, W)."""

    offsets: Array  # (2, patches)
    grain: Array  # unit variance, about one pixel wide
    clumps: Array  # unit variance, one or two pixels wide
    corners: Array  # what walls that face the radar add to houses
    slope: Array  # what slopes that face the radar add


def draw_echoes(rng: np.random.Generator, world: World, place: Landscape) -> Echoes:
    """Draw what the radar images of all seasons share."""
    size = place.relief.shape[0]
    common, own = rng.standard_normal((1, place.patches)), rng.standard_normal((2, place.patches))
    offsets = world.offsets * OFFSET_DB[:, None] * (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own)
    corners = np.where(rng.random((size, size)) < 0.12, 8.0, 0.0)
    slope = np.gradient(ndimage.gaussian_filter(place.relief, 1.0), axis=1) * np.clip(place.relief, 0.0, 1.5)
    return Echoes(
        offsets=offsets,
        grain=correlated(rng, size, 0.8),
        clumps=correlated(rng, size, 1.5),
        corners=corners,
        slope=np.clip(8.0 * slope, -4.0, 4.0),
    )


def listen(
    rng: np.random.Generator,
    world: World,
    place: Landscape,
    ground: Ground,
    echoes: Echoes,
    truth: Labels,
    month: int,
) -> npt.NDArray[np.float32]:
    """One Sentinel-1 acquisition, (2, H, W) float32 dB."""
    water = truth == WATER
    level = (CLASS_DB + APART_DB)[truth].transpose(2, 0, 1) + np.array(world.decibels)[:, None, None]
    moisture = MOISTURE_DB * world.offsets * rng.standard_normal(place.patches)
    level = level + (echoes.offsets + moisture)[:, place.patch] * np.where(water, 0.4, 1.0)
    level[:, water] += WIND_DB * rng.standard_normal() * np.array([[1.0], [0.5]])
    crops = truth == CROPS
    level[:, crops] += np.array([[1.0], [2.5]]) * (cover_of(ground, month) - 0.4)[crops]
    level += 0.6 * echoes.grain * (truth == TREES) + echoes.clumps * np.select(
        [truth == SHRUB, truth == FLOODED], [2.2, 1.2]
    )
    level += (echoes.corners + 1.5 * echoes.grain) * (truth == BUILT) + echoes.slope * ~water
    power = ndimage.gaussian_filter(10 ** (level / 10), (0, BLUR_PX, BLUR_PX), mode="nearest", truncate=3.0)
    power *= rng.gamma(LOOKS, 1 / LOOKS, power.shape)
    decibels = 10 * np.log10(power) + CALIBRATION_DB * rng.standard_normal()
    return np.asarray(np.clip(decibels, *DB_RANGE), np.float32)
