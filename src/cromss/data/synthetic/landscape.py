"""What lies on the ground: land cover by season, and the parcels, towns and relief that images are drawn from.

In: a World, a size, the months of the seasons and a generator. Out: a Landscape. Fields are the cells of warped,
stretched lattices that turn from estate to estate; woods, lakes, wetland, towns, rock and snow are where correlated
noise passes a threshold; rivers are where it crosses zero; roads follow the borders of estates, hedges those of fields.
The snow line falls in winter and wetland floods and dries, so that about 5% of the pixels change their class over the
year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cromss.data.synthetic.fields import Array, Keys, cells, correlated, edges, number, scramble, uniform
from cromss.data.synthetic.worlds import World

__all__ = [
    "BARE",
    "BUILT",
    "CLASSES",
    "CROPS",
    "FLOODED",
    "GRASS",
    "SHRUB",
    "SNOW",
    "TREES",
    "WATER",
    "Landscape",
    "grow",
]

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(9)
CLASSES = 9

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

GRAIN = 2.0
"""Pixels. The unit of all scales below. It decides how many pixels lie at a border of classes: a third of them with 1,
16% with 2. In 78 Dynamic World maps of real scenes of 1.2 km it is 9%, and 16% in the most broken tenth of these."""

ESTATE = 52.0 * GRAIN  # px, between the roads that bound an estate
STAND = 20.0 * GRAIN  # px, across a stand of trees, a pool, a moor: the patches of natural land
BLOCK = 5.0 * GRAIN  # px, across a block of houses


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A place. Arrays are (H, W) but truth, which is (T, H, W) of the nine Dynamic World classes."""

    truth: Labels
    patch: Numbers  # number of the patch (field, stand or block) a pixel belongs to, from 0
    patches: int
    block: Numbers  # number of the block of houses
    town: Mask  # settlements with their gardens
    relief: Array  # height, mean near 0 and variance near 1
    along: Array  # px, coordinate across the rows of a field


def _noise(rng: np.random.Generator, size: int, scale: float) -> Array:
    """Correlated noise of a scale in grains."""
    return correlated(rng, size, scale * GRAIN)


def _region(rng: np.random.Generator, size: int) -> Array:
    """What changes from region to region: nearly constant over one scene of 128 px, and not over a large one."""
    return correlated(rng, size, 110.0)


def _mean_by(numbers: Numbers, count: int, values: Array) -> Array:
    pixels = np.bincount(numbers.ravel(), minlength=count)
    return np.asarray((np.bincount(numbers.ravel(), values.ravel(), count) / pixels)[numbers])


def _fields(rng: np.random.Generator, world: World, size: int) -> tuple[Numbers, Keys, Array, Mask]:
    """Fields by number, their hashes, the coordinate across their rows, and roads."""
    row, column = np.mgrid[:size, :size].astype(np.float64)
    row += GRAIN * (1.3 * _noise(rng, size, 7.0) + 5.0 * _noise(rng, size, 32.0))
    column += GRAIN * (1.3 * _noise(rng, size, 7.0) + 5.0 * _noise(rng, size, 32.0))
    salt = int(rng.integers(2**62))
    estate = cells(column / ESTATE, row / ESTATE, salt)
    numbers, names = number(estate)
    low, high = world.stretch
    angle = (np.pi * uniform(scramble(names, 1)))[numbers]
    stretch = np.exp(np.log(low) + np.log(high / low) * uniform(scramble(names, 2)))[numbers]
    width = world.parcel * np.exp(0.5 * (uniform(scramble(names, 3)) - 0.5))[numbers]
    across = np.cos(angle) * row - np.sin(angle) * column
    down = np.sin(angle) * row + np.cos(angle) * column
    fields, field_names = number(cells(down / (width * stretch), across / width, estate, jitter=0.35))
    border = edges(numbers)
    wide = uniform(scramble(names, 4))[numbers] < 0.5
    roads = border | (np.roll(border, 1, (0, 1)) & wide)
    return fields, field_names, across, roads & (uniform(scramble(names, 5))[numbers] < 0.75)


def _farmed(world: World, fields: Numbers, names: Keys, wet: Array) -> Labels:
    """The class of each field if it is farmed: wet land is grazed, dry land is scrub or fallow."""
    count = len(names)
    wetness = np.bincount(fields.ravel(), wet.ravel(), count) / np.bincount(fields.ravel(), minlength=count)
    tilt = np.stack(
        [0.45 * wetness, world.crops - 0.3 * wetness, world.shrub - 0.3 * wetness, world.fallow - 0.5 * wetness]
    )
    gumbel = -np.log(-np.log(uniform(scramble(names, np.arange(4)[:, None])) + 1e-12))
    choice = np.array([GRASS, CROPS, SHRUB, BARE], np.uint8)[np.argmax(tilt + gumbel, 0)]
    return np.asarray(choice[fields])


def _distance(inside: Mask) -> Array:
    """Distance of each pixel of `inside` to the nearest pixel outside; far where there is none."""
    far = np.full(inside.shape, float(max(inside.shape)))
    return far * inside if inside.all() else np.asarray(ndimage.distance_transform_edt(inside))


def _river(rng: np.random.Generator, size: int, relief: Array) -> Mask:
    """Rivers: the zero line of noise, of constant width where the noise rises steadily; some places have none."""
    bed = _noise(rng, size, 26.0) + 0.30 * _noise(rng, size, 7.0) + 1.4 * rng.standard_normal()
    rise = np.hypot(*np.gradient(bed)) + 1e-3
    width = GRAIN * (0.8 + 2.2 * rng.random())
    return np.asarray((np.abs(bed) / rise < width) & (relief < 1.3))


def _grow_woods(
    rng: np.random.Generator, world: World, cover: Labels, fields: Numbers, names: Keys, relief: Array
) -> None:
    """Woods with scrub along their edges, following fields and terrain half and half, and hedges."""
    size = len(cover)
    chance = uniform(scramble(names, 7))[fields]
    wild = 0.75 * _noise(rng, size, 10.0) + 0.25 * _noise(rng, size, 3.0) + 0.6 * _region(rng, size)
    wild += 0.35 * relief
    wild = 0.5 * wild + 0.5 * _mean_by(fields, len(names), wild) + 0.35 * (chance - 0.5)
    woods = wild > world.woods
    cover[(wild > world.woods - 0.17) & (_noise(rng, size, 4.0) > 0.1)] = SHRUB
    cover[woods] = TREES
    cover[woods & (_noise(rng, size, 5.0) > 1.7)] = SHRUB
    hedge = edges(fields) & (uniform(scramble(fields.astype(np.uint64), 8)) < 0.28)
    cover[hedge & ~woods] = TREES


def _raise_mountains(rng: np.random.Generator, cover: Labels, relief: Array) -> Array:
    """Alpine grass, moor and rock, one above the other; returns the ragged height that separates them."""
    size = len(cover)
    high = relief + 0.30 * _noise(rng, size, 5.0)
    moor = _noise(rng, size, 6.0)
    cover[(high > 1.0) & (cover != TREES)] = GRASS
    cover[(high > 1.1) & (moor > 0.35 - 0.5 * (high - 1.1)) & ((cover != TREES) | (high > 1.5))] = SHRUB
    cover[(high > 1.6) & (cover == TREES)] = GRASS
    cover[high + 0.2 * moor > 1.8] = BARE
    return high


def _flood(
    rng: np.random.Generator, world: World, cover: Labels, relief: Array, high: Array, wet: Array
) -> tuple[Mask, Array]:
    """Lakes and rivers, and marsh near them; returns the water and the nearness to it, 1 at the shore."""
    size = len(cover)
    lake = 0.8 * _noise(rng, size, 15.0) + 0.3 * _noise(rng, size, 4.0) - 0.45 * relief
    lake += 0.65 * _region(rng, size)
    water = ((lake > world.lakes) | _river(rng, size, relief)) & (high < 1.6)
    near = np.exp(-_distance(~water) / (5.0 * GRAIN))
    marsh = 0.8 * _noise(rng, size, 6.0) + 0.8 * wet + 1.7 * near > 1.75
    cover[marsh & (high < 1.1)] = FLOODED
    return water, near


def _build_towns(
    rng: np.random.Generator, world: World, cover: Labels, relief: Array, high: Array, water: Mask
) -> Mask:
    """Towns with their gardens, and quarries outside; returns the area of the towns."""
    size = len(cover)
    urban = 0.8 * _noise(rng, size, 12.0) + 0.7 * _region(rng, size) - 0.4 * np.abs(relief)
    urban += 0.15 * _noise(rng, size, 3.0)
    town = np.asarray((urban > world.towns) & ~water & (high < 1.2) & (cover != FLOODED))
    green = 0.8 * _noise(rng, size, 1.4) + 0.6 * _noise(rng, size, 5.0) - 0.4 * (urban - world.towns)
    garden = town & (green > world.gardens)
    cover[town] = BUILT
    cover[garden] = np.where(_noise(rng, size, 1.2) > 0.35, TREES, GRASS)[garden]
    cover[(_noise(rng, size, 7.0) > 2.5) & ~town] = BARE
    return town


def _land(rng: np.random.Generator, world: World, size: int) -> tuple[Landscape, Array]:
    """A place whose truth, (1, H, W), knows no seasons yet, and the wetness of its ground."""
    relief = 0.75 * _noise(rng, size, 34.0) + 0.25 * _noise(rng, size, 9.0) + 0.85 * _region(rng, size)
    relief += world.highlands
    wet = 0.6 * _noise(rng, size, 20.0) + 0.7 * _region(rng, size) - 0.35 * relief + world.wetness
    fields, names, along, roads = _fields(rng, world, size)
    cover = _farmed(world, fields, names, wet)

    row, column = np.mgrid[:size, :size] + np.stack([3.5 * GRAIN * _noise(rng, size, 6.0) for _ in range(2)])
    stands, _ = number(cells(column / STAND, row / STAND, int(rng.integers(2**62)), jitter=0.9))
    blocks, _ = number(cells(column / BLOCK, row / BLOCK, int(rng.integers(2**62)), jitter=0.5))

    _grow_woods(rng, world, cover, fields, names, relief)
    high = _raise_mountains(rng, cover, relief)
    water, near = _flood(rng, world, cover, relief, high, wet)
    town = _build_towns(rng, world, cover, relief, high, water)
    cover[water] = WATER
    cover[roads & (high < 1.6) & (_distance(water) < 5 * GRAIN)] = BUILT  # bridges span rivers, not lakes

    lakes, _ = ndimage.label(water)
    natural = np.isin(cover, (TREES, FLOODED)) | (high > 1.25)
    kind = np.select([cover == WATER, natural, cover == BUILT], [0, 1, 2], 3)
    patch, patch_names = number(scramble(kind, np.choose(kind, [lakes, stands, blocks, fields])))
    place = Landscape(
        truth=cover[None],
        patch=patch,
        patches=len(patch_names),
        block=blocks,
        town=town,
        relief=relief,
        along=along,
    )
    return place, wet + 0.5 * near + 0.25 * _noise(rng, size, 4.0)


def grow(rng: np.random.Generator, world: World, size: int, months: Sequence[int]) -> Landscape:
    """Make a place and its land cover in each of the given months (0 = January)."""
    place, wet = _land(rng, world, size)
    cover = place.truth[0]
    ragged = place.relief + 0.22 * _noise(rng, size, 4.0)
    marsh = cover == FLOODED
    settled = (cover == BUILT) | (cover == WATER) | ((cover == TREES) & (ragged < 2.2))
    truth = np.repeat(cover[None], len(months), 0)
    for layer, month in zip(truth, months, strict=True):
        cold = np.cos(2 * np.pi * (month - 0.5) / 12) + 0.15 * rng.standard_normal()
        flood = np.cos(2 * np.pi * (month - 2.5) / 12) + 0.25 * rng.standard_normal()
        layer[marsh & (wet > 1.8 - 0.3 * flood)] = WATER
        layer[marsh & (wet < 0.2 - 0.3 * flood)] = GRASS
        layer[(ragged > 2.0 - 0.15 * cold) & ~settled] = SNOW
    return replace(place, truth=truth)
