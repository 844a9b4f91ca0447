"""Rasters as pictures: labels, true colour, radar composite, weights, errors, labelled sheets, PNG.

In: arrays as the files and the method give them. Out: uint8 RGB pictures of (H, W, 3), or PNG bytes.

    stretch    v -> ((v - low) / (high - low)) ^ (1 / gamma), clipped to 0..1

Pixels without data are GREY in every picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from cromss.data.survey.set_statistics import picture_bands
from cromss.errors import ArgumentError, BandError, DamagedFileError, LabelError
from cromss.files import commit
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import open_raster

__all__ = [
    "GREY",
    "encode_png",
    "error_picture",
    "fit_picture",
    "label_picture",
    "map_picture",
    "readable",
    "s1_composite",
    "sensor_picture",
    "sheet",
    "to_data_uri",
    "true_colour",
    "weight_picture",
    "write_png",
]

RGB = NDArray[np.uint8]

GREY = (200, 200, 200)
_CROSS = (0, 200, 255)
WRONG, RIGHT = (202, 0, 32), (236, 236, 236)

# Narrower spreads than this are stretched no further, so that calm water is not drawn as noise (DN, 0.04 reflectance).
_SMALLEST_SPREAD_DN = 400.0
_GAMMA = 1.3
_ONE_BAND = "viridis"  # colour map of matplotlib; a grey one would hide pixels without data
# Where land backscatter of C band lies at 20 to 45 degrees incidence: dark water to bright roofs, in dB.
_S1_RANGES_DB = {"VV": (-20.0, 0.0), "VH": (-27.0, -6.0), "VV-VH": (2.0, 14.0)}


def label_picture(labels_HW: NDArray[np.integer], legend: Legend) -> RGB:
    """Class indices 0..C-1 in the legend's colours, 255 in GREY. Raises LabelError for any other value."""
    _require_plane(labels_HW, "labels")
    palette = np.full((256, 3), GREY, np.uint8)
    for index, color in enumerate(legend.colors):
        palette[index] = _rgb(color)
    wrong = (labels_HW != IGNORE) & ((labels_HW < 0) | (labels_HW >= legend.num_classes))
    if wrong.any():
        raise LabelError(
            "a label has no colour in this legend",
            got=f"{np.unique(labels_HW[wrong]).tolist()} in {int(wrong.sum())} pixels",
            expected=f"0..{legend.num_classes - 1}, or {IGNORE} for none ({legend.name})",
        )
    picture: RGB = palette[labels_HW]
    return picture


def true_colour(
    values_BHW: NDArray[np.generic], bands: Sequence[str], valid_HW: NDArray[np.bool_] | None = None
) -> RGB:
    """Red, green, blue (B4, B3, B2) of a Sentinel-2 image in DN, stretched between its own 2 and 98 percent.

    Each band starts at its own dark end, which takes haze away; all share one spread, which keeps hues.
    """
    shown_BHW = _bands(values_BHW, bands, ("B4", "B3", "B2")).astype(np.float32)
    valid_HW = _valid(shown_BHW, valid_HW)
    if not valid_HW.any():
        return _paint(np.zeros_like(shown_BHW), valid_HW)
    low, high = np.percentile(shown_BHW[:, valid_HW], [2, 98], axis=1)
    spread = max(float((high - low).max()), _SMALLEST_SPREAD_DN)
    return _paint(np.clip((shown_BHW - low[:, None, None]) / spread, 0, 1) ** (1 / _GAMMA), valid_HW)


def s1_composite(
    values_BHW: NDArray[np.generic], bands: Sequence[str], valid_HW: NDArray[np.bool_] | None = None
) -> RGB:
    """VV, VH and VV - VH of a Sentinel-1 image in dB as red, green, blue, on fixed ranges: pictures compare."""
    vv_vh_BHW = _bands(values_BHW, bands, ("VV", "VH")).astype(np.float32)
    valid_HW = _valid(vv_vh_BHW, valid_HW)
    shown_BHW = np.stack([vv_vh_BHW[0], vv_vh_BHW[1], vv_vh_BHW[0] - vv_vh_BHW[1]])
    low, high = np.array(list(_S1_RANGES_DB.values()), np.float32).T[:, :, None, None]
    return _paint(np.clip((shown_BHW - low) / (high - low), 0, 1), valid_HW)


def sensor_picture(
    sensor: str, values_BHW: NDArray[np.generic], bands: Sequence[str], valid_HW: NDArray[np.bool_] | None = None
) -> RGB:
    """An image of any sensor: s2 in true colour and s1 as a composite, where their bands are there. Of others the first
    three bands as red, green, blue, or the first in a colour map, each stretched between its 2 and 98 percent.
    """
    chosen = picture_bands(sensor, bands)
    if sensor == "s2" and chosen == ("B4", "B3", "B2"):
        return true_colour(values_BHW, bands, valid_HW)
    if sensor == "s1" and chosen == ("VV", "VH"):
        return s1_composite(values_BHW, bands, valid_HW)
    shown_BHW = _bands(values_BHW, bands, chosen).astype(np.float32)
    valid_HW = _valid(shown_BHW, valid_HW)
    if not valid_HW.any():
        return _paint(np.zeros((3, *valid_HW.shape), np.float32), valid_HW)
    low, high = np.percentile(shown_BHW[:, valid_HW], [2, 98], axis=1)[:, :, None, None]
    stretched_BHW = np.clip((np.where(valid_HW, shown_BHW, low) - low) / np.maximum(high - low, 1e-12), 0, 1)
    if len(chosen) == 1:
        stretched_BHW = np.moveaxis(matplotlib.colormaps[_ONE_BAND](stretched_BHW[0])[..., :3], -1, 0)
    return _paint(stretched_BHW, valid_HW)


def weight_picture(weights_HW: NDArray[np.floating], colormap: str = "magma") -> RGB:
    """Weights or confidences of 0..1 in a perceptually uniform colour map of matplotlib; NaN in GREY."""
    _require_plane(weights_HW, "weights")
    known = np.isfinite(weights_HW)
    if ((weights_HW < 0) | (weights_HW > 1))[known].any():
        raise ArgumentError(
            "weights to draw lie outside 0..1",
            got=f"{float(weights_HW[known].min()):.4g}..{float(weights_HW[known].max()):.4g}",
            expected="0..1, NaN where there is none",
        )
    colors = matplotlib.colormaps[colormap](np.where(known, weights_HW, 0))[..., :3]
    return _paint(np.moveaxis(colors, -1, 0), known)


def fit_picture(surface_SS: NDArray[np.floating]) -> RGB:
    """How well two rasters fit at every shift, worst dark and best bright, with a cross over the middle: no shift."""
    _require_plane(surface_SS, "a surface")
    low, high = float(surface_SS.min()), float(surface_SS.max())
    picture = weight_picture((surface_SS - low) / max(high - low, 1e-12))
    row, column = (side // 2 for side in surface_SS.shape)
    picture[row - 2 : row + 3, column] = picture[row, column - 2 : column + 3] = _CROSS
    return picture


def error_picture(prediction_HW: NDArray[np.integer], truth_HW: NDArray[np.integer]) -> RGB:
    """Where the prediction differs from the truth: wrong in red, right in near white, truth unknown (255) in GREY."""
    _require_plane(prediction_HW, "prediction")
    _require_plane(truth_HW, "truth")
    if prediction_HW.shape != truth_HW.shape:
        raise ArgumentError("prediction and truth differ in shape", got=prediction_HW.shape, expected=truth_HW.shape)
    picture = np.where((prediction_HW == truth_HW)[..., None], RIGHT, WRONG).astype(np.uint8)
    picture[truth_HW == IGNORE] = GREY
    return picture


def map_picture(path: str | Path, legend: Legend, max_side: int = 1200) -> RGB:
    """A class GeoTIFF of any size as a picture of at most `max_side` pixels a side, read from its overviews."""
    try:
        with open_raster(path) as file:
            factor = max(1.0, max(file.height, file.width) / max_side)
            shape = (max(1, round(file.height / factor)), max(1, round(file.width / factor)))
            labels_HW = file.read(1, out_shape=shape, resampling=Resampling.nearest)
    except RasterioError as error:
        raise DamagedFileError("a map cannot be read", got=error, where=path) from None
    return label_picture(labels_HW, legend)


def sheet(
    rows: Sequence[Sequence[RGB]],
    *,
    titles: Sequence[str],
    row_titles: Sequence[str] = (),
    legend: Legend | None = None,
    tile: int = 192,
) -> RGB:
    """Pictures in a grid: `titles` over the columns, `row_titles` to the left, the legend's colours below.

    Each picture is scaled to `tile` pixels on its longer side without smoothing.
    """
    if not rows or any(len(row) != len(titles) for row in rows) or (row_titles and len(row_titles) != len(rows)):
        raise ArgumentError(
            "a sheet's pictures and titles do not match",
            got=f"rows of {[len(row) for row in rows]} pictures, {len(titles)} titles, {len(row_titles)} row titles",
            expected="one title a column, and none or one a row",
        )
    gap, line = max(6, tile // 24), max(14, tile // 11)
    font = ImageFont.load_default(size=round(line * 0.72))
    margin = gap + (round(max(font.getlength(title) for title in row_titles)) + gap if row_titles else 0)
    width = margin + len(titles) * (tile + gap)
    patches = _flow(
        list(zip(readable(legend), legend.colors, strict=True)) if legend else [], font, line, width - 2 * gap
    )
    height = gap + line + len(rows) * (tile + gap) + len(patches) * round(line * 1.3) + gap
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((margin + column * (tile + gap) + tile / 2, gap), title, fill="black", font=font, anchor="mt")
    for index, row in enumerate(rows):
        top = gap + line + index * (tile + gap)
        if row_titles:
            draw.text((gap, top + tile / 2), row_titles[index], fill="black", font=font, anchor="lm")
        for column, picture in enumerate(row):
            fitted = _fit(picture, tile)
            left = margin + column * (tile + gap) + (tile - fitted.width) // 2
            page.paste(fitted, (left, top + (tile - fitted.height) // 2))
    for index, entries in enumerate(patches):
        top = gap + line + len(rows) * (tile + gap) + round(index * line * 1.3)
        for offset, name, color in entries:
            draw.rectangle(
                (gap + offset, top, gap + offset + line * 0.8, top + line * 0.8), fill=color, outline="black"
            )
            draw.text((gap + offset + line * 1.1, top + line * 0.4), name, fill="black", font=font, anchor="lm")
    return np.asarray(page)


def readable(legend: Legend) -> list[str]:
    """The class names as a person writes them: "snow and ice" for snow_and_ice."""
    return [name.replace("_", " ") for name in legend.names]


def encode_png(picture: RGB) -> bytes:
    """A uint8 picture of (H, W, 3) as PNG bytes."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ArgumentError("not a picture", got=f"{picture.dtype} of {picture.shape}", expected="uint8 of (H, W, 3)")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_png(path: str | Path, picture: RGB) -> None:
    """Write a picture as PNG, whole or not at all."""
    content = encode_png(picture)
    with commit(path) as temporary:
        temporary.write_bytes(content)


def to_data_uri(png: bytes) -> str:
    """PNG bytes as a `data:` address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _require_plane(values: NDArray[np.generic], name: str) -> None:
    if values.ndim != 2:
        raise ArgumentError(f"{name} to draw must be one plane", got=values.shape, expected="(H, W)")


def _bands(values_BHW: NDArray[np.generic], bands: Sequence[str], wanted: Sequence[str]) -> NDArray[np.generic]:
    if values_BHW.ndim != 3 or len(values_BHW) != len(bands):
        raise ArgumentError("bands and values do not match", got=values_BHW.shape, expected=f"({len(bands)}, H, W)")
    absent = [name for name in wanted if name not in bands]
    if absent:
        raise BandError("a picture needs bands that the image lacks", got=list(bands), expected=list(wanted))
    return values_BHW[[bands.index(name) for name in wanted]]


def _valid(shown_BHW: NDArray[np.float32], valid_HW: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    finite_HW: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(shown_BHW), axis=0)
    return finite_HW if valid_HW is None else finite_HW & valid_HW


def _paint(shares_BHW: NDArray[np.floating], valid_HW: NDArray[np.bool_]) -> RGB:
    picture = np.full((*valid_HW.shape, 3), GREY, np.uint8)
    picture[valid_HW] = np.rint(shares_BHW[:, valid_HW].T * 255)
    return picture


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _fit(picture: RGB, side: int) -> Image.Image:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    return Image.fromarray(picture).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST
    )


def _flow(
    entries: Sequence[tuple[str, str]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, line: int, width: int
) -> list[list[tuple[float, str, str]]]:
    """Break legend entries into lines no wider than `width`: (left, name, colour) each."""
    lines: list[list[tuple[float, str, str]]] = []
    left = 0.0
    for name, color in entries:
        wide = line * 1.1 + font.getlength(name) + line
        if not lines or left + wide > width:
            lines.append([])
            left = 0.0
        lines[-1].append((left, name, color))
        left += wide
    return lines
