"""The demonstration: the whole way through the house on synthetic scenes, with a report that shows each step.

In: nothing. Out, in one folder: jobs/ (every run), table.md and table.csv, scene/ (a larger scene as GeoTIFFs),
map/class.tif and map/confidence.tif, report.html. What is finished is not done again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cromss.config import BenchmarkConfig, DemoConfig, PredictConfig
from cromss.data.store import Store
from cromss.data.synthetic import SyntheticWorld, synthesize_scene, write_scene
from cromss.geo.bands import SENSORS
from cromss.geo.images import read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import get_legend
from cromss.geo.raster import read_raster
from cromss.maps.benchmark_report import benchmark_report
from cromss.maps.pictures import encode_png, label_picture, s1_composite, true_colour, weight_picture
from cromss.maps.predict import predict
from cromss.maps.report import (
    Block,
    Cell,
    Estimate,
    Gallery,
    Report,
    Section,
    Table,
    Text,
    gradient,
    swatches,
    write_report,
)
from cromss.maps.run_report import confusion_section, curves_section, quality_section, tiles_section
from cromss.training.benchmark import benchmark
from cromss.training.checkpoint import load_card
from cromss.training.metrics import Scores, confusion
from cromss.training.recipe import pretraining_table

__all__ = ["compare", "run_demo", "verdict_on_map"]

Labels = NDArray[np.uint8]

SCENE_SIZE = 640  # px of 10 m: larger than a window, so that the map is blended
SCENE_SEED = 0  # of a series of its own: no run has seen the place
LABELLER_SEED = 0  # its noisy labels are made as those of the runs
LEADING = "cromss"  # the arm whose map and tiles are shown


def run_demo(config: DemoConfig) -> Path:
    """Run everything that is not there yet and write the report; return its path."""
    out, began = Path(config.out), time.monotonic()
    with resources.as_file(resources.files("cromss") / "recipes" / "demo.yaml") as recipe:
        result = benchmark(BenchmarkConfig(recipe=str(recipe), out=str(out), jobs=config.jobs, threads=config.threads))
    runs = {
        name.split(".")[1]: out / job["folder"] / "run"
        for name, job in result.content["jobs"].items()
        if name.startswith("pretrain.")
    }
    scene = out / "scene"
    if not (scene / "truth.tif").exists():
        world = SyntheticWorld(name="pretrain", size=SCENE_SIZE, seasons=4, seed=LABELLER_SEED)
        write_scene(synthesize_scene(world, SCENE_SIZE, seed=SCENE_SEED), scene, world.legend)
    predict(
        PredictConfig(
            checkpoint=str(runs[LEADING]),
            out=str(out / "map"),
            s2=str(scene / "s2.tif"),
            overwrite=True,
        )
    )
    path = out / "report.html"
    write_report(path, _report(out, runs, result.content))
    sys.stdout.write((out / "table.md").read_text(encoding="utf-8"))
    minutes = (time.monotonic() - began) / 60
    sys.stderr.write(f"done in {minutes:.1f} minutes\nmaps    {out / 'map'}\nreport  {path}\n")
    return path


def _report(out: Path, runs: Mapping[str, Path], content: Mapping[str, Any]) -> Report:
    legend = get_legend("dynamic_world")
    tables = benchmark_report(content)
    leading = runs[LEADING]
    store = Store.open(load_card(leading)["data"]["path"])
    quality = quality_section({name: run for name, run in runs.items() if name != "clean"}, legend)
    sections = [
        Section(
            heading="What you see",
            blocks=[
                Text(
                    text="Two networks, one on Sentinel-1 radar and one on Sentinel-2 optical images, learn land "
                    "cover from labels of which about three in ten are wrong. The scenes are made by a program, so the "
                    "truth is known, and every claim below is measured against it. The map comes first."
                )
            ],
        ),
        _map_section(out, legend, content),
        tiles_section("CromSS", leading, store),
        *([quality] if quality is not None else []),
        *tables.sections,
        curves_section(runs),
        confusion_section("CromSS", leading, legend),
    ]
    return Report(
        title="CromSS: land cover from wrong labels",
        subtitle=tables.subtitle,
        sections=sections,
        facts=tables.facts,
        footer=tables.footer,
    )


def _map_section(out: Path, legend: Legend, content: Mapping[str, Any]) -> Section:
    scene, maps = out / "scene", out / "map"
    s2 = read_image(scene / "s2.tif", "s2", SENSORS["s2"].bands)
    s1 = read_image(scene / "s1.tif", "s1", SENSORS["s1"].bands)
    truth, labels = (read_raster(scene / f"{name}.tif").values_BHW[0] for name in ("truth", "labels"))
    found, confidence = (read_raster(maps / f"{name}.tif").values_BHW[0] for name in ("class", "confidence"))
    pictures = [
        true_colour(s2.values_BHW, SENSORS["s2"].bands),
        s1_composite(s1.values_BHW, SENSORS["s1"].bands),
        label_picture(truth, legend),
        label_picture(labels, legend),
        label_picture(found, legend),
        weight_picture(confidence.astype(np.float32) / 100),
    ]
    encoded = [encode_png(picture) for picture in pictures]
    compared = compare(labels, found, truth, legend)
    blocks: list[Block] = [
        Gallery(titles=["Sentinel-2", "Sentinel-1", "truth"], rows=[("", encoded[:3])]),
        Gallery(
            titles=["noisy label", "CromSS map", "confidence of the map"],
            rows=[("", encoded[3:])],
            caption=f"{SCENE_SIZE} x {SCENE_SIZE} px that no network has seen, mapped in blended windows. "
            + _sensors_in_words(content),
            keys=[*swatches(legend), gradient("confidence 0 to 100%")],
        ),
        _map_table(compared),
        Text(text=verdict_on_map(compared)),
    ]
    return Section(heading="A map", blocks=blocks)


def _sensors_in_words(content: Mapping[str, Any]) -> str:
    """Why the map is made of one image, by the scores of the validation places."""
    accuracy = {
        row["metric"]: row["mean"]
        for row in content["means"]
        if (row["table"], row["arm"]) == (pretraining_table("validation"), LEADING)
    }
    return (
        f"The map is made of the Sentinel-2 image alone: on the validation places it is right in "
        f"{accuracy['s2_truth_oa']:.1%} of the pixels, the mean of both sensors in {accuracy['mean_truth_oa']:.1%}."
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Some pixels of the scene, as a share of all that have a class on every side, against the truth."""

    name: str
    share: float
    scores: Scores


def compare(labels: Labels, found: Labels, truth: Labels, legend: Legend) -> list[Compared]:
    """Noisy label and map against the truth, and the labels that the map agrees with; an ignored label is no answer."""
    known = (labels != IGNORE) & (found != IGNORE) & (truth != IGNORE)
    rows = []
    for name, values, where in (
        ("noisy label", labels, known),
        ("CromSS map", found, known),
        ("noisy label where the map agrees", labels, known & (labels == found)),
    ):
        matrix = confusion(torch.from_numpy(values[where]), torch.from_numpy(truth[where]), legend.num_classes)
        scores = Scores.from_confusion(matrix, legend.names)
        rows.append(Compared(name=name, share=float(where.sum() / known.sum()), scores=scores))
    return rows


def _map_table(compared: Sequence[Compared]) -> Table:
    rows: list[list[Cell]] = []
    for row in compared:
        shares = (row.share, row.scores.oa, row.scores.miou, row.scores.mf1)
        rows.append([row.name, *(Estimate(mean=None if value is None else 100 * value) for value in shares)])
    return Table(columns=["against the truth", "pixels, %", "OA, %", "mIoU, %", "mF1, %"], rows=rows)


def verdict_on_map(compared: Sequence[Compared]) -> str:
    """What the table says about the map, whichever way it came out."""
    labels, found, shared = (row.scores for row in compared)
    pairs = [(labels.oa or 0.0, found.oa or 0.0), (labels.miou or 0.0, found.miou or 0.0)]
    gains = [ours > theirs for theirs, ours in pairs]
    judged = "better than" if all(gains) else "in part better than" if any(gains) else "no better than"
    (oa_labels, oa_map), (miou_labels, miou_map) = pairs
    return (
        f"The map is {judged} the noisy labels of the scene, whose kind it was learnt from: {oa_map:.1%} of its pixels "
        f"are right, {oa_labels:.1%} of theirs; mIoU {miou_map:.1%} against {miou_labels:.1%}. This is one scene and "
        "one small network, trained for minutes. The map is a second opinion on the labels as well: where both agree, "
        f"{shared.oa or 0.0:.1%} are right."
    )
