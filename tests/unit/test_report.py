from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cromss.errors import ArgumentError
from cromss.maps.figures import Curve, bars_figure, confusion_figure, curves_figure, intervals_figure
from cromss.maps.pictures import encode_png
from cromss.maps.report import (
    Estimate,
    Figure,
    Gallery,
    Report,
    Section,
    Settings,
    Table,
    Text,
    Verdict,
    gradient,
    render_report,
    swatches,
    verdict,
    write_report,
)
from maps_helpers import LEGEND

PNG = encode_png(np.zeros((2, 2, 3), np.uint8))


def curves():
    return curves_figure(
        [Curve(name="a", x=[0, 1, 2], y=[3, 2, 1], spread=[0.1] * 3), Curve(name="b", x=[0], y=[1])],
        x_label="epoch",
        y_label="loss",
    )


def whole_report():
    matrix = np.diag([5, 0, *range(1, 8)])
    return Report(
        title="A <run>",
        subtitle="with & without",
        facts={"seeds": "3"},
        footer="end",
        sections=[
            Section(
                heading="Scores & more",
                blocks=[
                    Text(text="First", items=["one", "<two>"]),
                    Table(
                        columns=["arm", "mIoU %", "tiles", "verdict"],
                        rows=[
                            ["a", Estimate(mean=-1.234, interval=0.55), 12345, verdict(1.0, 0.5)],
                            ["b", Estimate(mean=None), None, verdict(0.2, 0.5)],
                        ],
                        caption="Mean ± interval",
                    ),
                    Settings(title="All settings", values={"lr": 0.005, "losses": ("ce", "dice"), "prior": None}),
                ],
            ),
            Section(
                heading="Pictures",
                blocks=[
                    Figure(image=curves(), caption="Curves", alt="curves"),
                    Figure(image=curves(), caption="Again", alt="curves"),
                    Figure(image=confusion_figure(matrix, LEGEND), caption="Confusion", alt="matrix"),
                    Gallery(
                        titles=["image", "map"],
                        rows=[("place", [PNG, None])],
                        keys=[*swatches(LEGEND), gradient("weight")],
                        caption="Tiles",
                    ),
                ],
            ),
        ],
    )


class Page(HTMLParser):
    """Collects ids, addresses, and whether every opened element is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.stack: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.addresses.append(value)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_a_report_is_one_file_without_any_address_outside_itself():
    page = Page(render_report(whole_report()))
    assert not page.stack
    assert page.addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not page.names & {"script", "link", "iframe", "object"}
    assert "@import" not in render_report(whole_report())


def test_ids_are_unique_and_every_inner_link_has_its_target():
    text = render_report(whole_report())
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_text_is_escaped():
    text = render_report(whole_report())
    assert "A &lt;run&gt;" in text
    assert "<run>" not in text
    assert "&lt;two&gt;" in text


def test_numbers_are_written_with_their_interval_a_real_minus_and_a_dash_where_there_is_none():
    text = render_report(whole_report())
    assert '−1.2 <span class="interval">± 0.6</span>' in text or '−1.2 <span class="interval">± 0.5</span>' in text
    assert "12\u202f345" in text
    assert text.count('<span class="none">–</span>') == 2
    assert "ce, dice" in text


@pytest.mark.parametrize(
    ("difference", "interval", "higher", "kind"),
    [
        (1.0, 0.5, True, "better"),
        (-1.0, 0.5, True, "worse"),
        (-1.0, 0.5, False, "better"),
        (0.5, 0.5, True, "noise"),
        (-0.4, 0.5, True, "noise"),
        (None, 0.5, True, "unknown"),
        (1.0, None, True, "unknown"),
        (1.0, float("nan"), True, "unknown"),
        (1.0, float("inf"), True, "unknown"),
    ],
)
def test_a_difference_is_beyond_noise_only_outside_its_interval(difference, interval, higher, kind):
    found = verdict(difference, interval, higher_is_better=higher)
    assert isinstance(found, Verdict)
    assert found.kind == kind
    assert ("beyond noise" in found.text) == (kind in ("better", "worse"))


def test_a_row_that_does_not_fit_its_columns_is_refused_with_its_section():
    for block in (Table(columns=["a", "b"], rows=[[1]]), Gallery(titles=["a"], rows=[("x", [])])):
        with pytest.raises(ArgumentError, match="Here"):
            render_report(Report(title="t", sections=[Section(heading="Here", blocks=[block])]))


def test_a_report_is_written_whole_and_the_same_each_time(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, whole_report())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_text().rstrip().endswith("</html>")


def test_figures_take_their_ink_from_the_page():
    for svg in (
        curves(),
        bars_figure({"a": [1.0, None]}, ["x", "y"], x_label="IoU, %", colors=["#419bdf", "#397d49"], reference=0.5),
        intervals_figure(["a", "b"], [1, 2], [0.5, 3], x_label="points"),
        confusion_figure(np.eye(9, dtype=int), LEGEND),
    ):
        assert svg.startswith(b"<svg")
        assert b"currentColor" in svg
        assert b"#010203" not in svg
        assert b"#040506" not in svg


def test_the_confusion_figure_names_absent_classes_and_shows_row_shares():
    matrix = np.zeros((9, 9), int)
    matrix[0, 0], matrix[0, 1], matrix[2, 2] = 750_000, 250_000, 1500
    text = confusion_figure(matrix, LEGEND).decode()
    words = re.findall(r">([^<>]+)</text>", text)
    assert {"75", "25", "100", "1 M", "1.5 k"} <= set(words)
    assert words.count("absent") == 7
    assert "flooded vegetation" in words


def test_bars_mark_an_absent_value_instead_of_drawing_zero():
    svg = bars_figure({"a": [1.0, None], "b": [0.0, 2.0]}, ["x", "y"], x_label="IoU, %").decode()
    assert svg.count(">absent<") == 1


def test_a_class_name_with_signs_of_mathematics_is_plain_text():
    assert b">$x_1^2$<" in bars_figure({"a": [1.0]}, ["$x_1^2$"], x_label="IoU, %")


def test_figures_refuse_numbers_that_do_not_match_their_names():
    for draw in (
        lambda: curves_figure([], x_label="x", y_label="y"),
        lambda: bars_figure({"a": [1.0]}, ["x", "y"], x_label="x"),
        lambda: intervals_figure(["a"], [1, 2], [1], x_label="x"),
        lambda: confusion_figure(np.eye(3, dtype=int), LEGEND),
    ):
        with pytest.raises(ArgumentError):
            draw()
