"""Where the tiles of a label map are, by a STAC catalogue: a folder of JSON on disk, a static catalogue, or an API.

In: a catalogue, a collection, an asset and dates. Out: for a grid, the addresses of the tiles whose footprint touches
it, the newest first, which win where tiles overlap. Pixels are read later, and only those on the grid.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from rasterio.warp import transform_bounds

from cromss.data.stac_catalogue import Box, asset_address, day, open_catalogue
from cromss.errors import GridError
from cromss.geo.raster import Grid

__all__ = ["footprint", "tile_finder"]


def tile_finder(
    where: str, collection: str | None, asset: str, start: str | None, end: str | None
) -> Callable[[Grid], list[str]]:
    """A function from a grid to the tiles that touch it; a static catalogue is read once, an API asked for each grid.

    Raises ConfigError (library absent, a date that is none, an API without a collection), MissingDataError,
    DamagedFileError; the function raises MissingDataError for items without the asset, GridError for no CRS.
    """
    for text in (start, end):
        if text is not None:
            day(text)
    catalogue = open_catalogue(where)
    catalogue.require_collection(collection)
    if not catalogue.searches:
        catalogue.items(collection, None, start, end)  # so that a collection without items shows at once

    def find(grid: Grid) -> list[str]:
        touching = catalogue.items(collection, footprint(grid), start, end)
        touching.sort(key=lambda item: (-_seconds(item.datetime), item.id))
        return [asset_address(item, asset, where) for item in touching]

    return find


def footprint(grid: Grid) -> Box:
    """The box of a grid in degrees: west, south, east, north. Raises GridError where it has no CRS."""
    if grid.crs is None:
        raise GridError("an image without a CRS has no place on the globe", do="give the image its CRS")
    west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    return west, south, east, north


def _seconds(moment: datetime.datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
