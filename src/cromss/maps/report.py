"""One self-contained HTML file about a run or a benchmark: text, tables, figures, picture grids.

In: a Report, which is headings and blocks in reading order. Out: one file that needs no network and no second file,
readable on a light and a dark ground and on paper.

A comparison is called beyond noise where |difference| > interval, both in the same unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import jinja2
import matplotlib
from markupsafe import Markup, escape

from cromss.errors import ArgumentError
from cromss.files import commit
from cromss.geo.legend import Legend
from cromss.maps.pictures import GREY, readable, to_data_uri

__all__ = [
    "Block",
    "Cell",
    "Estimate",
    "Figure",
    "Gallery",
    "Report",
    "Section",
    "Settings",
    "Table",
    "Text",
    "Verdict",
    "gradient",
    "render_report",
    "swatches",
    "verdict",
    "write_report",
]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval to either side, both already in the unit that the column names; None where unknown."""

    mean: float | None
    interval: float | None = None
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a comparison shows: `better`, `worse`, or `noise` where the interval covers no difference."""

    kind: str
    text: str


Cell: TypeAlias = str | int | float | Estimate | Verdict | None


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph, or a list where `items` is given."""

    text: str
    items: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns (units in the names). `groups` are row numbers that start a new group of rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    groups: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing (the SVG of `cromss.maps.figures`, put into the page as it is) or a PNG, with its caption."""

    image: bytes
    caption: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """PNG pictures in a grid: `titles` over the columns, a row title each, None for a picture that does not exist.

    `keys` are explained below: (name, CSS colour or gradient), see `swatches` and `gradient`.
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[bytes | None]]]
    caption: str = ""
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Names and values, folded away until asked for."""

    title: str
    values: Mapping[str, object]


Block: TypeAlias = Text | Table | Figure | Gallery | Settings


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with its blocks."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report. `facts` stand in the head: what ran, on what, when."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""


def verdict(difference: float | None, interval: float | None, *, higher_is_better: bool = True) -> Verdict:
    """Judge a difference by the half width of its interval, in the same unit; "not known" where either is None."""
    if difference is None or interval is None or not (math.isfinite(difference) and math.isfinite(interval)):
        return Verdict(kind="unknown", text="not known")
    if abs(difference) <= interval:
        return Verdict(kind="noise", text="within noise")
    better = (difference > 0) == higher_is_better
    return Verdict(kind="better" if better else "worse", text=f"{'better' if better else 'worse'}, beyond noise")


def swatches(legend: Legend) -> list[tuple[str, str]]:
    """The legend's classes as keys of a Gallery, and what GREY means."""
    return [*zip(readable(legend), legend.colors, strict=True), ("no data or ignored", f"rgb{GREY}")]


def gradient(name: str, colormap: str = "magma") -> tuple[str, str]:
    """A colour map of 0..1 as a key of a Gallery."""
    stops = [matplotlib.colors.to_hex(matplotlib.colormaps[colormap](step / 8)) for step in range(9)]
    return name, f"linear-gradient(90deg, {', '.join(stops)})"


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file, whole or not at all."""
    html = render_report(report)
    with commit(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_report(report: Report) -> str:
    """The report as HTML. All text is escaped; only figures drawn by this package are put in as they are."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cromss.maps", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, value=_value, image=_image, anchor=_anchor)
    environment.tests.update(number=lambda cell: not isinstance(cell, str | Verdict))
    for section in report.sections:
        for block in section.blocks:
            _check(block, section.heading)
    kinds = {kind.__name__: kind for kind in (Text, Table, Figure, Gallery, Settings)}
    environment.globals.update(
        kind_of=lambda block: next(name for name, kind in kinds.items() if isinstance(block, kind))
    )
    return environment.get_template("report.html").render(report=report)


def _check(block: Block, heading: str) -> None:
    match block:
        case Table():
            wrong = [index for index, row in enumerate(block.rows) if len(row) != len(block.columns)]
        case Gallery():
            wrong = [index for index, (_, row) in enumerate(block.rows) if len(row) != len(block.titles)]
        case _:
            return
    if wrong:
        raise ArgumentError(
            f"rows of a {type(block).__name__.lower()} do not have one cell a column",
            got=f"rows {wrong}",
            where=f"section {heading!r}",
        )


def _cell(cell: Cell) -> Markup:
    match cell:
        case None:
            return Markup('<span class="none">–</span>')
        case Verdict():
            return Markup('<span class="verdict {}">{}</span>').format(cell.kind, cell.text)
        case Estimate(mean=None):
            return Markup('<span class="none">–</span>')
        case Estimate():
            interval = Markup("")
            if cell.interval is not None:
                interval = Markup(' <span class="interval">± {}</span>').format(f"{cell.interval:.{cell.digits}f}")
            return Markup("{}{}").format(_minus(f"{cell.mean:.{cell.digits}f}"), interval)
        case bool() | str():
            return escape(cell)
        case int():
            return escape(_minus(f"{cell:,}".replace(",", "\u202f")))
        case float():
            return escape(_minus(f"{cell:.4g}") if math.isfinite(cell) else "–")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _image(image: bytes, number: str, alt: str) -> Markup:
    """An <img> of a PNG, or the SVG itself with ids that no other figure of the page has."""
    if not image.lstrip().startswith(b"<svg"):
        return Markup('<img src="{}" alt="{}">').format(to_data_uri(image), alt)
    text = image.decode("utf-8")
    text = re.sub(r'\bid="', f'id="{number}-', text)
    text = re.sub(r'href="#', f'href="#{number}-', text)
    text = text.replace("url(#", f"url(#{number}-")
    label = Markup(' role="img" aria-label="{}"').format(alt)
    return Markup(text.replace("<svg", f"<svg{label}", 1))  # noqa: S704 - drawn by matplotlib, which escapes its text
