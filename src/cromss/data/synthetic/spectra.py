"""Sentinel-2 as it sees a place: top-of-atmosphere reflectance in 13 bands.

In: a Landscape, its truth in one season, the month, a Sky. Out: uint16 DN = reflectance * 10000, 13 bands, level L1C.

    DN = path + (mean[class] - path) * exp(offset[patch] + phenology + texture) + haze, then clouds and their shadows

Offsets are normal on three axes (brightness, greenness, short-wave infrared) and, less, band by band, so that a pixel
alone is ambiguous. Fields are a mixture of green crop and soil whose share follows the crop's calendar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cromss.data.synthetic.fields import Array, correlated
from cromss.data.synthetic.landscape import (
    BARE,
    BUILT,
    CROPS,
    FLOODED,
    GRASS,
    SHRUB,
    SNOW,
    TREES,
    WATER,
    Labels,
    Landscape,
)
from cromss.data.synthetic.sky import Sky
from cromss.data.synthetic.worlds import World

__all__ = ["BANDS", "CLASS_DN", "CLOUD_DN", "Ground", "cover_of", "draw_ground", "see"]

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")

# DN of each class in L1C, rows in the order of Dynamic World. Bands B2-B8, B11, B12: median over 78 real scenes (76 of
# BigEarthNet, carried from L2A to L1C by one line a band, and 2 of SSL4EO-S12) of the median of the pixels that the
# Dynamic World model gives this class with at least 40% probability (snow 60%: below that it is forest under snow),
# scenes with 50 such pixels or more. B1, B8A and B9 follow from B2, B8 and B8A by the median ratios of a cloud-free L1C
# scene (1.22, 0.98, 0.42); B10, where the air absorbs nearly all, is its median, 11, everywhere.
CLASS_DN = np.array(
    [
        [1162, 952, 717, 524, 523, 520, 539, 458, 449, 189, 11, 260, 147],  # water
        [1126, 923, 835, 558, 872, 1886, 2166, 2195, 2151, 903, 11, 1291, 570],  # trees
        [1230, 1008, 1051, 717, 1267, 2887, 3455, 3518, 3448, 1448, 11, 2096, 944],  # grass
        [1265, 1037, 911, 825, 1020, 1335, 1510, 1552, 1521, 639, 11, 1114, 667],  # flooded vegetation
        [1401, 1148, 1154, 1103, 1436, 2493, 2916, 2799, 2743, 1152, 11, 2312, 1332],  # crops
        [1309, 1073, 1012, 1073, 1291, 1802, 2082, 2086, 2044, 858, 11, 2445, 1626],  # shrub and scrub
        [1451, 1189, 1190, 1100, 1433, 2385, 2819, 2672, 2619, 1100, 11, 2209, 1425],  # built
        [2114, 1733, 1890, 2185, 2274, 2672, 3100, 2861, 2804, 1178, 11, 3476, 2401],  # bare
        [3534, 2897, 2557, 2570, 2799, 3497, 3773, 3855, 3778, 1587, 11, 440, 332],  # snow and ice
    ],
    np.float64,
)
# What clear air sends back itself, in DN: chosen below the darkest class, so that land can darken without reaching 0.
PATH_DN = np.array([1000, 700, 420, 260, 230, 190, 170, 140, 130, 40, 8, 30, 15], np.float64)
# A cloud: median of the pixels under the cloud of a real SSL4EO-S12 scene (0000200, 2020-08-23, L1C).
CLOUD_DN = np.array([3604, 3574, 3476, 3511, 3502, 4260, 4987, 4499, 5217, 734, 12, 3890, 2841], np.float64)
# Thin haze scatters the blue most; DN added at density 1.
HAZE_DN = np.array([420, 380, 300, 240, 210, 190, 170, 150, 140, 40, 4, 60, 35], np.float64)

# The three axes of the offsets, in log units of reflectance for one unit of offset. One unit of greenness is one log
# unit of the ratio of near infrared to red.
AXES = np.array(
    [
        [0.7, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0],
        [-0.2, -0.35, -0.2, -0.5, -0.2, 0.3, 0.45, 0.5, 0.5, 0.5, 0.0, -0.1, -0.25],
        [0.0, 0.0, 0.05, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.8, 1.1],
    ]
)
OFFSET_STD = np.array([0.30, 0.62, 0.42])  # log units, between patches of a class
PASSING_SHARE = 0.25  # of the offsets' variance is of one season alone: mowing, drought, growth
OWN_STD = 0.07  # log units, between patches, in each band by itself: what three axes do not tell of real spectra
AIR_STD = 0.03  # log units, between images, in each band: what the air and the sun's angle add
# How far patches of a class spread, against OFFSET_STD: water, trees, grass, flooded, crops, shrub, built, bare, snow.
SPREAD = np.array([0.8, 0.8, 0.8, 0.9, 0.9, 0.9, 0.8, 0.9, 0.5])
# Pixel size of the band as blur of the 10 m grid, standard deviation in px: 10 m, 20 m and 60 m bands.
BLUR = np.array([2.4, 0.45, 0.45, 0.45, 0.9, 0.9, 0.9, 0.45, 0.9, 2.4, 2.4, 0.9, 0.9])
# Strength of texture (log units) by class: grain below 1 px, clumps of 1-2 px, drifts of 4-5 px, rows, houses.
TEXTURE = {
    WATER: (0.01, 0.01, 0.05, 0.0, 0.0),
    TREES: (0.16, 0.06, 0.05, 0.0, 0.0),
    GRASS: (0.03, 0.05, 0.05, 0.0, 0.0),
    FLOODED: (0.05, 0.18, 0.10, 0.0, 0.0),
    CROPS: (0.03, 0.02, 0.05, 0.07, 0.0),
    SHRUB: (0.07, 0.20, 0.05, 0.0, 0.0),
    BUILT: (0.22, 0.05, 0.0, 0.0, 0.22),
    BARE: (0.05, 0.06, 0.12, 0.0, 0.0),
    SNOW: (0.02, 0.03, 0.10, 0.0, 0.0),
}
# Shift from the mean of the year to midwinter on the three axes, log units; midsummer shifts the other way.
WINTER = {GRASS: (0.0, -0.35, 0.1), FLOODED: (-0.1, -0.35, 0.0), SHRUB: (0.0, -0.2, 0.05), BUILT: (0.0, -0.1, 0.0)}
LEAFLESS = (-0.1, -0.75, 0.15)  # broad-leaved trees in midwinter
SOIL_SHARE = 0.75  # tilled soil is moister, hence darker, than what the bare class is made of
MEAN_COVER = 0.5  # of crops over the year: at this cover a field has the crops' CLASS_DN
# The three groups of bands that a world may be biased in: visible, red edge and near infrared, short wave.
GROUPS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2])
SENSOR_NOISE = 0.008  # relative, one standard deviation
DN_RANGE = (1, 16000)  # 0 means no data; far above any cloud


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What of the surface stays over the year: of the patches, and of the pixels (H, W)."""

    offsets: Array  # (3, patches) log units on the three axes
    own: Array  # (13, patches) log units, band by band
    peak: Array  # (H, W) when a field is greenest, as share of the year
    evergreen: npt.NDArray[np.bool_]  # (H, W) whether trees keep their leaves
    textures: Array  # (5, H, W) the columns of TEXTURE
    shade: Array  # (H, W) log units, light on slopes


def draw_ground(rng: np.random.Generator, world: World, place: Landscape) -> Ground:
    """Draw what the images of all seasons share."""
    size = place.relief.shape[0]
    offsets = np.sqrt(1 - PASSING_SHARE) * world.offsets * OFFSET_STD[:, None] * rng.standard_normal((3, place.patches))
    own = world.offsets * OWN_STD * rng.standard_normal((len(BANDS), place.patches))
    own = ndimage.convolve1d(own, [0.5, 0.7, 0.5], axis=0, mode="nearest")  # neighbouring bands vary alike
    winter_crop = rng.random(place.patches) < 0.55
    peak = np.where(winter_crop, 0.40, 0.60) + 0.05 * rng.standard_normal(place.patches)
    evergreen = rng.random(place.patches) < 0.5
    period = rng.uniform(2.5, 5.0, place.patches)
    rows = np.sin(2 * np.pi * place.along / period[place.patch])
    houses = rng.standard_normal(int(place.block.max()) + 1)[place.block]
    noise = [correlated(rng, size, scale) for scale in (0.6, 1.5, 4.5)]
    slope = np.gradient(ndimage.gaussian_filter(place.relief, 1.0))
    shade = np.clip(3.0 * (slope[0] + slope[1]), -0.5, 0.5) * np.clip(
        place.relief, 0.0, 1.5
    )  # sun from the north-west corner
    return Ground(
        offsets=offsets,
        own=own,
        peak=peak[place.patch],
        evergreen=evergreen[place.patch],
        textures=np.stack([*noise, rows, houses]),
        shade=shade,
    )


def cover_of(ground: Ground, month: int) -> Array:
    """How much of a field is under green plants in a month, 0 to 1."""
    return np.asarray(0.05 + 0.95 * np.exp(-0.5 * ((month / 12 - ground.peak) / 0.13) ** 2))


def _phenology(ground: Ground, truth: Labels, month: int) -> Array:
    """Seasonal shift on the three axes but of fields, (3, H, W) log units."""
    cold = np.cos(2 * np.pi * (month - 0.5) / 12)
    lean = np.zeros((3, *truth.shape))
    for label, shift in WINTER.items():
        lean[:, truth == label] = cold * np.array(shift)[:, None]
    lean[:, (truth == TREES) & ~ground.evergreen] = max(cold, 0.0) * np.array(LEAFLESS)[:, None]
    return lean


def _mean(ground: Ground, truth: Labels, month: int) -> Array:
    """Mean spectrum of each pixel above the path, (13, H, W) DN; fields show soil between their crops."""
    mean = (CLASS_DN - PATH_DN)[truth].transpose(2, 0, 1)
    crops = truth == CROPS
    soil = SOIL_SHARE * CLASS_DN[BARE] - PATH_DN
    green = (CLASS_DN[CROPS] - PATH_DN - soil) / MEAN_COVER
    mean[:, crops] = soil[:, None] + green[:, None] * cover_of(ground, month)[crops]
    return np.asarray(mean)


def _surface(
    rng: np.random.Generator, world: World, place: Landscape, ground: Ground, truth: Labels, month: int
) -> Array:
    """Reflectance under a clear sky above the path, (13, H, W) DN, before the sensor's blur."""
    passing = np.sqrt(PASSING_SHARE) * world.offsets * OFFSET_STD[:, None] * rng.standard_normal(ground.offsets.shape)
    of_patches = np.einsum("ab,ap->bp", AXES, ground.offsets + passing) + ground.own
    lean = _phenology(ground, truth, month)
    strength = np.array([TEXTURE[label] for label in range(len(TEXTURE))])[truth]
    lean[0] += np.einsum("hwk,khw->hw", strength, ground.textures) + ground.shade * (truth != WATER)
    air = np.array(world.brightness)[GROUPS] + AIR_STD * rng.standard_normal(len(BANDS))
    logs = of_patches[:, place.patch] * SPREAD[truth] + np.einsum("ab,ahw->bhw", AXES, lean) + air[:, None, None]
    return np.asarray(_mean(ground, truth, month) * np.exp(logs))


def see(
    rng: np.random.Generator, world: World, place: Landscape, ground: Ground, sky: Sky, truth: Labels, month: int
) -> npt.NDArray[np.uint16]:
    """One Sentinel-2 acquisition, (13, H, W) uint16 DN from 1 to 16000."""
    surface = _surface(rng, world, place, ground, truth, month) * (1 - 0.65 * sky.shadow)
    image = np.empty_like(surface)
    for band, blur in enumerate(BLUR):
        clear = PATH_DN[band] + surface[band] + HAZE_DN[band] * sky.haze
        cloudy = clear + sky.cloud * (CLOUD_DN[band] * sky.brightness - clear)
        image[band] = ndimage.gaussian_filter(cloudy, blur, mode="nearest", truncate=3.0)
    image *= 1 + SENSOR_NOISE * rng.standard_normal(image.shape)
    return np.asarray(np.clip(np.rint(image), *DN_RANGE), np.uint16)
