"""The one JSON schema of every benchmark's results: frozen records, validated when built, written and read whole.

A file holds one :class:`Result`: the machine, the versions, the command and its date, the settings that were resolved
from it, and one :class:`Row` for each engine measured. Whoever compares two files needs nothing else.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rftfast.errors import UserError

SCHEMA = "rftfast.bench/1"
STATUSES = ("ok", "partial", "skipped", "error")


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on. ``memory_mib`` is the physical memory, ``features`` the instruction sets."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_mib: int
    system: str
    accelerator: str | None = None

    def __post_init__(self) -> None:
        assert self.cores >= 1, self.cores
        assert self.memory_mib >= 1, self.memory_mib


@dataclass(frozen=True)
class Measure:
    """One engine's one run, warm-up and loading left out.

    ``seconds`` is wall time from the prompts' tokens to the last new token; ``tokens`` are new tokens only.
    ``prefill_s`` is the time to the first new token of each prompt, summed; ``step_ms`` the time of one decode step of
    ``step_rows`` rows (median where the engine shows single steps, else a mean). ``partial`` says that the time limit
    cut the run: ``tokens`` are those drawn so far.
    """

    seconds: float
    tokens: int
    samples: int
    prefill_s: float | None = None
    step_ms: float | None = None
    step_rows: int | None = None
    peak_memory_mib: float | None = None
    distinct_verified: int | None = None
    partial: bool = False
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert 0 < self.seconds < math.inf, self.seconds
        assert self.tokens >= 0, self.tokens
        assert self.samples >= 0, self.samples

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Row:
    """One engine's line of the table: medians over its ``runs`` (all of them kept beside).

    ``status``: ``ok``; ``partial`` (a run hit its time limit: rates are of what was done in it); ``skipped`` (not
    installed or not meant for this mode, ``notes`` say why); ``error`` (``notes`` hold the engine's own words).
    ``times_slower`` is tokens/s of ours over this row's; ``step_over_matmul`` the decode step's time over that of its
    matrix products alone; ``of_roofline`` the least time in which this machine could do the job over the time it took.
    """

    engine: str
    status: str
    tokens_per_s: float | None = None
    samples_per_s: float | None = None
    distinct_verified_per_s: float | None = None
    seconds: float | None = None
    prefill_s: float | None = None
    step_ms: float | None = None
    step_over_matmul: float | None = None
    peak_memory_mib: float | None = None
    times_slower: float | None = None
    of_roofline: float | None = None
    notes: tuple[str, ...] = ()
    runs: tuple[Measure, ...] = ()

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.status
        assert self.engine, "a row needs its engine's name"
        if self.status in ("ok", "partial"):
            assert self.runs, f"{self.engine}: a row that was measured keeps its runs"
            assert self.tokens_per_s is not None, self.engine
        else:
            assert self.notes, f"{self.engine}: a row that was not measured says why"

    @classmethod
    def of(cls, engine: str, runs: list[Measure]) -> Row:
        """The row of an engine's runs: the median of each figure over the runs that have it."""
        notes = tuple(dict.fromkeys(note for run in runs for note in run.notes))
        return cls(
            engine=engine,
            status="partial" if any(run.partial for run in runs) else "ok",
            tokens_per_s=_median(run.tokens_per_s for run in runs),
            samples_per_s=_median(None if run.partial else run.samples / run.seconds for run in runs),
            distinct_verified_per_s=_median(
                None if run.distinct_verified is None else run.distinct_verified / run.seconds for run in runs
            ),
            seconds=_median(run.seconds for run in runs),
            prefill_s=_median(run.prefill_s for run in runs),
            step_ms=_median(run.step_ms for run in runs),
            peak_memory_mib=_median(run.peak_memory_mib for run in runs),
            notes=notes,
            runs=tuple(runs),
        )


@dataclass(frozen=True)
class KernelTime:
    """One kernel on one case: the median of its time alone, caches cold.

    ``bytes`` and ``flops`` are the fewest that the case needs (each input read once, each output written once). ``bound``
    says which of the two takes longer at the rates measured in the same run, ``of_bound`` is that time over ``ms``.
    ``rivals_ms`` are other ways to the same result, ``skipped`` those that could not run, with the reason. ``error`` is
    |out - exact| / |exact| against the reference in higher precision.
    """

    kernel: str
    case: str
    ms: float
    bytes: float
    flops: float
    bound: str
    of_bound: float
    error: float
    rivals_ms: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.bound in ("memory", "compute"), self.bound
        assert 0 < self.ms < math.inf and 0 < self.of_bound < math.inf, (self.kernel, self.case, self.ms, self.of_bound)
        assert all(0 < ms < math.inf for ms in self.rivals_ms.values()), (self.kernel, self.case, self.rivals_ms)

    @property
    def times_faster(self) -> float | None:
        """The fastest rival's time over ours."""
        return min(self.rivals_ms.values()) / self.ms if self.rivals_ms else None


@dataclass(frozen=True)
class Result:
    """One benchmark's one run. ``date`` is ISO 8601 in UTC; ``figures`` are measures that belong to no single row."""

    benchmark: str
    machine: Machine
    versions: Mapping[str, str]
    command: str
    date: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    rows: tuple[Row, ...]
    kernels: tuple[KernelTime, ...] = ()

    def __post_init__(self) -> None:
        names = [row.engine for row in self.rows]
        assert len(set(names)) == len(names), f"an engine has two rows: {names}"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON's own types, the schema's name first."""
        return {"schema": SCHEMA, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write to a temporary name beside ``path`` and rename, so that half a file is never read as a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "result") -> Result:
        """Read what :meth:`to_dict` wrote.

        Raises :class:`UserError` for another schema, a missing or an unknown field.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise UserError(f"{where}: schema is {found!r}, this version reads {SCHEMA!r}; run the benchmark again")
        body = {key: value for key, value in data.items() if key != "schema"}
        rows = [
            _build(Row, {**row, "runs": tuple(_build(Measure, run, where) for run in row.get("runs", ()))}, where)
            for row in body.get("rows", ())
        ]
        machine = _build(Machine, body.get("machine", {}), where)
        kernels = tuple(_build(KernelTime, one, where) for one in body.get("kernels", ()))
        return _build(cls, {**body, "rows": tuple(rows), "machine": machine, "kernels": kernels}, where)

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a results file. Raises :class:`UserError` when it is no such file."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no benchmark result ({error}); write one with --json") from error
        return cls.from_dict(data, str(path))


def with_ratios(
    rows: list[Row], ours: str, products_ms: Mapping[int, float], least_s: float | None = None
) -> list[Row]:
    """The rows with ``times_slower`` against the row of the engine ``ours``, ``step_over_matmul`` and ``of_roofline``.

    ``products_ms``: number of rows → milliseconds of the matrix products alone of a decode step with so many.
    ``least_s``: seconds that the whole job takes at least here. A ratio whose parts were not measured stays None.
    """
    base = next((row.tokens_per_s for row in rows if row.engine == ours), None)
    out = []
    for row in rows:
        slower = base / row.tokens_per_s if base and row.tokens_per_s else None
        products = products_ms.get(row.runs[0].step_rows or 0) if row.runs else None
        over = row.step_ms / products if row.step_ms and products else None
        whole = row.seconds if row.status == "ok" else None
        share = least_s / whole if least_s and whole else None
        out.append(replace(row, times_slower=slower, step_over_matmul=over, of_roofline=share))
    return out


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _build(cls: Any, data: Any, where: str) -> Any:
    """``cls(**data)`` with JSON's lists as tuples; a missing or unknown field is the file's fault, said in one line."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: {cls.__name__} is {type(data).__name__}, not an object; run the benchmark again")
    known = {item.name for item in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise UserError(f"{where}: {cls.__name__} has unknown fields {unknown}; run the benchmark again")
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
    except (TypeError, AssertionError) as error:
        raise UserError(f"{where}: {cls.__name__}: {error}; run the benchmark again") from error
