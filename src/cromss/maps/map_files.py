"""The files of a map: class, confidence, probabilities; written row by row, named only when complete.

In: blended probabilities, strip by strip. Out: uint8 GeoTIFFs on the scene's grid, with colours, names and overviews.

    class = argmax_c p_c,    confidence = round(100 max_c p_c),    probabilities = round(100 p_c),    255 = no data
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from cromss.errors import ConfigError, DamagedFileError
from cromss.files import remove_stale
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, create_raster

__all__ = ["NO_DATA", "MapFiles", "map_files", "map_paths", "map_row_of_blocks"]

NO_DATA = IGNORE


class MapFiles:
    """Open maps that take rows; made by `map_files`. Counts what it writes."""

    def __init__(
        self, files: Mapping[str, rasterio.io.DatasetWriter], paths: Mapping[str, Path], legend: Legend
    ) -> None:
        self._files, self._paths = files, paths
        self._pixels = np.zeros(legend.num_classes + 1, np.int64)  # of each class, then of no data
        self._percent = 0

    def write(self, top: int, probability_CHW: NDArray[np.float32], valid_HW: NDArray[np.bool_]) -> None:
        """Write rows from `top` on. Raises DamagedFileError where the disk does not take them."""
        layers = _layers(probability_CHW, valid_HW)
        rows, columns = valid_HW.shape
        for name, file in self._files.items():
            with _writing(self._paths[name]):
                file.write(layers[name], window=Window(0, top, columns, rows))
        place = np.where(valid_HW, layers["class"][0].astype(np.int64), len(self._pixels) - 1)
        self._pixels += np.bincount(place.ravel(), minlength=len(self._pixels))
        self._percent += int(layers["confidence"][0][valid_HW].sum(dtype=np.int64))

    @property
    def pixels(self) -> list[int]:
        """Pixels of each class."""
        return [int(count) for count in self._pixels[:-1]]

    @property
    def no_data_pixels(self) -> int:
        return int(self._pixels[-1])

    @property
    def mean_confidence(self) -> float | None:
        """In percent; None where the map has no data at all."""
        known = sum(self.pixels)
        return self._percent / known if known else None


@contextmanager
def map_files(paths: Mapping[str, Path], grid: Grid, legend: Legend, tags: Mapping[str, str]) -> Iterator[MapFiles]:
    """Open the maps of `map_paths` for writing; on leaving without error they take their names, the first one last."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(_map_file(name, path, grid, legend, tags)) for name, path in paths.items()}
        yield MapFiles(files, paths, legend)


def map_paths(out: Path, probabilities: bool, overwrite: bool) -> dict[str, Path]:
    """The maps to write, by name, the class map first: files take their names in reverse order.

    Raises ConfigError where one exists; deletes what a killed process left of them.
    """
    names = ["class", "confidence", *(["probabilities"] if probabilities else [])]
    paths = {name: out / f"{name}.tif" for name in names}
    present = [path.name for path in paths.values() if path.exists()]
    if present and not overwrite:
        raise ConfigError(
            "maps exist already", got=", ".join(present), where=out, do="choose another folder, or set overwrite"
        )
    older = out / "probabilities.tif"
    if older.exists() and "probabilities" not in paths:
        raise ConfigError(
            "an older probabilities.tif would stand beside maps that it does not belong to",
            where=older,
            do="set probabilities to replace it too, delete it, or choose another folder",
        )
    for path in paths.values() if out.is_dir() else ():
        remove_stale(out, path.name)
    return paths


def map_row_of_blocks(paths: Mapping[str, Path], width: int, legend: Legend) -> int:
    """Bytes of one row of blocks (256 pixels high) in all maps."""
    return 256 * width * sum(_bands(name, legend) for name in paths)


def _bands(name: str, legend: Legend) -> int:
    return legend.num_classes if name == "probabilities" else 1


def _layers(probability_CHW: NDArray[np.float32], valid_HW: NDArray[np.bool_]) -> dict[str, NDArray[np.uint8]]:
    """Each map's rows (bands, rows, W), uint8."""
    percent_CHW = np.rint(probability_CHW * 100).astype(np.uint8)
    best_HW = probability_CHW.argmax(axis=0)
    layers = {
        "class": best_HW.astype(np.uint8)[None],
        "confidence": np.take_along_axis(percent_CHW, best_HW[None], axis=0),
        "probabilities": percent_CHW,
    }
    for layer in layers.values():
        layer[:, ~valid_HW] = NO_DATA
    return layers


@contextmanager
def _map_file(
    name: str, path: Path, grid: Grid, legend: Legend, tags: Mapping[str, str]
) -> Iterator[rasterio.io.DatasetWriter]:
    """A map to be written in rows; its overviews are made when it is complete."""
    content = {
        "class": f"class of the legend {legend.name}",
        "confidence": "probability of the class in class.tif, in percent",
        "probabilities": "probability of each class, in percent",
    }
    names = "".join(f"{index}={text};" for index, text in enumerate(legend.names))
    with create_raster(
        path,
        grid,
        bands=_bands(name, legend),
        dtype="uint8",
        nodata=NO_DATA,
        band_names=legend.names if name == "probabilities" else (name,),
        colormap=legend.colormap() if name == "class" else None,
        tags={"CONTENT": content[name], "CLASS_NAMES": f"{names}{NO_DATA}=no_data", **tags},
    ) as file:
        if name == "class":
            file.update_tags(1, **{f"CLASS_{index}": text for index, text in enumerate(legend.names)})
        else:
            file.units = ["percent"] * file.count
        yield file
        factors = [2**level for level in range(1, 16) if max(grid.shape) > 256 * 2 ** (level - 1)]
        if factors:
            with _writing(path):
                file.build_overviews(factors, Resampling.mode if name == "class" else Resampling.average)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the map that could not be written."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise DamagedFileError(
            "a map could not be written; nothing was saved",
            got=error,
            where=path,
            do="check free space and permissions",
        ) from None
