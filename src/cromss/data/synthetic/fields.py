"""Random functions of the plane that the landscapes are made of.

In: a key (or a generator made from one), a size in pixels and scales in pixels. Out: (size, size) arrays. Correlated
noise is white noise under a Gaussian of standard deviation `scale`, scaled to unit variance; parcels are the cells of a
jittered brick lattice (Worley noise), whose seeds are hashes of their lattice position, so that the plane has no edge.
Nothing here calls a threaded library, so that every machine and every process gets the same bits.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["cells", "correlated", "edges", "generator", "number", "scramble", "smoothstep", "uniform"]

Array = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

FINEST = 2.5  # px: a Gaussian of this width is well sampled by pixels, so wider ones are made on coarser lattices


def generator(*key: int | str) -> np.random.Generator:
    """A random generator which depends on the parts of `key` alone; integers must not be negative."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng(np.random.SeedSequence(words))


def correlated(rng: np.random.Generator, size: int, scale: float) -> Array:
    """Gaussian noise of unit variance whose correlation falls with distance as exp(-d^2 / (4 scale^2))."""
    step = max(1, int(scale / FINEST))
    width = scale / step
    margin = int(np.ceil(3 * width)) + 2
    lattice = size // step + 1 + 2 * margin
    field = ndimage.gaussian_filter(rng.standard_normal((lattice, lattice)), width, mode="wrap")
    kernel = np.exp(-0.5 * (np.arange(-int(4 * width + 0.5), int(4 * width + 0.5) + 1) / width) ** 2)
    field /= np.sum((kernel / kernel.sum()) ** 2)
    if step == 1:
        return np.asarray(field[margin : margin + size, margin : margin + size])
    return np.asarray(
        ndimage.affine_transform(field, [1 / step, 1 / step], margin, (size, size), order=3, mode="nearest")
    )


def scramble(*parts: Keys | npt.NDArray[np.int64] | int) -> Keys:
    """A 64-bit hash of integers, element by element (the finaliser of SplitMix64 over each part in turn)."""
    state: Keys = np.asarray([0x9E3779B97F4A7C15], np.uint64)
    for part in parts:
        state = state ^ np.asarray(part).astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state = (state ^ (state >> np.uint64(31))) + np.uint64(0x9E3779B97F4A7C15)
    return state


def uniform(keys: Keys) -> Array:
    """Hashes as numbers in [0, 1)."""
    return np.asarray((keys >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def cells(u: Array, v: Array, salt: Keys | int, jitter: float = 0.75) -> Keys:
    """The cell of each point (u, v): a hash that names the nearest seed of a jittered brick lattice of unit spacing.

    `salt` (a number, or one for each point) tells lattices apart; `jitter` 0 gives bricks, 1 the most irregular cells.
    """
    row0 = np.floor(v).astype(np.int64)
    nearest = np.full(u.shape, np.inf)
    owner = np.zeros(u.shape, np.uint64)
    for down in (-1, 0, 1):
        row = row0 + down
        brick = 0.5 * (row & 1)
        column0 = np.floor(u - brick).astype(np.int64)
        for right in (-1, 0, 1):
            column = column0 + right
            key = scramble(salt, row, column)
            low, high = uniform(key), uniform(key * np.uint64(0x9E3779B97F4A7C15))
            distance = (u - brick - column - 0.5 - jitter * (low - 0.5)) ** 2
            distance += (v - row - 0.5 - jitter * (high - 0.5)) ** 2
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            owner = np.where(closer, key, owner)
    return owner


def number(keys: Keys) -> tuple[npt.NDArray[np.int64], Keys]:
    """Replace hashes by 0, 1, 2 ...; returns the numbers and, by number, the hash."""
    names, numbers = np.unique(keys, return_inverse=True)
    return numbers.reshape(keys.shape).astype(np.int64), names


def edges(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True on the pixels whose right or lower neighbour lies in another cell: lines about one pixel wide."""
    line = np.zeros(numbers.shape, bool)
    line[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    line[:-1] |= numbers[:-1] != numbers[1:]
    return line


def smoothstep(values: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, and a cubic without kinks between."""
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(share * share * (3 - 2 * share))
