"""From somebody's folders to a training store: everything is read and checked before anything is written.

In: a `PrepareConfig`. Out: a finished store, with `prepare-report.json` inside it, and the same report as a dict.
A scene is used whole or not at all. Whatever is left out is counted and listed: orphans (files without partners),
refusals (scenes with an error), patches without labels, labels outside the split of their patch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from cromss.config import PrepareConfig
from cromss.data.findings import findings
from cromss.data.set_statistics import SetStatistics, StatisticsByListing
from cromss.data.sources.layouts import Opening, open_source
from cromss.data.sources.source import Scene, Source
from cromss.data.splits import draw_split, read_split_table
from cromss.data.store import StoreWriter
from cromss.data.store_layout import META_FILE
from cromss.data.survey import Survey, refusal, refusal_row, refuse_other_bands, summarize, survey_scene
from cromss.errors import ConfigError, MissingDataError, StoreError
from cromss.files import read_json, write_json
from cromss.geo.bands import SENSORS, resolve_bands
from cromss.geo.legend import Legend, get_legend

__all__ = ["REPORT_FILE", "prepare"]

REPORT_FILE = "prepare-report.json"
_BEGUN_FILE = "prepare-begun.json"
_FIGURES = ("images", "shifts", "season_changes")  # of the report alone: a store is opened often
_LISTS = ("findings", "shifted_places", "orphans", "refusals", "scenes_without_split", "split_ids_without_scene")

T = TypeVar("T")
Draw = Callable[[SetStatistics, Mapping[str, Any], Path], object]


def prepare(config: PrepareConfig, draw: Draw | None = None) -> dict[str, Any]:
    """Check every scene, then write the store; return the report (JSON types).

    draw: turns statistics and report into further files, in the folder of the store, before the store is finished.
    Raises StoreError when `out` is a finished store; ConfigError and MissingDataError for patterns or splits that lead
    nowhere; and, unless `on_bad` is "skip", a DataError that lists every scene that can not be used.
    """
    out = Path(config.out)
    if (out / META_FILE).exists():
        raise StoreError("a finished store is there already", where=out, do="choose another out, or delete that store")
    legend, bands = get_legend(config.legend), _bands(config)
    table = _split_table(config)
    opening = Opening(
        config=config,
        legend=legend,
        bands=bands,
        split_of=functools.partial(_split_of, config, table),
        by_table=table is not None,
    )
    source = open_source(opening)
    scenes = [scene for scene in source.scenes if table is None or scene.id in table]
    _require_splits(config, source, scenes, table)

    statistics = SetStatistics(bands=bands, legend=legend, shift_samples=config.shift_samples)
    surveys, collected = _survey(source, scenes, statistics)
    refuse_other_bands(surveys)
    refused = [survey for survey in surveys if survey.error is not None]
    if refused and (config.on_bad == "stop" or len(refused) == len(surveys)):
        raise refusal(refused, len(surveys))
    used = [survey for survey in surveys if survey.error is None]
    statistics = collected.of(survey.listing for survey in used)
    figures = {**summarize(used, legend), **statistics.summary()}
    report = {
        "findings": findings(figures),
        **figures,
        "orphans": [dataclasses.asdict(orphan) for orphan in source.orphans],
        "refusals": [refusal_row(survey) for survey in refused],
        "scenes_without_split": [scene.id for scene in source.scenes if table is not None and scene.id not in table],
        "split_ids_without_scene": sorted(set(table or ()) - {scene.id for scene in source.scenes}),
        "settings": {name: value for name, value in dataclasses.asdict(config).items() if name != "out"},
    }
    _write(config, source, used, report, legend, bands, draw=functools.partial(draw, statistics) if draw else None)
    _print(report, out)
    return report


def _survey(
    source: Source, scenes: Sequence[Scene], statistics: SetStatistics
) -> tuple[list[Survey], StatisticsByListing]:
    """Read every scene once; scenes with an error do not count in the statistics."""
    surveys, collected = [], StatisticsByListing(empty=statistics)
    for scene in _progress(scenes, "checking"):
        part = collected.part()
        surveys.append(survey_scene(source, scene, part))
        if surveys[-1].error is None:
            collected.add(surveys[-1].listing, part)
    return surveys, collected


def _write(
    config: PrepareConfig,
    source: Source,
    used: Sequence[Survey],
    report: Mapping[str, Any],
    legend: Legend,
    bands: Mapping[str, tuple[str, ...]],
    draw: Callable[[Mapping[str, Any], Path], object] | None,
) -> None:
    """Write the records that were surveyed; after a kill, go on after the last whole shard."""
    out = Path(config.out)
    _begin(out, report["settings"], source)
    writer = StoreWriter(out, legend=legend, sensors=bands, edition=config.edition, shard_places=config.shard_places)
    for survey in _progress(used, "writing"):
        if survey.ids <= writer.done:
            continue
        for record in source.records(survey.scene):
            if record.id not in writer.done:
                writer.add(record)
    write_json(out / REPORT_FILE, report)
    if draw is not None:
        draw(report, out)
    counts = {name: len(report[name]) for name in _LISTS}
    (out / _BEGUN_FILE).unlink()
    writer.finish({name: value for name, value in report.items() if name not in _FIGURES} | counts)


def _begin(out: Path, settings: Mapping[str, Any], source: Source) -> None:
    """Refuse to go on with a store that was begun with other settings, or from files that have changed since."""
    states = hashlib.sha256()
    for scene in source.scenes:
        for path in source.files(scene):
            facts = path.stat()
            states.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    begun = {"settings": settings, "files": states.hexdigest()}
    if (out / _BEGUN_FILE).exists():
        before = read_json(out / _BEGUN_FILE)
        if before != begun:
            same = isinstance(before, dict) and before.get("settings") == settings
            raise StoreError(
                "a store was begun here from " + ("files that have changed since" if same else "other settings"),
                got=None if same else settings,
                expected=None if same or not isinstance(before, dict) else before.get("settings"),
                where=out,
                do="delete that folder, or choose another out",
            )
    else:
        write_json(out / _BEGUN_FILE, begun)


def _bands(config: PrepareConfig) -> dict[str, tuple[str, ...]]:
    asked = {"s1": config.s1_bands, "s2": config.s2_bands}
    return {sensor: resolve_bands(sensor, asked[sensor]) for sensor in SENSORS if getattr(config, sensor) is not None}


def _split_table(config: PrepareConfig) -> dict[str, str] | None:
    if config.split is None:
        return None
    if config.validation_share or config.test_share:
        raise ConfigError(
            "a split and shares exclude each other",
            got=f"split {config.split}, validation_share {config.validation_share}, test_share {config.test_share}",
            expected="one of them",
            do="set the shares to 0, or leave split out",
        )
    return read_split_table(Path(config.root) / config.split) if config.split.endswith(".csv") else None


def _split_of(config: PrepareConfig, table: Mapping[str, str] | None, place: str) -> str:
    if table is not None:
        return table[place]
    return draw_split(place, config.seed, config.validation_share, config.test_share)


def _require_splits(
    config: PrepareConfig, source: Source, scenes: Sequence[Scene], table: Mapping[str, str] | None
) -> None:
    """A split that was asked for must not be empty; where only pixels tell, the report counts splits instead."""
    wanted = {"validation": config.validation_share > 0, "test": config.test_share > 0}
    asked = set(table.values()) if table is not None else {split for split, is_wanted in wanted.items() if is_wanted}
    present = {source.split(scene) for scene in scenes}
    if None in present:
        return
    for split in sorted(asked - present):
        raise MissingDataError(
            f"the {split} split is empty",
            got=f"{len(scenes)} scenes, none of them in {split}",
            expected="at least one",
            where=f"{config.root}, split {config.split}, shares {config.validation_share} and {config.test_share}",
            do="make the ids of the table those of the files" if table else f"raise {split}_share or change the seed",
        )
    if not scenes:
        raise MissingDataError(
            "no scene is in the table of splits", got="0 scenes", where=f"{config.root}/{config.split}"
        )


def _progress(items: Sequence[T], title: str) -> Iterable[T]:
    console = Console(stderr=True)
    return track(items, description=title, console=console, disable=not sys.stderr.isatty(), transient=True)


def _print(report: Mapping[str, Any], out: Path) -> None:
    lines = [
        f"{out}: {report['places']} places, {report['samples']} samples from {report['scenes']} scenes",
        f"left out: {len(report['orphans'])} orphans, {len(report['refusals'])} refused scenes, "
        f"{sum(report['patches_left_out'].values())} patches, {report['labels_outside_split']} labels of other splits",
    ]
    if report["changed"]:
        changed = ", ".join(f"{count} {what}" for what, count in report["changed"].items())
        lines.append(f"changed: {changed}")
    for split, count in report["splits"].items():
        shares = ", ".join(f"{name} {share:.1%}" for name, share in count["class_shares"].items() if share)
        held = f"{count['places']} places, no data {count['no_data_share']:.1%}; {shares or 'no labels'}"
        lines.append(f"{split or 'no split'}: {held}")
    lines += [f"look: {finding['what']}. {finding['do']}" for finding in report["findings"]]
    Console(soft_wrap=True, highlight=False, markup=False).print("\n".join([*lines, f"more in {out / REPORT_FILE}"]))
