"""`cromss labels`: noisy label maps for a folder of images, and a report of what was labelled and what was not.

In: a `LabelsConfig`. Out: the files of `cromss.data.labelling.output`, labels-report.json, and the report as a dict.
Files that exist are never written over: the command stops, or keeps them and makes the rest. Each image is labelled by
one worker, alone; files and report are the same for any number of workers, and after any number of interruptions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from cromss.config import LabelsConfig
from cromss.data.labelling.agreement import Annotators, distinct_votes, fit_annotators, shares_right
from cromss.data.labelling.fusing import vote_counter
from cromss.data.labelling.image_labeller import ImageFile, Labeller
from cromss.data.labelling.labellers import make_labeller
from cromss.data.labelling.output import label_paths, write_label_map
from cromss.data.labelling.soft import LabelMap, drop_unsure
from cromss.data.labelling.tally import NOTES, Tally, tally_files, tally_map
from cromss.data.sources.file_patterns import find_files
from cromss.errors import ConfigError, DataError, LabelError
from cromss.files import read_json, write_json
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import get_legend
from cromss.workers import Each, open_workers, require_workers

__all__ = ["REPORT_FILE", "label"]

REPORT_FILE = "labels-report.json"
_BEGUN_FILE = "labels-begun.json"

_MEANS = ("out", "on_existing", "on_bad", "workers", "dask_scheduler")  # settings that change no label
_PATHS = ("root", "out", "polygons", "tags", "maps", "remap", "stac")  # that workers of other machines look for
_NEIGHBOURS = 4  # images that one worker labels one after the other

T = TypeVar("T")

# setting -> the sources that look at it; the other settings are everybody's
_OF_SOURCE: Mapping[str, tuple[str, ...]] = {
    "s2_product": ("rules",),
    "s2_offset": ("rules",),
    "band_names": ("rules",),
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


@dataclasses.dataclass(frozen=True, eq=False)
class Labelling:
    """What labels an image, in any process: another that is sent it opens the source anew."""

    config: LabelsConfig
    legend: Legend
    fitted: Annotators | None = None

    @cached_property
    def labeller(self) -> Labeller:
        return make_labeller(self.config, self.legend, self.fitted)

    @cached_property
    def counter(self) -> Callable[[ImageFile], Counter[int]]:
        return vote_counter(self.config, self.legend)

    def __reduce__(self) -> tuple[type[Labelling], tuple[object, ...]]:
        """Open files and connections stay behind."""
        return (Labelling, (self.config, self.legend, self.fitted))


def label(config: LabelsConfig) -> dict[str, Any]:
    """Label every image that the settings name; write the maps and the report, and return it (JSON types).

    Raises ConfigError and MissingDataError for settings that lead nowhere or files that exist, and, unless `on_bad` is
    "skip", the DataError of the first image that cannot be labelled; maps written before it stay.
    """
    _require_settings(config)
    legend = get_legend(config.legend)
    found = find_files("images", str(Path(config.root) / config.images))
    images = [ImageFile(id=place, season=season, path=path) for (place, season), path in sorted(found.items(), key=str)]
    kept = _kept(config, images)
    wanted = [image for image in images if _name(image) not in kept]
    tally, refused = Tally(), []
    facts: dict[str, Any] = {}
    with open_workers(config.workers, config.dask_scheduler) as each:
        labelling = Labelling(config, legend)
        if config.fuse_by == "dawid_skene" and config.source == "fuse":
            labelling, facts = _fit(labelling, images, each)
        _ = labelling.labeller  # settings that lead nowhere are found here, once
        with _begun(config, kept):
            for made in _progress(each(label_image, labelling, wanted, together=_NEIGHBOURS), len(wanted), "labelling"):
                if isinstance(made, Tally):
                    tally.merge(made)
                else:
                    refused.append(made)
            if wanted and len(refused) == len(wanted):
                rows = ["", *(row["text"] for row in refused[:20])]
                raise DataError("no image can be labelled", got="\n    ".join(rows))
    report = _report(config, legend, tally, len(wanted) - len(refused), refused, len(kept)) | {"facts": facts}
    write_json(Path(config.out) / REPORT_FILE, report)
    (Path(config.out) / _BEGUN_FILE).unlink(missing_ok=True)
    _print(report, Path(config.out))
    return report


def label_image(labelling: Labelling, image: ImageFile) -> Tally | dict[str, str]:
    """Label one image, unless an interrupted run has: the sums of its map, or the refusal where `on_bad` is "skip"."""
    config = labelling.config
    paths = label_paths(config.out, image.id, image.season)
    if paths["labels"].exists():
        return tally_files(paths)
    try:
        labelled, grid = labelling.labeller(image)
        labelled = drop_unsure(labelled, config.min_confidence)
        _require_labels(labelled, image)
    except DataError as error:
        if config.on_bad == "stop":
            raise
        return {"image": str(image.path), "error": type(error).__name__, "text": str(error)}
    tags = {"LABEL_SOURCE": config.source, "IMAGE": image.path.name, NOTES: json.dumps(labelled.notes)}
    write_label_map(paths, labelled, grid, labelling.legend, tags, config.write_probabilities)
    return tally_map(labelled)


def count_image(labelling: Labelling, image: ImageFile) -> Counter[int]:
    """The votes of the maps to fuse in one image."""
    return labelling.counter(image)


def _fit(labelling: Labelling, images: Sequence[ImageFile], each: Each) -> tuple[Labelling, dict[str, Any]]:
    """A first pass over all images, those with labels too, so that the fit is the same whatever is there already."""
    config, counts = labelling.config, Counter[int]()
    _ = labelling.counter
    for counted in _progress(each(count_image, labelling, images, together=_NEIGHBOURS), len(images), "fitting"):
        counts.update(counted)
    fitted = fit_annotators(*distinct_votes(counts, len(config.fuse)), labelling.legend.num_classes)
    shares = dict(zip(config.fuse, shares_right(fitted), strict=True))
    return Labelling(config, labelling.legend, fitted), {"share right by the fit": shares}


def _name(image: ImageFile) -> str:
    return f"{image.id}/{image.season}"


def _kept(config: LabelsConfig, images: Sequence[ImageFile]) -> set[str]:
    """The names of the images whose labels are kept as they are: those that were there before this work was begun.

    A run that was interrupted left its settings and that list behind; what it made counts as made now. Raises
    ConfigError for labels that exist, unless they shall be kept, and for those of an interrupted run of other settings.
    """
    there = [image for image in images if label_paths(config.out, image.id, image.season)["labels"].exists()]
    if there and config.on_existing == "stop":
        example = label_paths(config.out, there[0].id, there[0].season)["labels"]
        raise ConfigError(
            "label maps exist already",
            got=f"{len(there)} of {len(images)}, such as {example}",
            where=config.out,
            do="choose another out, delete them, or keep them and make the rest with on_existing=keep",
        )
    path, names = Path(config.out) / _BEGUN_FILE, set(map(_name, there))
    before = read_json(path) if path.exists() else None
    if not isinstance(before, dict):
        return names
    kept = names & set(before.get("kept", ()))
    now, then = _settings(config), before.get("settings")
    if names != kept and now != then:
        differing = [name for name in now if not isinstance(then, dict) or then.get(name) != now[name]]
        raise ConfigError(
            "labels were begun here with other settings",
            got={name: now[name] for name in differing},
            expected={name: then[name] for name in differing} if isinstance(then, dict) else then,
            where=config.out,
            do="go on with those settings, or delete that folder, or choose another out",
        )
    return kept


@contextlib.contextmanager
def _begun(config: LabelsConfig, kept: set[str]) -> Iterator[None]:
    """Leave behind what `_kept` asks for, should this run be interrupted; nothing where nothing was made."""
    out = Path(config.out)
    new = not out.exists()
    write_json(out / _BEGUN_FILE, {"settings": _settings(config), "kept": sorted(kept)})
    try:
        yield
    except BaseException:
        if new and not any((out / "labels").glob("*")):
            (out / _BEGUN_FILE).unlink()
            with contextlib.suppress(OSError):  # not empty
                out.rmdir()
        raise


def _settings(config: LabelsConfig) -> dict[str, Any]:
    """The settings that decide what labels are, in JSON types."""
    chosen = {name: value for name, value in dataclasses.asdict(config).items() if name not in _MEANS}
    settings: dict[str, Any] = json.loads(json.dumps(chosen))
    return settings


def _progress(items: Iterable[T], total: int, title: str) -> Iterable[T]:
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    return track(items, total=total, description=title, console=console, disable=hidden, transient=True)


def _require_settings(config: LabelsConfig) -> None:
    """Refuse settings that the chosen source would not look at, and workers that cannot be had."""
    given = {name: getattr(config, name) for name in _PATHS}
    paths = {name: text for name, text in given.items() if text is not None and "://" not in text}
    require_workers(config.workers, config.dask_scheduler, **paths)
    untouched = type(config)(source=config.source, out=config.out)
    for name, sources in _OF_SOURCE.items():
        if config.source not in sources and getattr(config, name) != getattr(untouched, name):
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


def _report(
    config: LabelsConfig, legend: Legend, tally: Tally, made: int, refused: list[dict[str, str]], kept: int
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
        "settings": _settings(config),
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
