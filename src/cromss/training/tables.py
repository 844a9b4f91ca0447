"""The tables of a benchmark as CSV for machines and Markdown for people.

In: the content of table.json (fractions 0..1). Out: table.csv, a row a mean, in fractions; table.md, in percent.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cromss.files import commit
from cromss.training.scoresheet import SCORES, markdown_table

__all__ = ["metric_title", "percent", "shown_metrics", "write_csv", "write_markdown"]

_BRANCHES = {"fused": "fused", "mean": "mean of branches"}  # the others are sensors
_QUALITY = {
    "weight_auroc": "AUROC of label weights",
    "confidence_auroc": "AUROC of label confidences",
    "selected_precision": "precision of selected labels",
    "selected_gain": "selected minus all labels",
}


def metric_title(metric: str) -> str:
    """A metric's name for people: `s2_truth_miou` is "S2 mIoU against the truth"."""
    if metric == "label_accuracy":
        return "accuracy of the noisy labels"
    branch, _, rest = metric.partition("_")
    title, name = _BRANCHES.get(branch, branch.upper()), rest.removeprefix("truth_")
    if rest in _QUALITY:
        return f"{title} {_QUALITY[rest]}"
    if name not in SCORES:
        return SCORES.get(metric, metric)
    against = " against the truth" if name != rest else " against the noisy labels"
    return f"{title} {SCORES[name]}{against}"


def shown_metrics(content: Mapping[str, Any], table: str) -> list[str]:
    """The metrics of a table that people read: shares, not losses; against the truth alone where it is known."""
    metrics = list(dict.fromkeys(row["metric"] for row in content["means"] if row["table"] == table))
    metrics = [metric for metric in metrics if metric != "loss" and not metric.endswith("_selected_share")]
    truth = any("_truth_" in metric for metric in metrics)
    metrics = [metric for metric in metrics if not (truth and metric.partition("_")[2] in SCORES)]
    return [metric for metric in metrics if not metric.endswith(("_aa", "_mf1"))]


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def write_csv(path: str | Path, content: Mapping[str, Any]) -> None:
    """A row a mean: table, arm, metric, mean, std, runs; then a row a difference, its arm written `a - b`."""
    with commit(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "table", "arm", "metric", "mean", "std", "low", "high", "n", "verdict"])
        for row in content["means"]:
            cells = [row["table"], row["arm"], row["metric"], row["mean"], row["std"], None, None, row["runs"], None]
            writer.writerow(["mean", *cells])
        for row in content["differences"]:
            names = [row["table"], f"{row['arm']} - {row['minus']}", row["metric"], row["mean"], None]
            writer.writerow(["difference", *names, row["low"], row["high"], row["pairs"], row["verdict"]])


def write_markdown(path: str | Path, content: Mapping[str, Any]) -> None:
    """All tables as one Markdown file, in percent."""
    with commit(path) as temporary:
        temporary.write_text("\n".join(_lines(content)) + "\n", encoding="utf-8")


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {content['title']}"
    yield ""
    if content["about"]:
        yield content["about"]
        yield ""
    yield "All scores in percent: mean ± sample standard deviation over the runs. A difference is over paired runs,"
    yield "with its 95% interval (Student's t); it is within noise where the interval holds 0."
    if content["promises"]:
        yield from _promise_lines(content["promises"])
    for table in content["tables"]:
        yield from _mean_lines(content, table)
        yield from _difference_lines(content, table)
    yield ""
    yield f"{len(content['jobs'])} jobs, {content['job_seconds']:.0f} s of job time, cromss {content['version']}."


def _promise_lines(promises: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("", "## Promises", "")
    rows = [
        [p["say"], f"{p['at_least']:.1f}", percent(_fraction(p["value"])), "kept" if p["kept"] else "BROKEN"]
        for p in promises
    ]
    yield from markdown_table(["promise", "at least", "reached", ""], rows)


def _fraction(points: float | None) -> float | None:
    return None if points is None else points / 100


def _mean_lines(content: Mapping[str, Any], table: str) -> Iterator[str]:
    found = {(row["arm"], row["metric"]): row for row in content["means"] if row["table"] == table}
    metrics = shown_metrics(content, table)
    arms = [arm for arm in content["arms"] if any((arm, metric) in found for metric in metrics)]
    yield from ("", f"## {table}", "")
    rows = []
    for arm in arms:
        cells = [found.get((arm, metric)) for metric in metrics]
        runs = max(cell["runs"] for cell in cells if cell is not None)
        rows.append([arm, *(_mean_cell(cell) for cell in cells), str(runs)])
    yield from markdown_table(["arm", *(metric_title(metric) for metric in metrics), "runs"], rows)


def _mean_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return percent(row["mean"]) if row["std"] is None else f"{percent(row['mean'])} ± {percent(row['std'])}"


def _difference_lines(content: Mapping[str, Any], table: str) -> Iterator[str]:
    metrics = set(shown_metrics(content, table))
    found = [row for row in content["differences"] if row["table"] == table and row["metric"] in metrics]
    if not found:
        return
    yield ""
    rows = [
        [
            f"{row['arm']} − {row['minus']}",
            metric_title(row["metric"]),
            f"{100 * row['mean']:+.1f}",
            "–" if row["low"] is None else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            f"{row['pairs']} ({row['unit']})",
            row["verdict"],
        ]
        for row in found
    ]
    yield from markdown_table(["difference", "score", "mean", "95% interval", "pairs", "verdict"], rows)
