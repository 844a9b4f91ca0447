"""Draw docs/images/synthetic-scenes.png: what the synthetic places look like, and how their labels err.

Run `python docs/make_synthetic_sheet.py` from the checkout; it takes about ten seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cromss.data.record import PlaceRecord
from cromss.data.synthetic import SyntheticWorld, make_place
from cromss.geo.bands import SENSORS
from cromss.maps.pictures import RGB, error_picture, label_picture, s1_composite, sheet, true_colour, write_png

SUMMER = 2
PLACES = {"pretrain": (4, 12, 13, 30, 33, 40), "shifted": (2, 5)}
YEAR = (47, 27)


def pictures_of(record: PlaceRecord, world: SyntheticWorld) -> list[RGB]:
    """One place in summer: both sensors and the truth, and where labels err, also the labels and their errors."""
    labels, truth = (np.asarray(layers)[SUMMER] for layers in (record.labels, record.truth))
    pictures = [
        true_colour(record.images["s2"][SUMMER], SENSORS["s2"].bands),
        s1_composite(record.images["s1"][SUMMER], SENSORS["s1"].bands),
        label_picture(truth, world.legend),
    ]
    if world.name == "pretrain":
        pictures += [label_picture(labels, world.legend), error_picture(labels, truth)]
    return pictures


def rows_of_year(record: PlaceRecord, world: SyntheticWorld) -> list[list[RGB]]:
    """One place in four seasons: Sentinel-2, truth and labels."""
    return [
        [true_colour(image, SENSORS["s2"].bands) for image in record.images["s2"]],
        [label_picture(layer, world.legend) for layer in np.asarray(record.truth)],
        [label_picture(layer, world.legend) for layer in np.asarray(record.labels)],
    ]


def stack(pages: list[RGB]) -> RGB:
    """Pages one below the other on white."""
    width = max(page.shape[1] for page in pages)
    wide = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pages]
    return np.concatenate(wide)


def main() -> None:
    """Draw the sheet, and the small one of the README."""
    kinds = ("Sentinel-2", "Sentinel-1", "truth", "labels", "errors")
    pages = []
    for name, indices in PLACES.items():
        world = SyntheticWorld(name=name)  # type: ignore[arg-type]
        rows = [pictures_of(make_place(world, index), world) for index in indices]
        titles = [f"{name} {index}" for index in indices]
        pages.append(sheet(rows, titles=kinds[: len(rows[0])], row_titles=titles, legend=world.legend, tile=256))
    world = SyntheticWorld()
    for index in YEAR:
        record = make_place(world, index)
        seasons = [name.capitalize() for name in record.seasons]
        rows = rows_of_year(record, world)
        pages.append(sheet(rows, titles=seasons, row_titles=["image", "truth", "labels"], tile=256))
    folder = Path(__file__).parent / "images"
    write_png(folder / "synthetic-scenes.png", stack(pages))
    world = SyntheticWorld()
    rows = [pictures_of(make_place(world, index), world) for index in PLACES["pretrain"][:3]]
    write_png(folder / "synthetic-scenes-small.png", sheet(rows, titles=kinds, legend=world.legend, tile=160))


if __name__ == "__main__":
    main()
