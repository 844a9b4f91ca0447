"""From somebody's folders to a training store: everything is read once, checked and written, and refused as a whole.

In: a `PrepareConfig`. Out: a finished store, with `prepare-report.json` inside it, and the same report as a dict.
A scene is used whole or not at all. Whatever is left out is counted and listed: orphans (files without partners),
refusals (scenes with an error), patches without labels, labels outside the split of their patch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from cromss.config import PrepareConfig
from cromss.data.batches import Batch, batch_shards_in, make_batches
from cromss.data.preparation import Preparation, Prepared, prepare_batch, write_batch
from cromss.data.sensor_section import plan_sensors
from cromss.data.sources.layouts import Opening, settled
from cromss.data.sources.source import Scene, Source
from cromss.data.splits import draw_split, read_split_table, require_split_values
from cromss.data.store.layout import META_FILE, SHARD_FOLDER
from cromss.data.store.writer import finish_store, remove_unfinished
from cromss.data.survey.annotator_counts import summarize_annotators
from cromss.data.survey.clouds import summarize_clouds, told_by
from cromss.data.survey.findings import findings
from cromss.data.survey.scene_survey import Survey, refusal, refusal_row, refuse_other_bands, summarize
from cromss.data.survey.set_statistics import SetStatistics, StatisticsByListing
from cromss.data.survey.shift_survey import require_limit
from cromss.data.survey.split_survey import drawn_blocks, too_near
from cromss.errors import ConfigError, CromssError, MissingDataError, StoreError
from cromss.files import read_json, write_json
from cromss.geo.bands import SENSORS
from cromss.geo.legends import get_legend
from cromss.workers import Each, open_workers, require_workers

__all__ = ["REPORT_FILE", "prepare"]

REPORT_FILE = "prepare-report.json"
_BEGUN_FILE = "prepare-begun.json"
_FIGURES = ("images", "shifts", "season_changes", "scaling")  # of the report alone: a store is opened often
_LISTS = ("findings", "shifted_places", "orphans", "refusals", "scenes_without_split", "split_ids_without_scene")

_MEANS = ("out", "workers", "dask_scheduler")  # settings that change nothing in a store
_UNDER_WAY = 32  # batches that are handed out and not yet counted, at most

T = TypeVar("T")
Draw = Callable[[SetStatistics, Mapping[str, Any], Path], object]


def prepare(config: PrepareConfig, draw: Draw | None = None) -> dict[str, Any]:
    """Check every scene, then write the store; return the report (JSON types).

    draw: turns statistics and report into further files, in the folder of the store, before the store is finished.
    Raises StoreError when `out` is a finished store; ConfigError and MissingDataError for patterns or splits that lead
    nowhere; and, unless `on_bad` is "skip", a DataError that lists every scene that can not be used.
    """
    require_workers(config.workers, config.dask_scheduler, root=config.root, out=config.out)
    require_limit(config.max_shift)
    if config.shift_samples < 0:
        raise ConfigError("shift_samples is out of range", got=config.shift_samples, expected="0 for none, or more")
    require_split_values(config.split_values)
    out = Path(config.out)
    if (out / META_FILE).exists():
        (out / _BEGUN_FILE).unlink(missing_ok=True)  # of a run that was killed in its last moment
        raise StoreError("a finished store is there already", where=out, do="choose another out, or delete that store")
    table = _split_table(config)
    preparation = Preparation(settled(_opening(config, table)))
    source, settings = preparation.source, _settings(config)
    scenes = [scene for scene in source.scenes if table is None or scene.id in table]
    _require_splits(config, source, scenes, table)
    preparation.builder()  # refuses settings that no store can have
    _begin(out, settings, source)
    remove_unfinished(out)
    with open_workers(config.workers, config.dask_scheduler) as each:
        surveys, prepared, collected = _read_all(preparation, scenes, each)
        late = refuse_other_bands(surveys, {name: one.title for name, one in preparation.opening.definitions.items()})
        refused = [survey for survey in surveys if survey.error is not None]
        try:
            if refused and (config.on_bad == "stop" or len(refused) == len(surveys)):
                raise refusal(refused, len(surveys))
            used = [survey for survey in surveys if survey.error is None]
            statistics = collected.of(survey.listing for survey in used)
            figures = _figures(preparation, used, statistics)
        except CromssError:
            _discard(out)
            raise
        shards = _shards(preparation, prepared, late, each)
    known = {scene.id for scene in source.scenes}
    report = {
        "findings": findings(figures),
        **figures,
        "orphans": [dataclasses.asdict(orphan) for orphan in source.orphans],
        "refusals": [refusal_row(survey) for survey in refused],
        "scenes_without_split": [scene.id for scene in source.scenes if table is not None and scene.id not in table],
        "split_ids_without_scene": sorted(set(table or ()) - known),
        "settings": settings,
    }
    _finish(preparation, shards, report, statistics, draw)
    _print(report, out)
    return report


def _opening(config: PrepareConfig, table: Mapping[str, str] | None) -> Opening:
    plans = plan_sensors(config)
    return Opening(
        config=config,
        legend=get_legend(config.legend),
        bands={name: plan.keep for name, plan in plans.items()},
        split_of=functools.partial(_split_of, config, table),
        by_table=table is not None,
        definitions={**SENSORS, **{name: plan.sensor for name, plan in plans.items()}},
        patterns={name: plan.files for name, plan in plans.items() if plan.files is not None},
    )


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """All that decides what a store holds."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _MEANS}


def _figures(preparation: Preparation, used: Sequence[Survey], statistics: SetStatistics) -> dict[str, Any]:
    """The figures of the report. Raises errors of the fitting kind for what only the whole set shows."""
    opening = preparation.opening
    _require_ids_differ(used)
    return {
        **summarize(used, opening.legend),
        **statistics.summary(),
        **summarize_annotators((one.annotators for one in used), opening.legend, opening.annotators, opening.soft),
        "clouds": summarize_clouds((one.clouds for one in used), opening.config.mask_clouds),
        "split_blocks": drawn_blocks(opening.blocks, used),
    }


def _read_all(
    preparation: Preparation, scenes: Sequence[Scene], each: Each
) -> tuple[list[Survey], list[Prepared], StatisticsByListing]:
    """Read every scene that is not refused from headers, and write its records; surveys of all come first."""
    opening = preparation.opening
    near = too_near(preparation, scenes, each)
    ids = {survey.scene.id for survey in near}
    statistics = SetStatistics(
        bands={name: tuple(kept) for name, kept in opening.bands.items()},
        definitions=opening.definitions,
        legend=opening.legend,
        shift_samples=opening.config.shift_samples,
        seasons=sum(len(scene.seasons) for scene in scenes),
        max_shift=opening.config.max_shift,
    )
    clear = [scene for scene in scenes if scene.id not in ids]
    batches = make_batches(preparation.source, clear, opening.config.shard_places)
    prepared, collected = _read(preparation, batches, statistics, each)
    return [*near, *(survey for one in prepared for survey in one.surveys)], prepared, collected


def _read(
    preparation: Preparation, batches: Sequence[Batch], statistics: SetStatistics, each: Each
) -> tuple[list[Prepared], StatisticsByListing]:
    """Read every scene once, and write its records.

    The statistics of a batch depend a little on what was counted before it was handed out (`StatisticsByListing.part`):
    always all but the last `_UNDER_WAY` batches, so that they are the same for any number of workers.
    """
    prepared: list[Prepared] = []
    collected = StatisticsByListing(empty=statistics)
    uncounted: deque[StatisticsByListing] = deque()

    def handed_out() -> Iterator[tuple[Batch, SetStatistics]]:
        for number, batch in enumerate(batches):
            if number >= _UNDER_WAY:
                collected.merge(uncounted.popleft())
            yield batch, collected.part()

    results = each(prepare_batch, preparation, handed_out(), ahead=_UNDER_WAY)
    for one, found in _progress(results, len(batches), "preparing"):
        prepared.append(one)
        uncounted.append(found)
    for found in uncounted:
        collected.merge(found)
    return prepared, collected


def _shards(
    preparation: Preparation, prepared: Sequence[Prepared], late: Sequence[Survey], each: Each
) -> dict[str, str | None]:
    """All shards in their order; batches with a scene that was refused after they were written are written anew."""
    ids = {survey.scene.id for survey in late}
    again = [one for one in prepared if any(survey.scene.id in ids for survey in one.surveys)]
    for one, shards in zip(again, each(write_batch, preparation, again), strict=True):
        one.shards = shards
    return {name: total for one in prepared for name, total in one.shards.items()}


def _finish(
    preparation: Preparation,
    shards: Mapping[str, str | None],
    report: Mapping[str, Any],
    statistics: SetStatistics,
    draw: Draw | None,
) -> None:
    """Write the report, its page, and what makes the shards a store."""
    out = preparation.out
    write_json(out / REPORT_FILE, report)
    if draw is not None:
        draw(statistics, report, out)
    counts = {name: len(report[name]) for name in _LISTS}
    kept = {name: value for name, value in report.items() if name not in _FIGURES} | counts
    finish_store(out, preparation.builder().settings, shards, kept, statistics.scaling())
    (out / _BEGUN_FILE).unlink()


def _discard(out: Path) -> None:
    """Take back a store that was begun and cannot be; what others put into its folder stays."""
    for shard in batch_shards_in(out):
        shard.unlink()
    (out / REPORT_FILE).unlink(missing_ok=True)
    (out / _BEGUN_FILE).unlink()
    for folder in (out / SHARD_FOLDER, out):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _require_ids_differ(used: Iterable[Survey]) -> None:
    seen: set[str] = set()
    for survey in used:
        for name in survey.ids:
            if name in seen:
                raise StoreError("a place id comes twice", got=name, expected="each id once", where=survey.scene.id)
            seen.add(name)


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
    elif any((out / SHARD_FOLDER).glob("*")):
        raise StoreError(
            "the folder holds shards of which nothing says where they come from",
            got=out / SHARD_FOLDER,
            expected="no shards, or those of a preparing that was interrupted",
            do="delete that folder, or choose another out",
        )
    else:
        write_json(out / _BEGUN_FILE, begun)


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
    drawn = config.validation_share + config.test_share
    wanted = {"validation": config.validation_share > 0, "test": config.test_share > 0, "train": 0 < drawn < 1}
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
            do="make the ids of the table those of the files"
            if table
            else "give smaller shares, change the seed, or draw blocks of ground (tile and split_blocks)"
            if split == "train"
            else f"raise {split}_share or change the seed",
        )
    if not scenes:
        raise MissingDataError(
            "no scene is in the table of splits", got="0 scenes", where=f"{config.root}/{config.split}"
        )


def _progress(items: Iterable[T], total: int, title: str) -> Iterable[T]:
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    return track(items, total=total, description=title, console=console, disable=hidden, transient=True)


def _print(report: Mapping[str, Any], out: Path) -> None:
    lines = [
        f"{out}: {report['places']} places, {report['samples']} samples from {report['scenes']} scenes",
        f"left out: {len(report['orphans'])} orphans, {len(report['refusals'])} refused scenes, "
        f"{sum(report['patches_left_out'].values())} patches, {report['labels_outside_split']} labels of other splits",
    ]
    if unnamed := report["scenes_without_split"]:
        lines.append(f"not in the table of splits, and so left out: {len(unnamed)} scenes, such as {unnamed[0]}")
    if strange := report["split_ids_without_scene"]:
        lines.append(f"only in the table of splits: {len(strange)} ids, such as {strange[0]}")
    if report["changed"]:
        changed = ", ".join(f"{count} {what}" for what, count in report["changed"].items())
        lines.append(f"changed: {changed}")
    for split, count in report["splits"].items():
        shares = ", ".join(f"{name} {share:.1%}" for name, share in count["class_shares"].items() if share)
        held = f"{count['places']} places, no data {count['no_data_share']:.1%}; {shares or 'no labels'}"
        lines.append(f"{split or 'no split'}: {held}")
    for split, entry in report["clouds"].get("splits", {}).items():
        if entry["cloud_share"] is not None:
            lines.append(
                f"{split or 'no split'}: {entry['cloud_share']:.1%} under cloud by {told_by(report['clouds'])}"
            )
    for name, entry in report.get("annotators", {}).items():
        given = "labels and probabilities" if entry["probabilities"] else "labels"
        lines.append(f"{name}: {given} in {entry['places']} places, none in {entry['places_without']}")
    for entry in report.get("agreement", []):
        if entry["share"] is not None:
            lines.append(f"{' and '.join(entry['annotators'])} agree on {entry['share']:.1%} of {entry['pixels']:,} px")
    lines += [f"look: {finding['what']}. {finding['do']}" for finding in report["findings"]]
    Console(soft_wrap=True, highlight=False, markup=False).print("\n".join([*lines, f"more in {out / REPORT_FILE}"]))
