"""Write the rules, and what they reach, into docs/labels-table.md, and draw docs/images/labels.png.

Run `python docs/measure_labels.py SENTINEL_MINI` from the checkout, with the folder of the small real set (its
layout is that of recipes/sentinel-mini.yaml); it takes about a minute.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cromss.config import LabelsConfig
from cromss.data.labelling.agreement import agree
from cromss.data.labelling.run import label
from cromss.data.labelling.spectral import CLOUD, RULES
from cromss.data.labelling.tags import DYNAMIC_WORLD_TAGS, OSM13_TAGS
from cromss.geo.images import describe_image, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import get_legend
from cromss.geo.raster import open_raster, read_raster
from cromss.geo.remap import REMAPS
from cromss.maps.pictures import RGB, label_picture, sheet, true_colour, weight_picture, write_png
from cromss.training.metrics import Scores, confusion

LEGEND = get_legend("dynamic_world")
DOCS = Path(__file__).parent
SUN_OF_UNDATED = 40.0  # degrees from the zenith
BANDS = ("B4", "B3", "B2")
TILES = (
    "ben_33UUP_20170613_26_57",
    "ben_35VNK_20180525_23_83",
    "ben_34TCR_20180430_82_52",
)  # of the places that no threshold was set on


def band(path: Path) -> NDArray[np.uint8]:
    """The one band of a label map."""
    return read_raster(path).values_BHW[0]


def score(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], legend: Legend = LEGEND) -> Scores:
    """Scores of (found, reference) maps from one confusion matrix, where both have a label."""
    total = torch.zeros((legend.num_classes, legend.num_classes), dtype=torch.int64)
    for found, reference in pairs:
        both = (found != IGNORE) & (reference != IGNORE)
        total += confusion(
            torch.from_numpy(found[both].copy()), torch.from_numpy(reference[both].copy()), legend.num_classes
        )
    return Scores.from_confusion(total, legend.names)


def rules(root: Path, images: str, out: Path, sun: float | None = None) -> float:
    """Label images; return the megapixels a second of processor time."""
    began = time.process_time()
    report = label(LabelsConfig(source="rules", root=str(root), images=images, out=str(out), sun_zenith=sun))
    return report["pixels"] / (time.process_time() - began) / 1e6


def by_class(title: str, scores: Scores) -> list[str]:
    """A table of one comparison."""
    rows = [
        f"### {title}",
        "",
        "| class | pixels of Dynamic World | recall | precision | IoU |",
        "|---|---:|---:|---:|---:|",
    ]
    per_class = zip(scores.names, scores.support, scores.recall, scores.precision, scores.iou, strict=True)
    for name, held, *shares in per_class:
        cells = " | ".join("-" if share is None or not held else f"{share:.0%}" for share in shares)
        rows.append(f"| {name.replace('_', ' ')} | {held:,} | {cells} |")
    return [*rows, "", f"The same label in {scores.oa:.1%} of {scores.pixels:,} pixels.", ""]


def main(root: Path) -> None:
    """Label, compare, write."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        rules(root / "pretrain", "s2/{id}.tif", out / "pretrain")
        rules(root / "downstream", "{id}/s2.tif", out / "osm")
        rules(root / "downstream/flood_hand", "{id}/s2.tif", out / "flood")
        speed = rules(root / "scene", "{id}_l1c.tif", out / "scene", sun=SUN_OF_UNDATED)
        lines = [
            "# Rules and tags, and what the rules reach",
            "",
            "Written by `docs/measure_labels.py`; what the figures mean is in [labels.md](labels.md). Dynamic World is",
            "no truth: it errs itself, and clouds, which it labels as something, have no label in the rules.",
            "",
            *rule_table(),
            *tag_table(),
            *pretraining_tables(root / "pretrain", out / "pretrain"),
            *scene_tables(root, out),
            f"Speed, 1942 x 1931 px: {speed:.1f} million pixels a second of processor time, files included.",
        ]
        (DOCS / "labels-table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_png(DOCS / "images" / "labels.png", picture(root, out))
    sys.stdout.write("\n".join(lines) + "\n")


def rule_table() -> list[str]:
    """The rules as they stand in the code."""
    rows = ["### The rules", "", "| class | conditions, all of which hold | why |", "|---|---|---|"]
    for rule in RULES:
        conditions = ", ".join(f"{c.quantity} {'>' if c.above else '<'} {c.threshold:g}" for c in rule.conditions)
        name = "cloud: no label" if rule.class_id == CLOUD else LEGEND.names[rule.class_id].replace("_", " ")
        rows.append(f"| {name} | {conditions} | {rule.why} |")
    return [*rows, ""]


def tag_table() -> list[str]:
    """OpenStreetMap's tags by class, as they stand in the code."""
    rows = ["### OpenStreetMap's tags", "", "| class of 13 | in Dynamic World | tags |", "|---|---|---|"]
    for name, world in REMAPS["osm13", "dynamic_world"].items():
        tags = [
            f"{key}={'/'.join(value for value, own in values.items() if own == name)}"
            for key, values in OSM13_TAGS.items()
            if name in values.values()
        ]
        rows.append(f"| {name.replace('_', ' ')} | {world.replace('_', ' ')} | {'; '.join(tags)} |")
    finer = [f"{key}={value} is {name}" for key, own in DYNAMIC_WORLD_TAGS.items() for value, name in own.items()]
    return [*rows, "", f"In Dynamic World some tags say more: {', '.join(finer).replace('_', ' ')}.", ""]


def pretraining_tables(root: Path, made: Path) -> list[str]:
    """Places used to set thresholds, and places that were not; then agreement by confidence."""
    names = sorted(path.stem for path in (root / "s2").glob("*.tif"))
    tiles = sorted({name.split("_")[1] for name in names})
    groups = {
        "Places that no threshold was set on": [n for n in names if n.split("_")[1] in tiles[1::2]],
        "Places that thresholds were set on": [n for n in names if n.split("_")[1] in tiles[::2]],
    }
    rows = []
    for title, members in groups.items():
        pairs = [(band(made / "labels" / f"{n}.tif"), band(root / "dynamic_world" / f"{n}.tif")) for n in members]
        rows += by_class(f"{title}: {len(members)} scenes", score(pairs))
    rows += [
        "### By confidence, on places that no threshold was set on",
        "",
        "| confidence | share | agreement |",
        "|---|---:|---:|",
    ]
    members = groups["Places that no threshold was set on"]
    found = np.concatenate([band(made / "labels" / f"{n}.tif").ravel() for n in members])
    sure = np.concatenate([band(made / "confidence" / f"{n}.tif").ravel() for n in members])
    world = np.concatenate([band(root / "dynamic_world" / f"{n}.tif").ravel() for n in members])
    both = (found != IGNORE) & (world != IGNORE)
    for low, high in ((0, 30), (30, 50), (50, 70), (70, 90), (90, 101)):
        here = both & (sure >= low) & (sure < high)
        rows.append(f"| {low} to {high - 1} % | {here.sum() / both.sum():.0%} | {(found == world)[here].mean():.1%} |")
    return [*rows, ""]


def scene_tables(root: Path, out: Path) -> list[str]:
    """L1C scenes: against Dynamic World, land use polygons, and water drawn by hand; and what agreement brings."""
    osm, world = (band(root / "downstream/osm_landuse" / f"{name}.tif") for name in ("labels", "dynamic_world"))
    found = band(out / "osm/labels/osm_landuse.tif")
    rows = by_class("A winter scene, L1C", score([(found, world)]))
    virginia = band(root / "scene/eastern_shore_virginia_dynamic_world.tif")
    rows += by_class(
        f"A coast, L1C; its date is not known, the sun is taken at {SUN_OF_UNDATED:.0f} degrees",
        score([(band(out / "scene/labels/eastern_shore_virginia.tif"), virginia)]),
    )
    both = agree(np.stack([found, world])).labels_HW
    rows += [
        "### Against land use polygons of the winter scene", "",
        "| labels | share of the polygons' pixels | right there |", "|---|---:|---:|",
    ]  # fmt: skip
    for name, values in (("Dynamic World", world), ("rules", found), ("where both agree", both)):
        known = (values != IGNORE) & (osm != IGNORE)
        rows.append(f"| {name} | {known.sum() / (osm != IGNORE).sum():.0%} | {(values == osm)[known].mean():.1%} |")
    rows += [
        "",
        "### Water against water drawn by hand, L1C",
        "",
        "| chip | recall | precision | IoU |",
        "|---|---:|---:|---:|",
    ]
    for chip in sorted(path.stem for path in (out / "flood/labels").glob("*.tif")):
        hand, said = (
            band(root / "downstream/flood_hand" / chip / "labels.tif"),
            band(out / "flood/labels" / f"{chip}.tif"),
        )
        known = hand != 255
        water, wet = (said == 0)[known], (hand == 1)[known]
        hit = (water & wet).sum()
        rows.append(f"| {chip} | {hit / wet.sum():.0%} | {hit / water.sum():.0%} | {hit / (water | wet).sum():.0%} |")
    return [*rows, ""]


def picture(root: Path, out: Path) -> RGB:
    """Image, rules, confidence, Dynamic World and OpenStreetMap side by side."""
    part = (slice(150, 662), slice(150, 662))
    blank = np.full((120, 120), IGNORE, np.uint8)
    osm = root / "downstream/osm_landuse"
    world, land_use = band(osm / "dynamic_world.tif"), band(osm / "labels.tif")
    rows = [cells(osm / "s2.tif", out / "osm", "osm_landuse", world, land_use, part)]
    whole = (slice(None), slice(None))
    for name in TILES:
        world = band(root / "pretrain/dynamic_world" / f"{name}.tif")
        rows.append(cells(root / "pretrain/s2" / f"{name}.tif", out / "pretrain", name, world, blank, whole))
    titles = ["Sentinel-2", "rules", "confidence", "Dynamic World", "OpenStreetMap"]
    return sheet(rows, titles=titles, legend=LEGEND, tile=230)


def cells(
    image: Path, made: Path, name: str, world: NDArray[np.uint8], osm: NDArray[np.uint8], part: tuple[slice, slice]
) -> list[RGB]:
    """One row of the picture."""
    with open_raster(image) as dataset:
        raster = read_image(dataset, describe_image(dataset, "s2"), BANDS)
    sure = band(made / "confidence" / f"{name}.tif")[part].astype(np.float32)
    return [
        true_colour(raster.values_BHW[:, *part], BANDS, raster.valid_HW[part]),
        label_picture(band(made / "labels" / f"{name}.tif")[part], LEGEND),
        weight_picture(np.where(sure == IGNORE, np.nan, sure / 100)),
        label_picture(world[part], LEGEND),
        label_picture(osm[part], LEGEND),
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
