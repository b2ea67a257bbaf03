"""Figures: well-formed, told in words, and their marks where the values are."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rftfast.report import figures
from rftfast.report.axes import linear, logarithmic
from rftfast.report.charts import HEIGHT, WIDTH, Line, bars, columns, lines
from rftfast.report.data import Fit, Point, Series
from tests.report.examples import HOSTILE, paper_study


def _svg(text: str) -> ElementTree.Element:
    (found,) = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    return ElementTree.fromstring(found)


@pytest.mark.parametrize(
    ("values", "more", "ticks"),
    [
        ([0.0, 5.25], {}, ["0", "2", "4", "6"]),
        ([0.1, 0.632], {"scale": 100}, ["0", "20", "40", "60", "80"]),
        ([0.2, 0.99], {"scale": 100, "most": 1.0}, ["0", "20", "40", "60", "80", "100"]),
        ([1.5, 1.8], {"zero": False}, ["1.5", "1.6", "1.7", "1.8"]),
        ([-0.02, 0.06], {"scale": 100}, ["−2", "0", "2", "4", "6"]),
        ([0.0, 1.0], {"whole": True}, ["0", "1"]),
        ([0.0, 7473.0], {"whole": True}, ["0", "2,000", "4,000", "6,000", "8,000"]),
        ([], {}, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.5], {"zero": False, "scale": 1.0}, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_round(values: list[float], more: dict[str, float], ticks: list[str]) -> None:
    axis = linear("", values, **more)  # type: ignore[arg-type]
    assert [text for _, text in axis.ticks] == ticks
    assert all(axis.low <= value <= axis.high for value in values)
    assert all(0 <= axis.share(value) <= 1 for value, _ in axis.ticks)


def test_a_logarithmic_axis_is_even() -> None:
    axis = logarithmic("", [(1 / 4, ""), (1 / 2, ""), (1, "")])
    a, b, c = (axis.share(value) for value in (1 / 4, 1 / 2, 1))
    assert b - a == pytest.approx(c - b)
    assert 0 < a < c < 1
    assert logarithmic("", [(1, "1")]).share(1) == pytest.approx(0.5)


def test_points_stand_where_their_values_are() -> None:
    points = (Point(1, 0.0), Point(2, 0.5, 0.25, 0.75), Point(3, 1.0))
    x, y = linear("x", [1, 3], zero=False, pad=0), linear("y", [0, 1])
    root = _svg(lines("id", "t", "d", [Line("a", points, 0)], x, y, "{name} {x} {y:.1f}"))
    dots = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter("circle")]
    assert [d[0] - dots[0][0] for d in dots] == pytest.approx(
        [0, (dots[2][0] - dots[0][0]) / 2, dots[2][0] - dots[0][0]]
    )
    assert dots[0][1] > dots[1][1] > dots[2][1]
    assert dots[1][1] == pytest.approx((dots[0][1] + dots[2][1]) / 2, abs=0.06)
    (whisker,) = [e for e in root.iter("line") if "whisker" in e.get("class", "")]
    assert float(whisker.get("y1", "")) == pytest.approx((dots[0][1] + dots[1][1]) / 2, abs=0.11)
    assert [e.text for e in root.iter("title")][1:] == ["a 1 0.0", "a 2 0.5", "a 3 1.0"]


def test_columns_are_as_high_as_their_counts() -> None:
    root = _svg(columns("id", "t", "d", ["0", "1"], [("a", [2, 4]), ("b", [0, 1])], "lists", "questions"))
    heights = [float(e.get("height", "")) for e in root.iter("rect")]
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.11)
    assert heights[3] == pytest.approx(heights[0] / 2, abs=0.11)
    assert heights[1] == 0


def test_labels_of_near_points_do_not_lie_on_one_another() -> None:
    points = tuple(Point(5 + i / 100, 0.5, label=f"model {i}") for i in range(5))
    axes = linear("x", [0, 5]), linear("y", [0, 1])
    root = _svg(lines("id", "t", "d", [Line("a", points, 0, joined=False)], *axes, "{name}{x}{y}"))
    places = sorted(float(e.get("y", "")) for e in root.iter("text") if e.get("class") == "tag")
    assert all(b - a >= 11.9 for a, b in pairwise(places))


@pytest.mark.parametrize("name", ["loss", "fraction", "k", "gain"])
def test_the_papers_curves(name: str) -> None:
    study = paper_study()
    html = figures.curve(name, study.curves[name])
    root = _svg(html)
    assert root.get("role") == "img"
    labelled = root.get("aria-labelledby", "").split()
    told = {e.get("id"): e.text for e in root if e.tag in ("title", "desc")}
    assert [bool(told[each]) for each in labelled] == [True, True]
    dots = [e for e in root.iter("g") if "dot" in e.get("class", "")]
    assert len(dots) == sum(len(series.points) for series in study.curves[name])
    for e in root.iter():
        for place, most in (
            ("cx", WIDTH),
            ("cy", HEIGHT),
            ("x1", WIDTH),
            ("x2", WIDTH),
            ("y1", HEIGHT),
            ("y2", HEIGHT),
        ):
            assert 0 <= float(e.get(place, "0")) <= most
    for series in study.curves[name]:
        assert series.name in html
        assert f"{100 * series.points[0].y:.1f}" in html  # the numbers are there as a table, too


def test_a_fit_is_drawn_through_its_line() -> None:
    series = Series("a", (Point(1, 0.4), Point(1 / 4, 0.3), Point(1 / 2, 0.9)), Fit(0.1, 0.5, "10 points a doubling"))
    html = figures.curve("fraction", [series])
    assert "a: 10 points a doubling." in html
    (fit,) = [e for e in _svg(html).iter("line") if "fit" in e.get("class", "")]
    # 0.5 + 0.1 log2 x: 0.3 at 1/4, where the second point is, and 0.5 at 1, above the first point
    first, second, _ = _svg(html).iter("circle")
    assert float(fit.get("y1", "")) == pytest.approx(float(second.get("cy", "")), abs=0.11)
    assert float(fit.get("x2", "")) == pytest.approx(float(first.get("cx", "")), abs=0.11)
    assert float(fit.get("y2", "")) < float(first.get("cy", ""))
    assert not [e for e in _svg(html).iter("polyline")]


def test_hostile_names_stay_text() -> None:
    for text in HOSTILE.values():
        root = _svg(bars("id", text, text, [(text, 0.4, text)], text))
        assert {e.tag for e in root.iter()} <= {"svg", "title", "desc", "text", "rect"}
        root = _svg(figures.curve("loss", [Series(text, (Point(1, 0.5, label=text),), Fit(0, 0.5, text))]))
        assert not [e for e in root.iter("script")]
    assert figures.curve("loss", []) == ""


def test_problems_are_doubled_from_tick_to_tick() -> None:
    points = [(125, 0.2), (250, 0.3), (500, 0.4)]
    series = (
        Series("SFT", tuple(Point(x, y) for x, y in points)),
        Series("RFT", tuple(Point(x, y + 0.1) for x, y in points), note="worth 2 times the problems of <SFT>"),
    )
    html = figures.curve("problems", series)
    assert "RFT: worth 2 times the problems of &lt;SFT&gt;." in html
    assert html.count("<polyline") == 2
    places = [float(x) for x in re.findall(r'<polyline[^>]*points="([\d.]+),[\d.]+ ([\d.]+),[\d.]+ ([\d.]+)', html)[0]]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    assert ">125<" in html and ">500<" in html
