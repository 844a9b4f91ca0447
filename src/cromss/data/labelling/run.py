"""`cromss labels`: noisy label maps for a folder of images, and a report of what was labelled and what was not.

In: a `LabelsConfig`. Out: the files of `cromss.data.labelling.output`, labels-report.json, and the report as a dict.
Files that exist are never written over: the command stops, or keeps them and makes the rest.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cromss.config import LabelsConfig
from cromss.data.labelling.labellers import ImageFile, make_labeller
from cromss.data.labelling.output import label_paths, write_label_map
from cromss.data.labelling.soft import LabelMap, drop_unsure
from cromss.data.sources.file_patterns import find_files
from cromss.errors import ConfigError, DataError, LabelError
from cromss.files import write_json
from cromss.geo.legend import IGNORE, Legend, get_legend

__all__ = ["REPORT_FILE", "label"]

REPORT_FILE = "labels-report.json"

# setting -> the sources that look at it; the other settings are everybody's
_OF_SOURCE: Mapping[str, tuple[str, ...]] = {
    "s2_product": ("rules",),
    "sun_zenith": ("rules",),
    "polygons": ("polygons",),
    "layer": ("polygons",),
    "tags": ("polygons",),
    "overlap": ("polygons",),
    "maps": ("maps",),
    "map_legend": ("maps", "stac", "fuse"),
    "remap": ("maps", "stac", "fuse"),
    "stac": ("stac",),
    "collection": ("stac",),
    "asset": ("stac",),
    "start": ("stac", "earth_engine"),
    "end": ("stac", "earth_engine"),
    "days": ("earth_engine",),
    "project": ("earth_engine",),
    "probabilities": ("probabilities",),
    "fuse": ("fuse",),
    "confidences": ("fuse",),
    "fuse_by": ("fuse",),
    "votes": ("fuse",),
    "write_probabilities": ("rules", "probabilities", "earth_engine"),
}


@dataclasses.dataclass(kw_only=True)
class _Tally:
    """Sums over all images. pixels: of each label 0..255; percent: the sum of confidences; sure: pixels with one."""

    pixels: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    percent: int = 0
    sure: int = 0
    notes: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, labelled: LabelMap) -> None:
        self.pixels += np.bincount(labelled.labels_HW.ravel(), minlength=256)
        self.notes.update(labelled.notes)
        if labelled.confidence_HW is not None:
            known = labelled.confidence_HW[labelled.confidence_HW != IGNORE]
            self.percent += int(known.sum(dtype=np.int64))
            self.sure += known.size


def label(config: LabelsConfig) -> dict[str, Any]:
    """Label every image that the settings name; write the maps and the report, and return it (JSON types).

    Raises ConfigError and MissingDataError for settings that lead nowhere or files that exist, and, unless `on_bad` is
    "skip", the DataError of the first image that cannot be labelled; maps written before it stay.
    """
    _require_settings(config)
    legend = get_legend(config.legend)
    found = find_files("images", str(Path(config.root) / config.images))
    images = [ImageFile(id=place, season=season, path=path) for (place, season), path in sorted(found.items(), key=str)]
    wanted, kept = _without_existing(config, images)
    facts: dict[str, Any] = {}
    labeller = make_labeller(config, legend, images, facts)
    tally, refused = _Tally(), []
    console = Console(stderr=True)
    progress = track(wanted, description="labelling", console=console, disable=not sys.stderr.isatty(), transient=True)
    for image in progress:
        try:
            labelled, grid = labeller(image)
            labelled = drop_unsure(labelled, config.min_confidence)
            _require_labels(labelled, image)
        except DataError as error:
            if config.on_bad == "stop":
                raise
            refused.append({"image": str(image.path), "error": type(error).__name__, "text": str(error)})
            continue
        paths = label_paths(config.out, image.id, image.season)
        tags = {"LABEL_SOURCE": config.source, "IMAGE": image.path.name}
        write_label_map(paths, labelled, grid, legend, tags, config.write_probabilities)
        tally.add(labelled)
    if wanted and len(refused) == len(wanted):
        raise DataError("no image can be labelled", got="\n    ".join(["", *(row["text"] for row in refused[:20])]))
    report = _report(config, legend, tally, len(wanted) - len(refused), refused, kept) | {"facts": facts}
    write_json(Path(config.out) / REPORT_FILE, report)
    _print(report, Path(config.out))
    return report


def _require_settings(config: LabelsConfig) -> None:
    """Refuse settings that the chosen source would not look at."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(config)}
    for name, sources in _OF_SOURCE.items():
        if config.source not in sources and getattr(config, name) != defaults[name]:
            raise ConfigError(
                f"source {config.source} does not look at the setting {name}",
                got=getattr(config, name),
                expected=f"{name} with source {' or '.join(sources)}",
                do="leave it out, or choose that source",
            )
    if not 0 <= config.min_confidence <= 100:
        raise ConfigError("min_confidence is out of range", got=config.min_confidence, expected="0 to 100 percent")
    if config.sun_zenith is not None and not 0 <= config.sun_zenith < 90:
        raise ConfigError("sun_zenith is out of range", got=config.sun_zenith, expected="0 to below 90 degrees")
    if config.votes < 1 or config.days < 0:
        raise ConfigError(
            "votes or days are out of range",
            got=f"votes {config.votes}, days {config.days}",
            expected="1 or more, 0 or more",
        )


def _require_labels(labelled: LabelMap, image: ImageFile) -> None:
    """A label map without a label is of no use to anybody."""
    if (labelled.labels_HW == IGNORE).all():
        counts = ", ".join(f"{text} {count}" for text, count in labelled.notes.items() if count)
        raise LabelError(
            "an image gets no label at all",
            got=counts or "255 in every pixel",
            expected="at least 1 pixel with a class",
            where=image.path,
            do="choose a source that covers the image, or leave such images out with on_bad=skip",
        )


def _without_existing(config: LabelsConfig, images: Sequence[ImageFile]) -> tuple[list[ImageFile], int]:
    """The images whose labels are not there yet, and the number of the others."""
    wanted = [image for image in images if not label_paths(config.out, image.id, image.season)["labels"].exists()]
    if len(wanted) < len(images) and config.on_existing == "stop":
        there = next(image for image in images if image not in wanted)
        example = label_paths(config.out, there.id, there.season)["labels"]
        raise ConfigError(
            "label maps exist already",
            got=f"{len(images) - len(wanted)} of {len(images)}, such as {example}",
            where=config.out,
            do="choose another out, delete them, or keep them and make the rest with on_existing=keep",
        )
    return wanted, len(images) - len(wanted)


def _report(
    config: LabelsConfig, legend: Legend, tally: _Tally, made: int, refused: list[dict[str, str]], kept: int
) -> dict[str, Any]:
    labelled = int(tally.pixels[:IGNORE].sum())
    total = labelled + int(tally.pixels[IGNORE])
    return {
        "source": config.source,
        "legend": legend.to_dict(),
        "images": made,
        "kept": kept,
        "pixels": total,
        "labelled_share": labelled / total if total else None,
        "class_pixels": {name: int(tally.pixels[index]) for index, name in enumerate(legend.names)},
        "mean_confidence_percent": tally.percent / tally.sure if tally.sure else None,
        "notes": dict(tally.notes.most_common()),
        "refusals": refused,
        "settings": {name: value for name, value in dataclasses.asdict(config).items() if name != "out"},
    }


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts as lines: name of the fact and of what it is about, and its value."""
    return [(f"{title}, {name}", f"{share:.1%}") for title, shares in facts.items() for name, share in shares.items()]


def _print(report: Mapping[str, Any], out: Path) -> None:
    labelled = sum(report["class_pixels"].values())
    shares = [f"{name} {count / labelled:.1%}" for name, count in report["class_pixels"].items() if count]
    share = report["labelled_share"]
    sure = report["mean_confidence_percent"]
    lines = [
        f"{out}: labels of {report['images']} images by {report['source']}, {report['kept']} kept, "
        f"{len(report['refusals'])} refused",
        f"labelled {share:.1%}" + (f", mean confidence {sure:.0f} %" if sure is not None else "") if share is not None
        else "nothing new was labelled",
        *([", ".join(shares)] if shares else []),
        *(f"{text}: {value}" for text, value in _flat(report["facts"])),
        *(f"{text}: {count:,}" for text, count in list(report["notes"].items())[:12] if count),
        f"more in {out / REPORT_FILE}",
    ]  # fmt: skip
    Console(soft_wrap=True, highlight=False, markup=False).print("\n".join(lines))
