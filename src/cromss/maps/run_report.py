"""What a person wants to see of pretraining runs: curves, confusion, label weights, example tiles, a map.

In: run folders (log.jsonl, result.json, the final checkpoint) and their store. Out: sections of a report, and the
sample picture that a run draws of itself while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cromss.data.dataset import PatchDataset, collate
from cromss.data.store import Store
from cromss.files import read_json
from cromss.geo.bands import Normalization
from cromss.geo.legend import Legend
from cromss.geo.sensor import SENSORS
from cromss.maps.figures import Curve, bars_figure, confusion_figure, curves_figure
from cromss.maps.pictures import (
    encode_png,
    error_picture,
    label_picture,
    readable,
    sensor_picture,
    sheet,
    weight_picture,
    write_png,
)
from cromss.maps.report import (
    Block,
    Estimate,
    Figure,
    Gallery,
    Report,
    Section,
    Settings,
    Table,
    Text,
    gradient,
    swatches,
    write_report,
)
from cromss.models.networks import FUSED
from cromss.training.checkpoint import load_network
from cromss.training.pretrain import Tile, tiles_of
from cromss.training.runlog import read_log
from cromss.training.validation import MEAN

__all__ = [
    "confusion_section",
    "curves_section",
    "draw_tiles",
    "quality_section",
    "tiles_section",
    "write_run_report",
]

RGB = NDArray[np.uint8]
Inputs = Mapping[str, Normalization]


def draw_tiles(legend: Legend, inputs: Inputs, path: Path, tiles: Sequence[Tile]) -> None:
    """Write the sample picture of a training run: image, noisy label, prediction and weights of each tile."""
    titles, rows = _columns(tiles, legend, inputs)
    row_titles = [tile.id for tile in tiles]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet(rows, titles=titles, row_titles=row_titles, legend=legend))


def _columns(tiles: Sequence[Tile], legend: Legend, inputs: Inputs) -> tuple[list[str], list[list[RGB]]]:
    rows = [_pictures(tile, legend, inputs) for tile in tiles]
    return list(rows[0]), [list(row.values()) for row in rows]


def _pictures(tile: Tile, legend: Legend, inputs: Inputs) -> dict[str, RGB]:
    found: dict[str, RGB] = {}
    for sensor in sorted(tile.images, key="s2".__ne__):  # which looks most as people see the place
        known = inputs[sensor]
        title = SENSORS[sensor].title if sensor in SENSORS else sensor.upper()
        found[title] = sensor_picture(sensor, _in_units(tile.images[sensor], known), known.bands)
    found["noisy label"] = label_picture(tile.labels, legend)
    if tile.truth is not None:
        found["truth"] = label_picture(tile.truth, legend)
        found["wrong labels"] = error_picture(tile.labels, tile.truth)
    for branch, prediction in tile.predictions.items():
        found[f"prediction {branch.upper()}"] = label_picture(prediction, legend)
    for branch, weights in tile.weights.items():
        found[f"weight {branch.upper()}"] = weight_picture(weights)
    return found


def _in_units(scaled_BHW: NDArray[np.float32], normalization: Normalization) -> NDArray[np.float32]:
    """Roughly the sensor's own values: a tile does not say its product, and a picture is stretched anyway."""
    return normalization.undo(scaled_BHW, next(iter(normalization.statistics)))


def curves_section(runs: Mapping[str, Path]) -> Section:
    """Training loss and validation scores of each run over its steps."""
    train: list[Curve] = []
    scores: dict[str, list[Curve]] = {}
    for name, folder in runs.items():
        rows = list(read_log(folder / "log.jsonl"))
        steps = [row for row in rows if row["kind"] == "train" and row["loss"] is not None]
        train.append(Curve(name=name, x=[row["step"] for row in steps], y=[row["loss"] for row in steps]))
        for row in rows:
            if row["kind"] == "validation":
                for key in _validation_keys(row):
                    scores.setdefault(key, [])
        for key, curves in scores.items():
            points = [(row["step"], row[key]) for row in rows if row["kind"] == "validation" and key in row]
            if points:
                curves.append(Curve(name=name, x=[step for step, _ in points], y=[100 * value for _, value in points]))
    blocks: list[Block] = [
        Figure(
            image=curves_figure(train, x_label="optimizer step", y_label="training loss"),
            caption="Training loss. Arms with other losses or labels are not comparable by its height.",
            alt="curves of the training loss",
        )
    ]
    for key, curves in scores.items():
        sensor, _, against = key.partition("_")
        words = "the truth" if "truth" in against else "the noisy labels"
        blocks.append(
            Figure(
                image=curves_figure(curves, x_label="optimizer step", y_label="overall accuracy, %"),
                caption=f"Overall accuracy of the {sensor.upper()} branch against {words}, validation places.",
                alt=f"curves of the accuracy of {sensor}",
            )
        )
    return Section(heading="Training curves", blocks=blocks)


def _validation_keys(row: Mapping[str, Any]) -> list[str]:
    ending = "_truth_oa" if any(key.endswith("_truth_oa") for key in row) else "_oa"
    return [key for key in row if key.endswith(ending) and key.removesuffix(ending) not in (FUSED, MEAN)]


def confusion_section(name: str, folder: Path, legend: Legend, branch: str = "s2") -> Section:
    """Confusion matrix and scores by class of one run's last validation; against the truth where it is known."""
    validation = read_json(folder / "result.json")["validation"]
    branch = branch if branch in validation["noisy"] else next(iter(validation["noisy"]))
    known = branch in validation["truth"]
    scores = validation["truth" if known else "noisy"][branch]
    against = "the truth" if known else "the noisy labels"
    columns = ["class", "IoU, %", "F1, %", "recall, %", "precision, %", "pixels"]
    rows = [
        [label, *(_percent(entry[key]) for key in ("iou", "f1", "recall", "precision")), entry["support"]]
        for label, entry in scores["classes"].items()
    ]
    return Section(
        heading=f"{name}, {branch.upper()}, by class",
        blocks=[
            Figure(
                image=confusion_figure(np.array(scores["matrix"]), legend),
                caption=f"Percent of each row. Rows: {against}; columns: prediction. Validation places.",
                alt="confusion matrix",
            ),
            Table(columns=columns, rows=rows, caption=f"Against {against}; a class without pixels has no score."),
        ],
    )


def _percent(value: float | None) -> Estimate:
    return Estimate(mean=None if value is None else 100 * value)


def quality_section(runs: Mapping[str, Path], legend: Legend) -> Section | None:
    """How well each run's label weights tell right labels from wrong ones, by class; None where no truth is known."""
    overall: list[list[Any]] = []
    series: dict[str, list[float | None]] = {}
    for name, folder in runs.items():
        quality = read_json(folder / "result.json")["validation"]["label_quality"]
        for branch, found in quality.items():
            values = [found[key] for key in ("accuracy", "auroc", "selected_precision", "selected_share")]
            overall.append([f"{name}, {branch.upper()}", *(_percent(value) for value in values)])
            series[f"{name}, {branch.upper()}"] = [found["auroc_by_class"][label] for label in legend.names]
    if not overall:
        return None
    return Section(
        heading="Which labels does it trust?",
        blocks=[
            Text(
                text="Each pixel's label gets a weight from the confidence of both sensors. The AUROC is the chance "
                "that a right label weighs more than a wrong one: 50% is guessing. Weights are taken at the end of the "
                "ramp, on the noisy labels of the validation places; an arm that does not use them is judged as well."
            ),
            Table(
                columns=["run", "labels right, %", "AUROC, %", "right among weight 1, %", "share of weight 1, %"],
                rows=overall,
            ),
            Figure(
                image=bars_figure(
                    series,
                    readable(legend),
                    x_label="AUROC of the label weights",
                    colors=legend.colors,
                    limits=(0.0, 1.0),
                    reference=0.5,
                ),
                caption="By class of the noisy label.",
                alt="bars of the AUROC by class",
            ),
        ],
    )


def tiles_section(name: str, folder: Path, store: Store, *, count: int = 4) -> Section:
    """Example tiles through the final network of a run, of validation places where the store has any."""
    network, card = load_network(folder)
    ratio, balanced = card["recipe"]["final_ratio"], card["recipe"]["class_balanced"]
    label_source = "labels" if store.has("labels") else "truth"
    normalizations = {sensor: Normalization.from_dict(entry) for sensor, entry in card["inputs"].items()}
    dataset = PatchDataset(store, normalizations, label_source=label_source, training=False)
    places = store.select("validation") if len(store.select("validation")) else store.select("train")
    chosen = places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)]
    keys = [(0, int(place), store.num_seasons(int(place)) // 2) for place in chosen]
    with torch.no_grad():
        batches = [collate([dataset[key]]) for key in keys]
        tiles = [tile for one in batches for tile in tiles_of(network, one, tuple(normalizations), ratio, balanced)]
    titles, rows = _columns(tiles, store.legend, normalizations)
    return Section(
        heading=f"Example tiles, {name}",
        blocks=[
            Gallery(
                titles=titles,
                rows=[
                    (tile.id, [encode_png(picture) for picture in row]) for tile, row in zip(tiles, rows, strict=True)
                ],
                caption="Sentinel-2 in true colour, Sentinel-1 as VV, VH, VV - VH, other sensors by their first three "
                "bands, or the first, stretched; weights bright: 1, dark: near 0.",
                keys=[*swatches(store.legend), gradient("weight 0 to 1")],
            )
        ],
    )


def write_run_report(folder: str | Path, store: Store) -> Path:
    """Write report.html into the folder of a finished pretraining run; return its path."""
    folder = Path(folder)
    result = read_json(folder / "result.json")
    settings = result["settings"]
    name = str(settings["method"])
    sections: list[Section] = [curves_section({name: folder})]
    if result["validation"] is not None:
        sections.append(confusion_section(name, folder, store.legend))
        quality = quality_section({name: folder}, store.legend)
        sections += [quality] if quality is not None else []
    sections.append(tiles_section(name, folder, store))
    sections.append(Section(heading="Settings", blocks=[Settings(title="all settings of the run", values=settings)]))
    path = folder / "report.html"
    write_report(
        path,
        Report(
            title="Pretraining",
            subtitle=f"{name}, {settings['fusion']} fusion, {settings['encoder']}, {len(store)} places",
            sections=sections,
            facts={"steps": str(result["step"]), "version": result["version"], "data": result["data_fingerprint"][:12]},
        ),
    )
    return path
