"""What a study tells its report: ``report.json`` in the study's folder, plain JSON in the shape of :class:`StudyData`.

A study builds a ``StudyData`` and calls :meth:`StudyData.write`, or writes the JSON by other means; ``rftfast report
STUDY`` reads it back. Shares (accuracies, gains) are between 0 and 1 everywhere and shown in percent. What is left out of
the JSON takes the field's default; what is there and unknown is refused, so that a misspelt field is not lost in silence.

A single run needs no such file: its page is made from the run directory alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.atomic import write_atomic
from rftfast.errors import UserError

REPORT_FILE = "report.json"
FORMAT = 1

CURVES = ("loss", "fraction", "problems", "k", "gain")
LOGARITHMIC = ("fraction", "problems", "k")
ROLES = ("train", "test")


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TableRow:
    """One line of the headline table: a trained (or untrained) model, evaluated."""

    name: str
    group: str = ""
    """Rows of one group stand together under its name ("SFT", "RFT k = 100")."""
    maj1: Estimate | None = None
    """Greedy accuracy, maj1@1."""
    majk: Estimate | None = None
    passk: Estimate | None = None
    k: int | None = None
    """Samples a question behind ``majk`` and ``passk``."""
    data_rows: int | None = None
    """Training rows, the gold solutions among them."""
    distinct_paths: float | None = None
    """Distinct sampled paths for each training question (S: the gold solution's own list is not counted unless sampled)."""
    note: str = ""


@dataclass(frozen=True)
class Point:
    """``y`` with its interval at ``x``; ``label`` names the point where a series' name is not enough."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Fit:
    """A line through a series: y = intercept + slope · t, where t is x, or log2 x where the figure's x axis is logarithmic.

    ``text`` is the line's caption, with its unit and how good it is ("6.2 points a doubling, R² 0.99").
    """

    slope: float
    intercept: float
    text: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    fit: Fit | None = None
    note: str = ""
    """What the caption says of it."""


@dataclass(frozen=True)
class CostRow:
    """What one step cost. ``flops`` and ``gpu_hours`` are computed, ``seconds`` were measured on ``device``."""

    step: str
    flops: float | None = None
    gpu_hours: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    device: str = ""
    note: str = ""


@dataclass(frozen=True)
class RunRef:
    """A run directory of the study; its questions can be browsed and its paths are counted in the figures.

    ``path`` is relative to the study's folder. ``role``: ``train`` for the runs that training paths were selected from
    (distinct paths, exclusive shares), ``test`` for sampled evaluations (the histogram of distinct correct equation lists).
    ``rollouts``: the run's directory of rollouts, relative, too, if it is not inside the run.
    """

    name: str
    path: str
    role: str = "train"
    rollouts: str = ""


@dataclass(frozen=True)
class StudyData:
    """A study's report.

    ``curves``: by name, ``loss`` (x: pre-training loss in nats; y: accuracy; Figure 2 of arXiv 2308.01825), ``fraction``
    (x: the share of the training questions, 1/32 to 1; y: accuracy; Figure 3), ``problems`` (x: how many training problems; y:
    accuracy; the efficiency of arXiv 2406.14532 is a horizontal distance here), ``k`` (x: samples a question; y: accuracy
    after training on what they gave), ``gain`` (x: distinct paths a question; y: accuracy over SFT's, as a difference of shares).
    ``notices`` stand at the top of the page: steps that failed or have not run, say. ``provenance``: commit, seeds, device,
    command and so on, in order.
    """

    title: str
    summary: str = ""
    notices: tuple[str, ...] = ()
    table: tuple[TableRow, ...] = ()
    curves: dict[str, tuple[Series, ...]] = field(default_factory=dict)
    runs: tuple[RunRef, ...] = ()
    cost: tuple[CostRow, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.curves:
            if name not in CURVES:
                raise UserError(f"curves: {name!r} is unknown; choose among {', '.join(CURVES)}")
        for name in LOGARITHMIC:
            for series in self.curves.get(name, ()):
                for point in series.points:
                    if point.x <= 0:
                        raise UserError(f"curves.{name}: {series.name!r} has x = {point.x:g}; its axis is logarithmic")
        for run in self.runs:
            if run.role not in ROLES:
                raise UserError(f"runs: {run.name!r} has role {run.role!r}; choose one of {', '.join(ROLES)}")
        names = [(run.role, run.name) for run in self.runs]
        if len(set(names)) != len(names):
            raise UserError("runs: two of one role and name; figures know them by their names")

    def write(self, folder: str | Path) -> Path:
        """Write ``folder``/report.json, whole or not at all. Raises UserError if the disk refuses."""
        path = Path(folder) / REPORT_FILE
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        write_atomic(path, [json.dumps(values, indent=1, ensure_ascii=True, allow_nan=False).encode() + b"\n"])
        return path


def read_study(folder: str | Path) -> StudyData:
    """The report.json of a study's folder. Raises UserError, naming the file and the field."""
    path = Path(folder) / REPORT_FILE
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the folder of a run or a study") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: invalid JSON; run the study again, it writes the file anew") from error
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise UserError(f"{path}: not a report of format {FORMAT}; run the study again with this version")
    try:
        study = _decode(StudyData, value, "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    assert isinstance(study, StudyData)
    return study


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` as it came from JSON, as a ``kind``: a scalar, an optional, a tuple, a dict by text or a dataclass."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(arguments[0], value, where)
    if origin is tuple:
        _check(isinstance(value, list), value, "a list", where)
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _check(isinstance(value, dict), value, "an object", where)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        _check(isinstance(value, dict), value, "an object", where)
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for key in value:
            if key not in fields:
                raise UserError(f"{_path(where, key)} is unknown; fields are {', '.join(fields)}")
        for name, f in fields.items():
            needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if needed and name not in value:
                raise UserError(f"{_path(where, name)} is missing")
        return typing.cast(Any, kind)(
            **{key: _decode(hints[key], item, _path(where, key)) for key, item in value.items()}
        )
    if kind is float:
        # json reads NaN, Infinity and whole numbers beyond all floats, for which no axis has a place.
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        _check(good, value, "a number", where)
        return float(value)
    good = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    _check(good, value, {str: "text", int: "a whole number"}[kind], where)
    return value


def _check(good: bool, value: Any, wanted: str, where: str) -> None:
    if not good:
        raise UserError(f"{where} is {json.dumps(value)[:40]}; {wanted} is wanted")


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
