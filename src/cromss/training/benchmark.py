"""A benchmark: pretraining arms x transfer tasks x paired seeds, to tables with mean, spread and paired differences.

In: a recipe (see `recipe.py`). Out, in one folder: jobs/ (every run with its settings and log), table.json, table.csv
and table.md. Every number of a table goes back to runs that table.json lists, with their seeds and folders.

Scores are fractions 0..1 in JSON and CSV, percent in Markdown. A spread is the sample standard deviation over all runs
of an arm; a difference is over paired runs, with the 95% interval of `statistics.py`, and is called noise where that
interval holds 0.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cromss import __version__
from cromss.config import BenchmarkConfig, PretrainConfig
from cromss.errors import ConfigError
from cromss.files import read_json, write_json
from cromss.training.jobs import THIS_PACKAGE, Job, Place, place_jobs, run_jobs
from cromss.training.recipe import Recipe, pretraining_table, read_recipe
from cromss.training.statistics import Difference, RunKey, Summary, paired_difference, summarize
from cromss.training.tables import write_csv, write_markdown

__all__ = ["Record", "Result", "benchmark", "collect", "plan", "tabulate"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of one run: a fraction 0..1, or a loss."""

    table: str
    arm: str
    metric: str
    key: RunKey
    value: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The tables of a benchmark; `content` is table.json."""

    out: Path
    content: Mapping[str, Any]


def benchmark(config: BenchmarkConfig, *, program: Sequence[str] = THIS_PACKAGE) -> Result:
    """Run what a recipe still lacks, and write table.json, table.csv and table.md into `config.out`.

    `program` runs one job: a module whose `main()` reads the job's own command and `--config FILE` from the command
    line, and modules that are imported once for all jobs.
    Raises ConfigError for a recipe that cannot work, before anything runs, and TrainingError naming the log of a job
    that failed; what had finished stays, and the same command goes on from there.
    """
    recipe = read_recipe(config.recipe, config.root)
    out = Path(config.out)
    jobs = plan(recipe, threads=config.threads)
    places = place_jobs(jobs, out / "jobs")
    say(f"{recipe.title}: {len(jobs)} jobs, {config.jobs} at a time, in {out / 'jobs'}")
    began = time.time()
    run_jobs(jobs, places, at_a_time=config.jobs, threads=config.threads, say=say, program=program)
    content = {
        **tabulate(recipe, list(collect(recipe, places))),
        "version": __version__,
        "seconds": round(time.time() - began, 1),
        "job_seconds": round(sum(place.seconds() for place in places.values()), 1),
        "jobs": {
            name: {"folder": str(place.folder.relative_to(out)), "seconds": place.seconds()}
            for name, place in places.items()
        },
    }
    write_json(out / "table.json", content)
    write_csv(out / "table.csv", content)
    write_markdown(out / "table.md", content)
    say(f"the tables are in {out / 'table.md'}")
    return Result(out=out, content=content)


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# ---- which jobs there are ----


def plan(recipe: Recipe, *, threads: int) -> list[Job]:
    """Every job of a recipe, each behind what it needs."""
    jobs: list[Job] = []
    for data_seed in recipe.data_seeds:
        jobs += _data_jobs(recipe, data_seed, jobs)
        for name in recipe.arms:
            for pretrain_seed in _pretrain_seeds(recipe, name):
                jobs += _arm_jobs(recipe, name, data_seed, pretrain_seed, threads)
    return jobs


def _data_jobs(recipe: Recipe, data_seed: int, earlier: Sequence[Job]) -> Iterator[Job]:
    used = {*(arm.data for arm in recipe.arms.values()), *(str(settings["data"]) for settings in recipe.tasks.values())}
    names = {job.name for job in earlier}
    for name, source in recipe.data.items():
        job = _data_job_name(recipe, name, data_seed)
        if name in used and source.command is not None and job not in names:
            seed = {"seed": data_seed} if source.command == "synthesize" else {}
            yield Job(name=job, command=source.command, settings={**source.settings, **seed})


def _data_job_name(recipe: Recipe, name: str, data_seed: int) -> str:
    """Only synthetic data differ by the data seed."""
    return f"data.{name}.d{data_seed}" if recipe.data[name].command == "synthesize" else f"data.{name}"


def _store(recipe: Recipe, name: str, data_seed: int) -> str:
    source = recipe.data[name]
    return source.store if source.store is not None else f"@{_data_job_name(recipe, name, data_seed)}"


def _pretrain_seeds(recipe: Recipe, arm: str) -> tuple[int | None, ...]:
    return (None,) if recipe.arms[arm].settings is None else recipe.pretrain_seeds


def _run_name(arm: str, data_seed: int, pretrain_seed: int | None) -> str:
    return f"{arm}.d{data_seed}" if pretrain_seed is None else f"{arm}.d{data_seed}.s{pretrain_seed}"


def _arm_jobs(recipe: Recipe, name: str, data_seed: int, pretrain_seed: int | None, threads: int) -> Iterator[Job]:
    arm, run = recipe.arms[name], _run_name(name, data_seed, pretrain_seed)
    if arm.settings is not None:
        store = _store(recipe, arm.data, data_seed)
        settings = {**arm.settings, "data": store, "seed": pretrain_seed, "threads": threads}
        yield Job(name=f"pretrain.{run}", command="pretrain", settings=settings)
        for split in recipe.splits:
            settings = {"checkpoint": f"@pretrain.{run}", "data": store, "split": split, "threads": threads}
            settings["label_source"] = recipe.label_source
            yield Job(name=f"score.{split}.{run}", command="evaluate", settings=settings)
    for task, task_settings in recipe.tasks.items():
        if arm.has(_sensor(task_settings)):
            start = (
                {"checkpoint": f"@pretrain.{run}"} if arm.settings is not None else _untrained(recipe, arm.init, task)
            )
            data = _store(recipe, str(task_settings["data"]), data_seed)
            settings = {**task_settings, **start, "data": data, "threads": threads}
            yield Job(name=f"transfer.{task}.{run}", command="transfer", settings=settings)


def _sensor(task: Mapping[str, Any]) -> str:
    return str(task.get("sensor", "s2"))


def _untrained(recipe: Recipe, init: str, task: str) -> dict[str, Any]:
    """The encoder, bands and scaling that all pretrained arms share, for an arm without a pretraining here."""
    sensor = _sensor(recipe.tasks[task])
    shared = {}
    for ours, theirs in (("encoder", "encoder"), ("bands", f"{sensor}_bands"), ("normalization", "normalization")):
        default = getattr(PretrainConfig, theirs, None)
        arms = [arm.settings for arm in recipe.arms.values() if arm.settings is not None]
        found = {settings.get(theirs, default) for settings in arms}
        if ours == "bands" and any(sensor in settings.get("bands", {}) for settings in arms):
            found = {str(settings.get("bands", {}).get(sensor, default)) for settings in arms}
        if len(found) > 1:
            raise ConfigError(
                f"the pretraining arms differ in {theirs}, so an arm without pretraining has none to share",
                got=sorted(map(str, found)),
                do="set it once, in the common settings",
            )
        shared[ours] = found.pop() if found else default
    return {**shared, "init": init}


# ---- what came out ----


def collect(recipe: Recipe, places: Mapping[str, Place]) -> Iterator[Record]:
    """Read the scores of all finished jobs."""
    for data_seed in recipe.data_seeds:
        for arm in recipe.arms:
            for pretrain_seed in _pretrain_seeds(recipe, arm):
                run, key = _run_name(arm, data_seed, pretrain_seed), RunKey(data_seed, pretrain_seed)
                for split in recipe.splits:
                    if (place := places.get(f"score.{split}.{run}")) is not None:
                        summary = read_json(place.run / "scores.json")["summary"]
                        for metric, value in {**summary, **_gains(summary)}.items():
                            yield Record(table=pretraining_table(split), arm=arm, metric=metric, key=key, value=value)
                for task in recipe.tasks:
                    if (place := places.get(f"transfer.{task}.{run}")) is not None:
                        yield from _transfer_records(task, arm, key, read_json(place.run / "scores.json"))


def _gains(summary: Mapping[str, float]) -> dict[str, float]:
    """By how much the labels of full weight are more often right than all labels, for each branch."""
    ending = "_selected_precision"
    return {
        f"{name.removesuffix(ending)}_selected_gain": value - summary["label_accuracy"]
        for name, value in summary.items()
        if name.endswith(ending)
    }


def _transfer_records(task: str, arm: str, key: RunKey, content: Mapping[str, Any]) -> Iterator[Record]:
    for run in content["runs"]:
        for metric in ("oa", "aa", "miou", "mf1"):
            if (value := run["scores"][metric]) is not None:
                full = RunKey(key.data_seed, key.pretrain_seed, run["draw"], run["seed"])
                yield Record(table=task, arm=arm, metric=metric, key=full, value=value)


def tabulate(recipe: Recipe, records: Sequence[Record]) -> dict[str, Any]:
    """Means, spreads, paired differences and promises of all records, as JSON values."""
    cells: dict[tuple[str, str, str], dict[RunKey, float]] = defaultdict(dict)
    for record in records:
        cells[record.table, record.arm, record.metric][record.key] = record.value
    metrics = {t: list(dict.fromkeys(record.metric for record in records if record.table == t)) for t in recipe.tables}
    means = [
        {"table": table, "arm": arm, "metric": metric, **asdict(summarize(list(cells[table, arm, metric].values())))}
        for table in recipe.tables
        for arm in recipe.arms
        for metric in metrics[table]
        if (table, arm, metric) in cells
    ]
    differences = [
        {"table": table, "arm": ours, "minus": theirs, "metric": metric, **asdict(found), "verdict": found.verdict}
        for table in recipe.tables
        for ours, theirs in recipe.comparisons
        for metric in metrics[table]
        if (found := paired_difference(cells[table, ours, metric], cells[table, theirs, metric])) is not None
    ]
    return {
        "title": recipe.title,
        "about": recipe.about,
        "tables": list(recipe.tables),
        "arms": list(recipe.arms),
        "means": means,
        "differences": differences,
        "promises": [_judge(asdict(promise), cells) for promise in recipe.promises],
        "runs": [{**asdict(record), "key": record.key._asdict()} for record in records],
        "recipe": recipe.text,
    }


def _judge(promise: dict[str, Any], cells: Mapping[tuple[str, str, str], dict[RunKey, float]]) -> dict[str, Any]:
    """A promise with the value reached, in percent points, and whether that is enough; no value is a broken promise."""
    ours = cells.get((promise["table"], promise["arm"], promise["metric"]), {})
    found: Summary | Difference | None
    if promise["minus"] is None:
        found = summarize(list(ours.values())) if ours else None
    else:
        found = paired_difference(ours, cells.get((promise["table"], promise["minus"], promise["metric"]), {}))
    value = None if found is None else 100 * found.mean
    return {**promise, "value": value, "kept": value is not None and value >= promise["at_least"]}
