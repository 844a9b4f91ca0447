"""The report of a benchmark: promises, means and paired differences of every table, as one HTML file.

In: the folder of a benchmark, of which table.json is read (fractions 0..1). Out: report.html beside it, in percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cromss.files import read_json
from cromss.maps.figures import bars_figure, intervals_figure
from cromss.maps.report import (
    Block,
    Cell,
    Estimate,
    Figure,
    Report,
    Section,
    Settings,
    Table,
    Text,
    Verdict,
    write_report,
)
from cromss.training.tables import metric_title, shown_metrics

__all__ = ["benchmark_report", "write_benchmark_report"]

Content = Mapping[str, Any]

_VERDICTS = {"higher": "better", "lower": "worse", "within noise": "noise"}
_HOW_TO_READ = (
    "A difference is the mean over paired runs, which share every seed, with its 95% interval (Student's t).",
    "Where that interval holds 0 the difference is within noise, and nothing follows from it.",
    "With several pretrainings each gives one pair, the mean over its transfers, because these share its luck.",
    "With one pretraining the pairs are its transfers, and the interval says nothing about other pretrainings.",
)


def write_benchmark_report(out: str | Path) -> Path:
    """Write report.html into the folder of a finished benchmark; return its path. Raises MissingDataError else."""
    out = Path(out)
    path = out / "report.html"
    write_report(path, benchmark_report(read_json(out / "table.json")))
    return path


def benchmark_report(content: Content) -> Report:
    """The report of what table.json holds."""
    sections = [
        Section(heading="How to read this", blocks=[Text(text=content["about"]), Text(text="", items=_HOW_TO_READ)])
    ]
    if content["promises"]:
        sections.append(Section(heading="Promises", blocks=[_promises(content["promises"])]))
    sections += [Section(heading=table, blocks=list(_table_blocks(content, table))) for table in content["tables"]]
    sections.append(Section(heading="Jobs", blocks=[_jobs(content["jobs"]), _recipe(content)]))
    kept = sum(promise["kept"] for promise in content["promises"])
    return Report(
        title=content["title"],
        subtitle=f"{len(content['arms'])} arms, {len(content['jobs'])} jobs",
        facts={
            **({"promises kept": f"{kept} of {len(content['promises'])}"} if content["promises"] else {}),
            "job time": f"{content['job_seconds']:.0f} s",
            "version": content["version"],
        },
        sections=sections,
    )


def _promises(promises: Sequence[Content]) -> Table:
    def row(promise: Content) -> list[Cell]:
        verdict = Verdict(kind="better", text="kept") if promise["kept"] else Verdict(kind="worse", text="broken")
        return [promise["say"], Estimate(mean=promise["at_least"]), Estimate(mean=promise["value"]), verdict]

    return Table(columns=["promise", "at least, % points", "reached, % points", ""], rows=[row(p) for p in promises])


def _table_blocks(content: Content, table: str) -> Iterator[Block]:
    metrics = shown_metrics(content, table)
    found = {(row["arm"], row["metric"]): row for row in content["means"] if row["table"] == table}
    arms = [arm for arm in content["arms"] if any((arm, metric) in found for metric in metrics)]
    if not arms:
        yield Text(text="No run has a score here.")
        return
    yield Table(
        columns=["%", *arms],
        rows=[[metric_title(metric), *(_mean(found.get((arm, metric))) for arm in arms)] for metric in metrics],
        caption="Mean ± sample standard deviation over the runs, of which there is one where no deviation is given.",
    )
    yield _bars(found, arms, metrics)
    differences = [row for row in content["differences"] if row["table"] == table and row["metric"] in metrics]
    if differences:
        yield _difference_table(differences)
    bounded = [row for row in differences if row["low"] is not None]
    if bounded:
        yield _difference_figure(bounded)


def _mean(row: Content | None) -> Estimate:
    if row is None:
        return Estimate(mean=None)
    return Estimate(mean=100 * row["mean"], interval=None if row["std"] is None else 100 * row["std"])


def _bars(found: Mapping[tuple[str, str], Content], arms: Sequence[str], metrics: Sequence[str]) -> Figure:
    def values(arm: str, name: str) -> list[float | None]:
        rows = [found.get((arm, metric)) for metric in metrics]
        return [None if row is None or row[name] is None else 100 * row[name] for row in rows]

    image = bars_figure(
        {arm: values(arm, "mean") for arm in arms},
        [metric_title(metric) for metric in metrics],
        x_label="%",
        intervals={arm: values(arm, "std") for arm in arms},
    )
    return Figure(image=image, caption="Means with standard deviations.", alt="bars of the means above")


def _difference_table(rows: Sequence[Content]) -> Table:
    units = dict.fromkeys(str(row["unit"]) for row in rows)
    return Table(
        columns=["difference", "score", "mean ± 95%, % points", "pairs", ""],
        rows=[
            [
                f"{row['arm']} − {row['minus']}",
                metric_title(row["metric"]),
                Estimate(mean=100 * row["mean"], interval=_half(row)),
                int(row["pairs"]),
                Verdict(kind=_VERDICTS.get(row["verdict"], "unknown"), text=str(row["verdict"]).split(",")[0]),
            ]
            for row in rows
        ],
        caption=f"Paired differences with half of their 95% interval. Pairs are {' and '.join(units)}.",
    )


def _half(row: Content) -> float | None:
    return None if row["low"] is None else 50 * (row["high"] - row["low"])


def _difference_figure(rows: Sequence[Content]) -> Figure:
    image = intervals_figure(
        [f"{row['arm']} − {row['minus']}: {metric_title(row['metric'])}" for row in rows],
        [100 * row["mean"] for row in rows],
        [50 * (row["high"] - row["low"]) for row in rows],
        x_label="% points",
    )
    return Figure(image=image, caption="Differences with 95% intervals.", alt="the differences above")


def _jobs(jobs: Content) -> Table:
    rows: list[list[Cell]] = [[name, job["folder"], job["seconds"]] for name, job in jobs.items()]
    return Table(
        columns=["job", "folder", "seconds"], rows=rows, caption="Each folder holds settings, log and results."
    )


def _recipe(content: Content) -> Settings:
    lines = content["recipe"].splitlines()
    return Settings(title="The recipe", values={f"{number:03d}": line for number, line in enumerate(lines, 1)})
