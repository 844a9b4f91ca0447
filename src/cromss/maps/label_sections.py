"""Sections of the prepare report about labels: what annotators say, alone and against each other, and what is cloud.

In: the report of `prepare` (JSON types). Out: sections, none where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cromss.data.survey.clouds import told_by
from cromss.maps.report import Cell, Estimate, Section, Table

__all__ = ["label_sections"]


def label_sections(report: Mapping[str, Any]) -> Iterator[Section]:
    """Annotators, where there are several; clouds, where something tells them."""
    if report.get("annotators"):
        yield _annotators(report)
    if report.get("clouds"):
        yield _clouds(report["clouds"])


def _annotators(report: Mapping[str, Any]) -> Section:
    entries: Mapping[str, Mapping[str, Any]] = report["annotators"]
    classes = list(dict.fromkeys(name for entry in entries.values() for name in entry["class_shares"]))
    rows: list[list[Cell]] = [
        [
            f"{name} (with probabilities)" if entry["probabilities"] else name,
            entry["places"],
            entry["places_without"],
            *(_percent(entry["class_shares"].get(c)) for c in classes),
        ]
        for name, entry in entries.items()
    ]
    shares = Table(
        columns=["annotator", "places", "without", *(f"{name.replace('_', ' ')}, %" for name in classes)],
        rows=rows,
        caption="Classes as shares of each annotator's labels. A training sample takes the labels of one annotator; "
        "scores are taken against the first.",
    )
    pairs: list[list[Cell]] = [
        [" and ".join(entry["annotators"]), f"{entry['pixels']:,}", _percent(entry["share"])]
        for entry in report["agreement"]
    ]
    agreement = Table(
        columns=["pair", "pixels with both labels", "same class, %"],
        rows=pairs,
        caption="Agreement is no accuracy: maps made from the same images agree where both are wrong.",
    )
    return Section(heading="Annotators", blocks=[shares, agreement])


def _clouds(clouds: Mapping[str, Any]) -> Section:
    rows: list[list[Cell]] = [
        [split or "no split", _percent(entry["cloud_share"]), f"{entry['unknown_pixels']:,}"]
        for split, entry in clouds["splits"].items()
    ]
    table = Table(
        columns=["split", "under cloud, %", "pixels of which nothing is known"],
        rows=rows,
        caption=f"Of the pixels with data, by {told_by(clouds)}.",
    )
    return Section(heading="Clouds", blocks=[table])


def _percent(share: float | None) -> Estimate:
    return Estimate(mean=None if share is None else 100 * share, digits=1)
