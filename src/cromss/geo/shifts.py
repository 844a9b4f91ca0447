"""How far the content of one raster lies from that of another on the same grid: a fault that no header shows.

In: two rasters of one place as `Planes`: a Sentinel-1 image, a Sentinel-2 image, or a map of classes. Out: a `Shift`:
the rows and columns by which the second lies off the first, and a confidence that says whether to believe it.

Sensors agree in where edges are, not in how bright things are. So each raster becomes planes of edge strength (against
a map of classes: also the values themselves), and the shift is where all planes of one fit all of the other best:

    s(d) = sum_ij (sum_x a_i(x) b_j(x + d))^2 / n(d)      a, b whitened planes, n(d) the pixels that overlap
    confidence  = (max s - median s) / (1.4826 MAD of s)      median, MAD and next: over the d farther than 4 px
    distinction = (max s - median s) / (next s - median s)    from the maximum

s(d) is the pixel count times the sum of squared canonical correlations (Hotelling 1936), so that no sign or weight of a
band has to be known; the sums over x are taken for all d at once in the Fourier domain.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, irfft, next_fast_len, rfft2
from scipy.ndimage import binary_erosion, uniform_filter

from cromss.errors import ArgumentError
from cromss.geo.legend import IGNORE

__all__ = [
    "CONFIDENT",
    "DISTINCT",
    "REACH_PX",
    "Planes",
    "Shift",
    "class_planes",
    "find_peak",
    "image_planes",
    "shift_surface",
]

REACH_PX = 12
"""The largest shift that is looked for, in rows and in columns."""

CONFIDENT = 12.0
"""A shift with less confidence is not measurable (benchmarks/shifts.py: how often unrelated places reach it)."""

DISTINCT = 1.3
"""Nor is one whose maximum rises less than this many times as high as the next: along a straight edge, all fit."""

_MARGIN_PX = 6  # the surface reaches this much beyond REACH_PX, so that every peak has ground around it
_PEAK_PX = 4.0  # as wide as a peak gets: what is no farther from it is not ground
_EDGE_SIGMA_PX = 1.0
_EDGE_REACH_PX = 3  # of the filter that finds edges: pixels so near to missing ones are not used
_LOCAL_PX = 33  # planes are taken relative to their mean over this square, which removes slow trends
_LOCAL_MAP_PX = 17  # the same against a map, whose areas are slow trends themselves: they would make broad peaks
_TILE_PX = 96  # images are transformed in tiles of up to this side: what is kept of a correlation is no larger
_SMALLEST_CLASS = 0.02  # share of the map, to be a plane
_SMALLEST_REST = 0.15  # share of all but the largest class: a little ice or cloud said to be on open water is an error
_SMALLEST_SIDE_PX = 48
_SMALLEST_PIXELS = 2000  # that two rasters must share
_SMALLEST_SPREAD = 1e-3  # relative variance: combinations of planes below this are dropped
_DARK_DN = 200.0  # added before the logarithm, so that the noise of dark water makes no edges
_S2_PLANES = ("B3", "B4", "B8", "B11")

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Planes:
    """Features of one raster. values_FHW, edges_FHW: finite; used_HW: the pixels that count."""

    values_FHW: F32
    edges_FHW: F32
    used_HW: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The content of the second raster lies `rows` px down and `columns` px right of that of the first."""

    rows: float
    columns: float
    confidence: float
    distinction: float

    @property
    def measurable(self) -> bool:
        """Whether the rasters have enough in common to tell this shift from chance, and from any other."""
        return self.confidence >= CONFIDENT and self.distinction >= DISTINCT

    @property
    def length(self) -> float:
        """In px."""
        return float(np.hypot(self.rows, self.columns))


def image_planes(
    sensor: str, values_BHW: NDArray[np.generic], valid_HW: NDArray[np.bool_], bands: Sequence[str]
) -> Planes:
    """Planes of an image: s1 in dB; of s2, in DN, the logarithm of B3, B4, B8 and B11, or of the first four bands."""
    if values_BHW.ndim != 3 or len(values_BHW) != len(bands) or valid_HW.shape != values_BHW.shape[1:]:
        raise ArgumentError(
            "image, validity and bands do not fit together",
            got=f"{values_BHW.shape}, {valid_HW.shape}, {len(bands)} bands",
            expected="(B, H, W), (H, W), B",
        )
    names = [name for name in bands if sensor != "s2" or name in _S2_PLANES] or list(bands)
    chosen = values_BHW[[list(bands).index(name) for name in names[: len(_S2_PLANES)]]].astype(np.float32)
    used_HW = valid_HW & np.isfinite(chosen).all(axis=0)
    if sensor == "s2":
        chosen = np.log(np.maximum(chosen, 0) + np.float32(_DARK_DN))
    return _planes(chosen, used_HW)


def class_planes(labels_HW: NDArray[np.uint8]) -> Planes:
    """Planes of a map: each class that covers at least 2 percent, as 0 and 1; 255 is not used.

    No planes where one class covers more than 85 percent: edges of what little is left tell of errors, not of land.
    """
    known_HW = labels_HW != IGNORE
    counts = np.bincount(labels_HW[known_HW], minlength=256)
    shown = np.flatnonzero(counts > _SMALLEST_CLASS * counts.sum())
    if counts.sum() - counts.max() < _SMALLEST_REST * counts.sum():
        shown = shown[:0]
    return _planes((labels_HW[None] == shown[:, None, None]).astype(np.float32), known_HW)


def _planes(values_FHW: F32, used_HW: NDArray[np.bool_]) -> Planes:
    """Missing pixels take the mean of their plane, and those near them are not used: else their border is an edge."""
    count = max(int(used_HW.sum()), 1)
    known_FHW = np.where(used_HW, values_FHW, np.float32(0))
    mean_F = known_FHW.sum(axis=(1, 2), dtype=np.float64) / count
    filled_FHW = np.where(used_HW, known_FHW, mean_F[:, None, None].astype(np.float32))
    inner_HW = used_HW if used_HW.all() else binary_erosion(used_HW, iterations=_EDGE_REACH_PX, border_value=1)
    return Planes(values_FHW=filled_FHW, edges_FHW=_edges(filled_FHW), used_HW=inner_HW)


def _edges(values_FHW: F32) -> F32:
    """The square root of the gradient's length: of strong and weak edges, neither drowns the other."""
    taps = np.arange(-_EDGE_REACH_PX, _EDGE_REACH_PX + 1)
    bell = np.exp(-np.square(taps / _EDGE_SIGMA_PX) / 2)
    bell /= bell.sum()
    slope = taps / _EDGE_SIGMA_PX**2 * bell
    wide = np.pad(values_FHW, ((0, 0), (_EDGE_REACH_PX,) * 2, (_EDGE_REACH_PX,) * 2), mode="symmetric")
    down = _filtered(_filtered(wide, bell, 2), slope, 1)
    right = _filtered(_filtered(wide, bell, 1), slope, 2)
    edges: F32 = np.sqrt(np.sqrt(down * down + right * right))
    return edges


def _filtered(wide: F32, taps: NDArray[np.float64], axis: int) -> F32:
    """The correlation along an axis with an odd number of taps, where they all fit."""
    kept = wide.shape[axis] - len(taps) + 1
    before = (slice(None),) * axis
    result = np.zeros([kept if i == axis else side for i, side in enumerate(wide.shape)], np.float32)
    for start, tap in enumerate(taps.astype(np.float32)):
        result += tap * wide[(*before, slice(start, start + kept))]
    return result


def shift_surface(first: Planes, second: Planes, *, with_values: bool = False) -> F32 | None:
    """s(d) for d from -18 to 18 px in rows and columns, (37, 37); None where there is too little to compare.

    with_values: compare values too, not edges alone; for a map of classes, whose edges are few.
    Raises ArgumentError for rasters of different sizes.
    """
    if first.used_HW.shape != second.used_HW.shape:
        raise ArgumentError(
            "two rasters to compare differ in size", got=second.used_HW.shape, expected=first.used_HW.shape
        )
    height, width = first.used_HW.shape
    shared = int((first.used_HW & second.used_HW).sum())
    if min(height, width) < _SMALLEST_SIDE_PX or shared < _SMALLEST_PIXELS:
        return None
    a_FHW, b_FHW = (_whitened(planes, with_values) for planes in (first, second))
    if not len(a_FHW) or not len(b_FHW):
        return None
    used_a, used_b = (planes.used_HW[None].astype(np.float32) for planes in (first, second))
    overlap = _correlations(used_a, used_b)[0]
    total = np.square(_correlations(a_FHW, b_FHW)).sum(axis=0)
    surface: F32 = np.where(overlap > _SMALLEST_PIXELS / 2, total / np.maximum(overlap, 1), 0).astype(np.float32)
    return surface


def find_peak(surface: F32 | None) -> Shift:
    """The shift at the maximum of a surface, to a fraction of a pixel; confidence 0 for no surface or no peak in reach.

    The fraction is that of the parabola through the maximum and its neighbours, in rows and in columns.
    """
    nothing = Shift(rows=0.0, columns=0.0, confidence=0.0, distinction=0.0)
    if surface is None:
        return nothing
    centre = surface.shape[0] // 2
    row, column = (int(index) for index in np.unravel_index(int(surface.argmax()), surface.shape))
    if max(abs(row - centre), abs(column - centre)) > REACH_PX:
        return nothing
    down, right = np.ogrid[: surface.shape[0], : surface.shape[1]]
    ground = surface[np.hypot(down - row, right - column) > _PEAK_PX]
    level = float(np.median(ground))
    spread = 1.4826 * float(np.median(np.abs(ground - level)))
    height, rival = float(surface[row, column]), float(ground.max())
    return Shift(
        rows=row - centre + _fraction(surface[row - 1 : row + 2, column]),
        columns=column - centre + _fraction(surface[row, column - 1 : column + 2]),
        confidence=(height - level) / spread if spread > 0 else 0.0,
        distinction=(height - level) / (rival - level) if rival > level else 0.0,
    )


def _fraction(three: F32) -> float:
    before, top, after = (float(value) for value in three)
    curvature = before - 2 * top + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


def _whitened(planes: Planes, with_values: bool) -> F32:
    """Planes of mean 0, variance 1 and covariance 0 over the used pixels, 0 elsewhere; (0, H, W) for a flat raster."""
    parts = [planes.edges_FHW, planes.values_FHW] if with_values else [planes.edges_FHW]
    values_FHW, used = np.concatenate(parts), planes.used_HW.astype(np.float32)
    if not len(values_FHW):
        return values_FHW
    local = _LOCAL_MAP_PX if with_values else _LOCAL_PX
    share = np.maximum(uniform_filter(used, local, mode="constant"), 1e-3)
    local_FHW = uniform_filter(values_FHW * used, (1, local, local), mode="constant") / share
    flat = ((values_FHW - local_FHW) * used).reshape(len(values_FHW), -1)
    flat -= flat.mean(axis=1, keepdims=True) * (used.size / used.sum()) * used.ravel()
    spread = np.sqrt(np.square(flat).sum(axis=1) / used.sum())
    flat = flat[spread > 1e-6] / spread[spread > 1e-6, None]
    variances, directions = np.linalg.eigh(flat @ flat.T / used.sum())
    kept = variances > _SMALLEST_SPREAD * variances.max(initial=0)
    turned: F32 = ((directions[:, kept] / np.sqrt(variances[kept])).T @ flat).reshape(-1, *used.shape)
    return turned.astype(np.float32)


def _correlations(a_FHW: F32, b_GHW: F32) -> F32:
    """sum_x a_i(x) b_j(x + d) for |d| <= 18, (F * G, 37, 37): tile by tile, their spectra added, and brought back once.

    A tile of `a` meets the part of `b` that lies up to 18 px around it, so nothing wraps around.
    """
    reach = REACH_PX + _MARGIN_PX
    height, width = a_FHW.shape[1:]
    tiles = [-(-side // -(-side // _TILE_PX)) for side in (height, width)]
    size = tuple(next_fast_len(tile + 2 * reach, True) for tile in tiles)
    padded_GHW = np.pad(b_GHW, ((0, 0), (reach,) * 2, (reach,) * 2))
    spectra = np.zeros((len(a_FHW), len(b_GHW), size[0], size[1] // 2 + 1), np.complex64)
    for top, left in itertools.product(range(0, height, tiles[0]), range(0, width, tiles[1])):
        inner = a_FHW[:, top : top + tiles[0], left : left + tiles[1]]
        around = padded_GHW[:, top : top + tiles[0] + 2 * reach, left : left + tiles[1] + 2 * reach]
        around_spectra = rfft2(around, size)
        for total, plane in zip(spectra, np.conj(rfft2(inner, size)), strict=True):
            total += plane * around_spectra
    kept = 2 * reach + 1
    rows = ifft(spectra.reshape(-1, *spectra.shape[2:]), axis=1, overwrite_x=True)[:, :kept]
    correlations: F32 = irfft(rows, size[1], axis=2)[:, :, :kept]
    return correlations
