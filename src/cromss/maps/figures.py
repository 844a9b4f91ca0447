"""Figures of a report as SVG: curves, bars, intervals, confusion matrix, histograms, offsets.

In: numbers and names. Out: SVG bytes that take their text colour and font from the page they are put into, so that one
figure reads on a light and on a dark ground. Drawn without pyplot: no global state, no display.

Scores are fractions 0..1 and are drawn in percent where a function says so.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from cromss.errors import ArgumentError
from cromss.geo.legend import Legend
from cromss.maps.pictures import readable

__all__ = [
    "Curve",
    "bars_figure",
    "confusion_figure",
    "curves_figure",
    "intervals_figure",
    "offsets_figure",
    "ridges_figure",
]

# Stand-ins for the page's own colours, exchanged in the finished SVG. No figure uses them for anything else.
_INK, _RULE = "#010203", "#040506"
# Paul Tol's "bright" scheme: told apart by the colour-blind, and legible on white and on black.
_ARMS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
_HEAT = (0.18, 0.46, 0.72)

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cromss",  # else the ids, and so the bytes, differ from run to run
    "font.size": 10,
    "text.parse_math": False,  # a class may be called "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "grid.linewidth": 0.6,
    "grid.color": _RULE,
    "axes.edgecolor": _RULE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _RULE),
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: `y` over `x`, and `spread` to either side of it where there are several runs."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


def curves_figure(
    curves: Sequence[Curve], *, x_label: str, y_label: str, log: bool = False, width: float = 9.4, height: float = 3.4
) -> bytes:
    """Lines over a common axis, named at the side; `log` draws y logarithmically. Sizes in inches of 72 points."""
    if not curves:
        raise ArgumentError("no curve to draw", expected="at least one")
    with _drawing(width, height) as (figure, buffer):
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            color = _ARMS[index % len(_ARMS)]
            y = np.asarray(curve.y, float)
            marker = "o" if len(y) == 1 else ""
            axes.plot(curve.x, y, color=color, label=curve.name, marker=marker, markersize=4)
            if curve.spread is not None:
                spread = np.asarray(curve.spread, float)
                axes.fill_between(curve.x, y - spread, y + spread, color=color, alpha=0.18, linewidth=0)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log else "linear")
        axes.margins(x=0.01)
        _name_series(axes, len(curves))
        _finish(figure, buffer)
    return _to_page(buffer)


def bars_figure(
    series: Mapping[str, Sequence[float | None]],
    categories: Sequence[str],
    *,
    x_label: str,
    intervals: Mapping[str, Sequence[float | None]] | None = None,
    colors: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
) -> bytes:
    """Horizontal bars, a group a category and a bar a series; None leaves a gap marked "absent".

    `colors` marks each category with its class colour, `reference` draws a line (0.5 for an AUROC, say).
    """
    wrong = [name for name, values in series.items() if len(values) != len(categories)]
    if not series or wrong:
        raise ArgumentError("bars and categories do not match", got=wrong or "no series", expected=len(categories))
    thick = 0.8 / len(series)
    with _drawing(9.4, 0.9 + len(categories) * max(0.3, 0.16 * len(series))) as (figure, buffer):
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(series.items()):
            places = np.arange(len(categories)) - 0.4 + thick * (index + 0.5)
            lengths = np.array([np.nan if value is None else value for value in values], float)
            whiskers = np.array(
                [np.nan if value is None else value for value in (intervals or {}).get(name, [])], float
            )
            axes.barh(
                places,
                lengths,
                height=thick * 0.92,
                color=_ARMS[index % len(_ARMS)],
                label=name,
                xerr=whiskers if whiskers.size else None,
                error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2},
            )
            for place in places[np.isnan(lengths)]:
                axes.text(0.01, place, "absent", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        if reference is not None:
            axes.axvline(reference, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel=x_label, xlim=limits, ylim=(len(categories) - 0.5, -0.5))
        axes.set_yticks(range(len(categories)), categories)
        axes.grid(visible=False, axis="y")
        _colour_marks(axes, colors, "y")
        _name_series(axes, len(series))
        _finish(figure, buffer)
    return _to_page(buffer)


def intervals_figure(
    names: Sequence[str],
    means: Sequence[float],
    intervals: Sequence[float],
    *,
    x_label: str,
    reference: float | None = 0.0,
) -> bytes:
    """Means with their intervals, one below the other; those whose interval leaves `reference` out are filled."""
    if not len(names) == len(means) == len(intervals) or not names:
        raise ArgumentError("names, means and intervals do not match", got=[len(names), len(means), len(intervals)])
    with _drawing(9.4, 0.9 + 0.3 * len(names)) as (figure, buffer):
        axes = figure.add_subplot()
        for place, (mean, interval) in enumerate(zip(means, intervals, strict=True)):
            beyond = reference is None or abs(mean - reference) > interval
            color = _ARMS[0] if beyond else _ARMS[-1]
            axes.errorbar(
                mean, place, xerr=interval, fmt="o", color=color, capsize=3, markerfacecolor=color if beyond else "none"
            )
        if reference is not None:
            axes.axvline(reference, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel=x_label, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False, axis="y")
        _finish(figure, buffer)
    return _to_page(buffer)


def confusion_figure(matrix_CC: NDArray[np.integer], legend: Legend) -> bytes:
    """Confusion matrix (rows truth, columns prediction, in pixels) as percent of each row, with the class colours."""
    matrix_CC = np.asarray(matrix_CC)
    count = legend.num_classes
    if matrix_CC.shape != (count, count):
        raise ArgumentError("confusion matrix and legend differ", got=matrix_CC.shape, expected=(count, count))
    totals_C = matrix_CC.sum(axis=1)
    side = 0.46 * count
    with _drawing(side + 3.4, side + 1.5) as (figure, buffer):
        axes = figure.add_subplot(aspect="equal")
        for truth in range(count):
            axes.text(count + 0.25, truth + 0.5, _pixels(int(totals_C[truth])), va="center", fontsize=9)
            for prediction in range(count if totals_C[truth] else 0):
                _heat_cell(axes, prediction, truth, float(matrix_CC[truth, prediction] / totals_C[truth]))
        axes.text(count + 0.25, -0.12, "pixels", va="bottom", fontsize=9)
        axes.set(xlim=(0, count), ylim=(count, 0), xlabel="predicted class", ylabel="true class")
        axes.set_xticks(np.arange(count) + 0.5, readable(legend), rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(count) + 0.5, readable(legend))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        _colour_marks(axes, legend.colors, "x")
        _colour_marks(axes, legend.colors, "y")
        _finish(figure, buffer)
    return _to_page(buffer)


def ridges_figure(
    histograms: Mapping[str, NDArray[np.integer]],
    edges: NDArray[np.floating],
    *,
    marks: Mapping[str, tuple[float, float]],
    x_label: str,
) -> bytes:
    """Histograms over common bins, one below the other, each as high as any; marks: name -> dot and reach of a line.

    The axis ends where all but the outermost thousandth of every histogram, and every mark, is in view.
    """
    wrong = [name for name, counts in histograms.items() if len(counts) != len(edges) - 1 or not counts.sum()]
    if not histograms or wrong:
        raise ArgumentError(
            "histograms and bins do not match, or are empty", got=wrong or "none", expected=len(edges) - 1
        )
    ends = [mean + sign * reach for mean, reach in marks.values() for sign in (-1, 1)]
    for counts in histograms.values():
        total = np.cumsum(counts) / counts.sum()
        ends += [edges[np.searchsorted(total, 0.001)], edges[np.searchsorted(total, 0.999) + 1]]
    with _drawing(9.4, 0.9 + 0.36 * len(histograms)) as (figure, buffer):
        axes = figure.add_subplot()
        for place, (name, counts) in enumerate(histograms.items()):
            base = place + 0.42
            axes.stairs(base - 0.8 * counts / counts.max(), edges, baseline=base, fill=True, color=_ARMS[0], alpha=0.55)
            if name in marks:
                mean, reach = marks[name]
                axes.errorbar(mean, base, xerr=reach, fmt="o", color=_INK, markersize=4, elinewidth=1.2)
        axes.set(xlabel=x_label, xlim=(max(min(ends), edges[0]), min(max(ends), edges[-1])))
        axes.set(ylim=(len(histograms) - 0.35, -0.5))
        axes.set_yticks(np.arange(len(histograms)) + 0.3, list(histograms))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _finish(figure, buffer)
    return _to_page(buffer)


def offsets_figure(
    groups: Mapping[str, Sequence[tuple[float, float]]], *, circle: float, x_label: str, y_label: str
) -> bytes:
    """(down, right) points, a square panel a group, all on one scale, with a circle of that radius around no offset."""
    if not groups or not all(groups.values()):
        raise ArgumentError("no points to draw", got=list(groups), expected="at least one point a group")
    reach = 1.1 * max(circle, *(abs(value) for points in groups.values() for point in points for value in point))
    with _drawing(3.6 * len(groups), 3.7) as (figure, buffer):
        for index, (name, points) in enumerate(groups.items()):
            axes = figure.add_subplot(1, len(groups), index + 1, aspect="equal")
            axes.add_patch(Circle((0, 0), circle, fill=False, edgecolor=_INK, linewidth=1, linestyle=(0, (4, 3))))
            down, right = np.array(points, float).T
            axes.scatter(right, down, s=16, color=_ARMS[index % len(_ARMS)], alpha=0.75, linewidths=0)
            axes.set(title=name, xlabel=x_label, ylabel=y_label, xlim=(-reach, reach), ylim=(reach, -reach))
        _finish(figure, buffer)
    return _to_page(buffer)


def _heat_cell(axes: Any, column: int, row: int, share: float) -> None:
    """One cell, coloured and named by its share 0..1 of the row; a share that is not 0 but rounds to it is a dot."""
    axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=(*_HEAT, share), linewidth=0))
    text = f"{100 * share:.0f}" if share >= 0.005 else "·" if share else ""
    color = "#fefefe" if share > 0.55 else _INK
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=9)


def _pixels(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count) if count else "absent"


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained"), io.BytesIO()


def _finish(figure: Figure, buffer: io.BytesIO) -> None:
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _name_series(axes: Any, count: int) -> None:
    if count > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.2)


def _colour_marks(axes: Any, colors: Sequence[str] | None, axis: str) -> None:
    """A patch of the class's colour between each tick and its name."""
    if colors is None:
        return
    axes.tick_params(axis=axis, length=0, pad=17)
    ticks = axes.get_yticks() if axis == "y" else axes.get_xticks()
    anchor = axes.get_yaxis_transform() if axis == "y" else axes.get_xaxis_transform()
    outwards = ScaledTranslation(*{"x": (0, -9 / 72), "y": (-9 / 72, 0)}[axis], axes.figure.dpi_scale_trans)
    for tick, color in zip(ticks, colors, strict=True):
        place = {"x": ([tick], [0]), "y": ([0], [tick])}[axis]
        axes.plot(*place, marker="s", markersize=8, color=color, transform=anchor + outwards, clip_on=False)


def _to_page(buffer: io.BytesIO) -> bytes:
    """The SVG element alone, coloured by the page: text in its text colour, rules in its rule colour."""
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = text.replace(_INK, "currentColor").replace(_RULE, "var(--rule, #cccccc)")
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).encode("utf-8")
