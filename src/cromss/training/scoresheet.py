"""Scores of one or several runs on paper: scores.csv, a row a run and class, and table.md with mean and spread.

In: run name -> the scores of `metrics.Scores.to_dict` (fractions 0..1, None where a class is absent). Out: the two
files; CSV in fractions, Markdown in percent, mean ± sample standard deviation over the runs that have a value.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cromss.files import commit
from cromss.training.statistics import Summary, summarize

__all__ = ["CLASS_SCORES", "SCORES", "in_brief", "markdown_table", "over_runs", "write_scores"]

SCORES = {"oa": "OA", "aa": "AA", "miou": "mIoU", "mf1": "mF1"}
CLASS_SCORES = {"iou": "IoU", "f1": "F1", "recall": "recall", "precision": "precision"}


def over_runs(values: Sequence[float | None]) -> Summary | None:
    """Mean and spread of the runs that have a value; None where none has."""
    found = [value for value in values if value is not None]
    return summarize(found) if found else None


def in_brief(scores: Mapping[str, Any]) -> str:
    """The scores of one run in one line, in percent."""
    return "  ".join(f"{title} {_cell([scores[name]])}" for name, title in SCORES.items())


def write_scores(out: str | Path, *, title: str, runs: Mapping[str, Mapping[str, Any]], spread: bool = False) -> None:
    """Write scores.csv and table.md into `out`; `spread` summarizes the runs, else each gets its own row."""
    with commit(Path(out) / "scores.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "class", *SCORES, *CLASS_SCORES, "pixels"])
        writer.writerows(_csv_rows(runs))
    with commit(Path(out) / "table.md") as temporary:
        temporary.write_text("\n".join(_lines(title, runs, spread)) + "\n", encoding="utf-8")


def _csv_rows(runs: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Any]]:
    for run, scores in runs.items():
        yield [run, "all", *(scores[name] for name in SCORES), *[None] * len(CLASS_SCORES), scores["pixels"]]
        for label, values in scores["classes"].items():
            yield [run, label, *[None] * len(SCORES), *(values[name] for name in CLASS_SCORES), values["support"]]


def _lines(title: str, runs: Mapping[str, Mapping[str, Any]], spread: bool) -> Iterator[str]:
    groups = {f"{len(runs)} runs": list(runs.values())} if spread else {run: [scores] for run, scores in runs.items()}
    yield from (f"# {title}", "", "In percent; ± is the sample standard deviation over the runs.", "")
    yield from markdown_table(
        ["", *SCORES.values()],
        [[name, *(_cell([scores[key] for scores in group]) for key in SCORES)] for name, group in groups.items()],
    )
    for name, group in groups.items():
        yield from ("", f"## {name}", "")
        yield from markdown_table(["class", *CLASS_SCORES.values(), "pixels of truth"], _class_rows(group))
        absent = sorted({label for scores in group for label in scores["absent"]})
        if absent:
            wrong = sum(scores["predicted_absent"] for scores in group)
            yield from ("", f"Absent from the truth, so without a score: {', '.join(absent)}.")
            yield f"Pixels predicted as one of them, over all runs: {wrong}."


def _class_rows(group: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    labels = group[0]["classes"]
    return [
        [
            label,
            *(_cell([scores["classes"][label][key] for scores in group]) for key in CLASS_SCORES),
            str(labels[label]["support"]),
        ]
        for label in labels
    ]


def _cell(values: Sequence[float | None]) -> str:
    summary = over_runs(values)
    if summary is None:
        return "–"
    return f"{100 * summary.mean:.1f}" + ("" if summary.std is None else f" ± {100 * summary.std:.1f}")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table; bars and line ends within a cell cannot break it."""
    for cells in (columns, ["---"] * len(columns), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
