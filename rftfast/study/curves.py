"""A study's figures: evaluations by the place they are labelled with, and lines through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rftfast.errors import UserError
from rftfast.evaluate.fits import Line, doublings, fit_line, fit_outcomes
from rftfast.evaluate.intervals import Interval
from rftfast.report.data import CURVES, Fit, Point, Series
from rftfast.study.efficiency import efficiencies
from rftfast.study.results import PROBLEMS, Row
from rftfast.study.study_file import StudySpec


def curves(study: StudySpec, rows: Sequence[Row]) -> dict[str, tuple[Series, ...]]:
    """The figures: those that evaluations are labelled for (``at: {k: 3}``), and the gain where paths are known."""
    found: dict[str, dict[str, list[tuple[Point, Row]]]] = {}
    worth = {e.name: e.text(study.baseline or "") for e in efficiencies(rows, study.baseline)}
    for row in rows:
        name = str(row.labels.get("series") or row.group or study.title)
        places = dict(row.labels.get("at") or {})
        for curve, x in places.items():
            if curve not in CURVES or not isinstance(x, (int, float)) or isinstance(x, bool):
                choose = ", ".join(CURVES)
                raise UserError(
                    f"step {row.evaluations[0].step.name}: at {curve}: {x!r}; choose {choose}, and a number"
                )
            found.setdefault(curve, {}).setdefault(name, []).append((_point(float(x), row.greedy, row.name), row))
        paths = row.data_mean("sampled")
        if row.gain is not None and paths is not None:
            point = _point(paths, row.gain.interval, row.name)
            found.setdefault("gain", {}).setdefault(name, []).append((point, row))
    return {
        curve: tuple(_series(curve, name, found[curve][name], worth.get(name, "")) for name in found[curve])
        for curve in CURVES
        if curve in found
    }


def _series(curve: str, name: str, placed: list[tuple[Point, Row]], worth: str) -> Series:
    placed = sorted(placed, key=lambda item: item[0].x)
    points = tuple(point for point, _ in placed)
    xs = [point.x for point in points]
    if curve == PROBLEMS:
        return Series(name, tuple(replace(point, label="") for point in points), note=worth)  # the series' name says it
    if len(points) > 1 and len({point.label for point in points}) == 1:  # one row in several groups: those differ
        points = tuple(replace(point, label=row.group or point.label) for point, row in placed)
    if len(set(xs)) < 3:
        return Series(name, points)
    logarithmic = curve in ("fraction", "k")
    line = _line(curve, doublings(xs) if logarithmic else xs, placed)
    unit = {"loss": "a nat", "gain": "a path"}.get(curve, "a doubling")
    return Series(name, points, Fit(line.slope.value, line.intercept, _caption(line, unit)))


def _line(curve: str, xs: Sequence[float], placed: Sequence[tuple[Point, Row]]) -> Line:
    """Of accuracies the test questions are drawn anew, the same for all points and runs; of gains the points themselves."""
    ys = [point.y for point, _ in placed]
    if curve == "gain":
        return fit_line(xs, ys)
    right = [_by_question(row) for _, row in placed]
    shared = [question for question in right[0] if all(question in each for each in right)]
    if not shared:  # points that were measured on questions of their own
        return fit_line(xs, ys, min(map(len, right)))
    return fit_outcomes(xs, [[each[question] for question in shared] for each in right])


def _by_question(row: Row) -> dict[str, float]:
    """Question -> the share of the row's runs that get it right."""
    found: dict[str, list[float]] = {}
    for evaluation in row.evaluations:
        for question, right in evaluation.right.items():
            found.setdefault(question, []).append(right)
    return {question: sum(each) / len(each) for question, each in found.items()}


def _caption(line: Line, unit: str) -> str:
    s = line.slope
    return f"{100 * s.value:+.2f} ({100 * s.low:+.2f} to {100 * s.high:+.2f}) points {unit}, R² {line.r2:.2f}"


def _point(x: float, y: Interval, label: str) -> Point:
    return Point(x, y.value, y.low, y.high, label)
