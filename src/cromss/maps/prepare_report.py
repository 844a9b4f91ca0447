"""What a user sees of their data before training on it: one HTML file beside the store.

In: the report of `prepare` (JSON types) and the statistics of the set. Out: prepare-report.html: findings, example
places, classes, shifts, bands, seasons, and everything that was left out, and why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cromss.config import PrepareConfig
from cromss.data.blocks import blocks_in_words
from cromss.data.prepare import prepare as prepare_store
from cromss.data.sources.file_patterns import ONLY_SEASON
from cromss.data.survey.band_statistics import bin_edges
from cromss.data.survey.set_statistics import Example, SetStatistics, picture_bands
from cromss.data.survey.shift_survey import ALARM_PX
from cromss.geo.legend import Legend
from cromss.maps.figures import bars_figure, offsets_figure, ridges_figure
from cromss.maps.label_sections import label_sections
from cromss.maps.pictures import encode_png, fit_picture, label_picture, readable, sensor_picture
from cromss.maps.report import (
    Block,
    Cell,
    Estimate,
    Figure,
    Gallery,
    Report,
    Section,
    Settings,
    Table,
    Text,
    swatches,
    write_report,
)

__all__ = ["HTML_FILE", "prepare", "write_prepare_report"]

HTML_FILE = "prepare-report.html"

_FIT = "fit by shift"
_LAST = ("labels", "truth", _FIT)  # columns of a gallery behind those of the sensors
_FIRST_DRAWN = "s2"  # it looks most as people see the place
_LISTED = 50  # rows of a list in the page; the JSON file has all


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Check every scene, write the store, and its report as JSON and as a page; return the report."""
    report = prepare_store(config, draw=write_prepare_report)
    sys.stderr.write(f"report {Path(config.out) / HTML_FILE}\n")
    return report


def write_prepare_report(statistics: SetStatistics, report: Mapping[str, Any], folder: Path) -> Path:
    """Write prepare-report.html into the folder of a store; return its path."""
    legend = statistics.legend
    sections = [
        _findings(report),
        _examples(statistics),
        _classes(report, legend),
        *label_sections(report),
        *_shifts(report, statistics),
        _bands(report, statistics),
        *_seasons(report, legend),
        _left_out(report),
        Section(heading="Settings", blocks=[Settings(title="all settings of prepare", values=report["settings"])]),
    ]
    page = Report(
        title="Prepared data",
        subtitle="What the store holds, and what to look at before training on it.",
        facts=_facts(report, statistics),
        sections=sections,
        footer="The same figures are in prepare-report.json beside this page.",
    )
    path = folder / HTML_FILE
    write_report(path, page)
    return path


def _facts(report: Mapping[str, Any], statistics: SetStatistics) -> dict[str, str]:
    products = sorted({statistics.definitions[sensor].label(product) for sensor, product in statistics.counts})
    return {
        "places": f"{report['places']:,}".replace(",", "\u202f"),
        "seasons of places": f"{report['samples']:,}".replace(",", "\u202f"),
        "products": ", ".join(products),
        "legend": statistics.legend.name.replace("_", " "),
        "left out": f"{len(report['refusals'])} scenes refused, {len(report['orphans'])} without partners",
    }


def _findings(report: Mapping[str, Any]) -> Section:
    found = report["findings"]
    if not found:
        text = "Nothing was found that should keep you from training. What was looked at, and how, stands below."
        return Section(heading="What to look at", blocks=[Text(text=text)])
    items = [f"{finding['what'][0].upper()}{finding['what'][1:]}. {finding['do']}" for finding in found]
    return Section(heading="What to look at", blocks=[Text(text="The gravest first:", items=items)])


def _examples(statistics: SetStatistics) -> Section:
    examples = statistics.examples.things()
    return Section(
        heading="Example places",
        blocks=[
            Text(text=f"{len(examples)} places drawn evenly from the set, each stretched on its own."),
            _gallery(examples, statistics),
        ],
    )


def _gallery(examples: Sequence[Example], statistics: SetStatistics) -> Gallery:
    """One row an example; columns that no example has are left out."""
    legend = statistics.legend
    pictures = [_pictures(example, statistics) for example in examples]
    titles = [*dict.fromkeys(title for shown in pictures for title in shown if title not in _LAST)]
    titles += [title for title in _LAST if any(title in shown for shown in pictures)]
    rows = [
        (_row_title(example, statistics), [shown.get(title) for title in titles])
        for example, shown in zip(examples, pictures, strict=True)
    ]
    return Gallery(
        titles=titles,
        rows=rows,
        caption=_drawn_as(statistics) + " At most the middle 256 px of a place.",
        keys=swatches(legend) if {"labels", "truth"} & set(titles) else [],
    )


def _drawn_as(statistics: SetStatistics) -> str:
    """How the images of each sensor are drawn, in words."""
    words = []
    for sensor, bands in statistics.bands.items():
        shown = picture_bands(sensor, bands)
        usual = {("B4", "B3", "B2"): "in true colour", ("VV", "VH"): "as VV, VH, VV − VH"}.get(shown)
        words.append(f"{statistics.definitions[sensor].title} {usual or 'as ' + ', '.join(shown)}")
    return ", ".join(words) + "."


def _pair(pair: str, statistics: SetStatistics) -> str:
    """A pair of the shift survey in words: which lies off which."""
    first, second = ("labels" if role == "labels" else statistics.definitions[role].title for role in pair.split("-"))
    return f"{second} off {first}"


def _row_title(example: Example, statistics: SetStatistics) -> str:
    parts = [example.id, "" if example.season == ONLY_SEASON else example.season, example.split]
    if example.shift is not None:
        parts.append(f"{_pair(example.shift.pair, statistics)} by {example.shift.shift.length:.1f} px")
    return ", ".join(part for part in parts if part)


def _pictures(example: Example, statistics: SetStatistics) -> dict[str, bytes]:
    legend, found = statistics.legend, {}
    for sensor in sorted(example.images, key=_FIRST_DRAWN.__ne__):
        title = statistics.definitions[sensor].title
        found[title] = sensor_picture(sensor, example.images[sensor], example.bands[sensor], example.valid_HW)
    for title, layer in (("labels", example.labels_HW), ("truth", example.truth_HW)):
        if layer is not None:
            found[title] = label_picture(layer, legend)
    if example.shift is not None and example.shift.surface is not None:
        found[_FIT] = fit_picture(example.shift.surface)
    return {title: encode_png(picture) for title, picture in found.items()}


def _classes(report: Mapping[str, Any], legend: Legend) -> Section:
    splits = {split or "no split": entry for split, entry in report["splits"].items()}
    labelled = {split: entry for split, entry in splits.items() if entry["labelled_share"]}
    blocks: list[Block] = []
    if labelled:
        series = {
            split: [100 * share if share else None for share in entry["class_shares"].values()]
            for split, entry in labelled.items()
        }
        figure = bars_figure(series, readable(legend), x_label="share of the labelled pixels, %", colors=legend.colors)
        caption = "Classes by split. A class that is absent from training can not be learnt."
        blocks.append(Figure(image=figure, caption=caption, alt="shares of classes by split"))
    rows: list[list[Cell]] = [
        [split, entry["places"], entry["samples"], _share(entry["labelled_share"]), _share(entry["no_data_share"])]
        for split, entry in splits.items()
    ]
    columns = ["split", "places", "seasons of places", "labelled pixels, %", "no data, %"]
    words = blocks_in_words(report["split_blocks"])
    caption = f"A pixel has no data where any sensor has none. {_truth(report)} {words}".strip()
    return Section(heading="Splits and classes", blocks=[*blocks, Table(columns=columns, rows=rows, caption=caption)])


def _truth(report: Mapping[str, Any]) -> str:
    count = report["places_with_truth"]
    return f"{count} places have exact labels besides." if count else "No place has exact labels besides."


def _share(share: float | None, digits: int = 1) -> Estimate:
    return Estimate(mean=None if share is None else 100 * share, digits=digits)


def _shifts(report: Mapping[str, Any], statistics: SetStatistics) -> Iterator[Section]:
    if not report["shifts"]:
        return
    blocks: list[Block] = [
        Text(
            text="How far images and maps lie apart although their grids agree, from where their edges fit best. Only "
            "places count where one shift stands out clearly: open water, even forest and straight borders show none. "
            f"From {ALARM_PX:g} px on a place is said to be shifted."
        ),
        Table(
            columns=["pair", "tried", "measurable", "shifted", "down", "right", "length", "length, 95 %", "together"],
            rows=[_shift_row(_pair(kind, statistics), entry) for kind, entry in report["shifts"].items()],
            caption="In px. Down, right and length: the median of the measurable places; ± half of its 95 % interval. "
            "Length, 95 %: 95 of 100 measurable places lie off by less. Together: down and right of the one shift "
            "that all places show at once, which can be measured where single places are too small.",
        ),
    ]
    shown = {_pair(kind, statistics): entry["places"] for kind, entry in report["shifts"].items() if entry["places"]}
    if shown:
        figure = offsets_figure(shown, circle=ALARM_PX, x_label="px to the right", y_label="px down")
        caption = f"Each dot is a place. Inside the circle of {ALARM_PX:g} px none is said to be shifted."
        blocks.append(Figure(image=figure, caption=caption, alt="shifts of single places"))
    farthest = [example for example in statistics.farthest.things() if _length(example) >= ALARM_PX]
    if farthest:
        text = (
            "The places that lie farthest off. The last picture shows how well the second raster fits where it is "
            "looked for, up to 18 px to each side: bright is good, the cross marks no shift."
        )
        blocks += [Text(text=text), _gallery(farthest, statistics)]
    yield Section(heading="Shifts", blocks=blocks)


def _length(example: Example) -> float:
    return 0.0 if example.shift is None else example.shift.shift.length


def _shift_row(title: str, entry: Mapping[str, Any]) -> list[Cell]:
    axes = []
    for axis in ("rows", "columns"):
        low, high = entry[axis]["low"], entry[axis]["high"]
        interval = None if low is None else (high - low) / 2
        axes.append(Estimate(mean=entry[axis]["median"], interval=interval, digits=2))
    lengths = [Estimate(mean=entry[name], digits=2) for name in ("length_median", "length_percentile_95")]
    together = entry["together"]
    joint = "not measurable"
    if together is not None:
        joint = ", ".join(f"{round(together[axis], 2) + 0.0:.2f}" for axis in ("rows", "columns"))  # no "-0.00"
    counts = [entry[name] for name in ("measured", "measurable", "shifted")]
    return [title, *counts, *axes, *lengths, joint.replace("-", "−")]


def _bands(report: Mapping[str, Any], statistics: SetStatistics) -> Section:
    """One figure a sensor and product, and what the pixels say of the product."""
    blocks: list[Block] = []
    for entry in report["images"]:
        counts = statistics.counts[entry["sensor"], entry["product"]]
        known = statistics.definitions[entry["sensor"]]
        title = known.label(entry["product"])
        published = {
            row["band"]: (row["published_mean"], row["published_std"])
            for row in entry["bands"]
            if row["published_mean"] is not None
        }
        figure = ridges_figure(
            dict(zip(counts.bands, counts.histogram_BN, strict=True)),
            bin_edges(known),
            marks=published,
            x_label=f"{entry['unit']}, {title}",
        )
        marks = "Dot and line: published mean ± 1 std of the product. " if published else ""
        caption = f"{title}, {entry['images']} images. {marks}{_signs(entry)}"
        blocks.append(Figure(image=figure, caption=caption.strip(), alt=f"values of the bands of {title}"))
    return Section(heading="Bands", blocks=blocks)


def _signs(entry: Mapping[str, Any]) -> str:
    """What the images of one Sentinel-2 product look like, in words; nothing for another sensor."""
    if "looks_like" not in entry:
        return ""
    looks = ", ".join(
        f"{count} can not be told" if look == "unknown" else f"{count} look like {look}"
        for look, count in entry["looks_like"].items()
    )
    cirrus = entry["cirrus_share"]
    clouds = (
        "Without B10 nothing is said of clouds." if cirrus is None else f"Cirrus (B10 > 120 DN): {100 * cirrus:.1f} %."
    )
    return f"By their pixels {looks}; {entry['looks_offset_by_1000']} look as if 1000 DN were added. {clouds}"


def _seasons(report: Mapping[str, Any], legend: Legend) -> Iterator[Section]:
    changes = report["season_changes"]
    if changes is None:
        return
    shares = [entry["changing_share"] for entry in changes["classes"].values()]
    figure = bars_figure(
        {"changes": [None if share is None else 100 * share for share in shares]},
        readable(legend),
        x_label="pixels with another label in another season, %",
        colors=legend.colors,
    )
    names = dict(zip(legend.names, readable(legend), strict=True))
    mostly = [
        f"{names[name]} to {names[entry['mostly_to']]}"
        for name, entry in changes["classes"].items()
        if entry["mostly_to"] is not None
    ]
    text = (
        f"{100 * changes['changing_share']:.1f} % of the pixels of {changes['places']} places have another label in "
        "another season. Land changes little within a year: what differs is mostly error of the labels, except for "
        "crops, snow and floods. Most often: " + ", ".join(mostly) + "."
    )
    drawing = Figure(image=figure, caption="By class.", alt="labels that change between seasons")
    yield Section(heading="Seasons", blocks=[Text(text=text), drawing])


def _left_out(report: Mapping[str, Any]) -> Section:
    """Everything that is not in the store as it was in the files, and why."""
    counted = {
        "scenes refused": len(report["refusals"]),
        "places or seasons without partners": len(report["orphans"]),
        "scenes that the table of splits does not name": len(report["scenes_without_split"]),
        "ids of that table without a scene": len(report["split_ids_without_scene"]),
        **{f"patches {reason}": count for reason, count in report["patches_left_out"].items()},
        "pixels that fill no patch": report["pixels_left_over"],
        "labels ignored, in another split than their patch": report["labels_outside_split"],
        "scenes without georeference (kept)": report["scenes_without_georeference"],
        **report["changed"],
    }
    rows: list[list[Cell]] = [[what, count] for what, count in counted.items() if count]
    blocks: list[Block] = [Table(columns=["what", "count"], rows=rows)] if rows else [Text(text="Nothing.")]
    if report["refusals"]:
        refused: list[list[Cell]] = [
            [row["id"], row["what"], row.get("got", ""), row.get("where", "")] for row in report["refusals"][:_LISTED]
        ]
        caption = _listed(len(refused), len(report["refusals"]))
        blocks.append(Table(columns=["scene", "what", "got", "in"], rows=refused, caption=caption))
    if report["orphans"]:
        orphans: list[list[Cell]] = [
            [row["id"], row["season"], ", ".join(row["missing"]), ", ".join(row["found"])]
            for row in report["orphans"][:_LISTED]
        ]
        caption = _listed(len(orphans), len(report["orphans"]))
        blocks.append(Table(columns=["place", "season", "lacks", "has"], rows=orphans, caption=caption))
    return Section(heading="Left out", blocks=blocks)


def _listed(shown: int, total: int) -> str:
    return "" if shown == total else f"The first {shown} of {total}; the JSON file has all."
