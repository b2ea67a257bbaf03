"""The results' schema: what is written is read back the same, and what is no result is refused in one line."""

import json
from dataclasses import replace

import pytest

from bench.machine import machine, versions
from bench.schema import SCHEMA, KernelTime, Measure, Result, Row, with_ratios
from rftfast.errors import UserError


def a_result() -> Result:
    ours = Row.of("rftfast", [Measure(2.0, 9600, 100, step_ms=60.0, step_rows=100), Measure(4.0, 9600, 100)])
    theirs = Row.of("other", [Measure(20.0, 9600, 100, distinct_verified=40, notes=("a note",), extra={"x": 1})])
    rows = with_ratios([ours, theirs, Row("third", "skipped", notes=("not installed",))], "rftfast", {100: 50.0})
    return Result(
        "throughput",
        machine(),
        versions(),
        "python x",
        "2026-01-01T00:00:00+00:00",
        {"k": 100},
        {"ms": 50.0},
        tuple(rows),
    )


def test_rows_hold_medians_and_ratios():
    ours, theirs, third = a_result().rows
    assert ours.tokens_per_s == pytest.approx((4800 + 2400) / 2)
    assert ours.step_over_matmul == pytest.approx(1.2)
    assert theirs.times_slower == pytest.approx(3600 / 480)
    assert theirs.distinct_verified_per_s == pytest.approx(2.0)
    assert theirs.step_over_matmul is None
    assert third.times_slower is None


def test_rows_say_how_near_the_bound_they_are():
    runs = [Measure(2.0, 9600, 100), Measure(4.0, 9600, 100)]
    done, cut = Row.of("a", runs), Row.of("b", [replace(runs[0], partial=True)])
    rows = with_ratios([done, cut, Row("c", "error", notes=("why",))], "a", {}, least_s=1.5)
    assert [row.of_roofline for row in rows] == [pytest.approx(0.5), None, None]


def test_kernel_times_are_kept(tmp_path):
    times = KernelTime(
        "k", "64 x 64", 0.5, 1e6, 1e9, "memory", 0.7, 1e-3, {"flash": 1.0, "torch": 0.75}, {"x": "not here"}
    )
    assert times.times_faster == pytest.approx(1.5)
    result = replace(a_result(), kernels=(times, replace(times, rivals_ms={})))
    result.write(tmp_path / "k.json")
    again = Result.read(tmp_path / "k.json")
    assert again == result
    assert again.kernels[1].times_faster is None
    with pytest.raises(AssertionError):
        replace(times, ms=0.0)


def test_partial_run_claims_no_samples_per_second():
    row = Row.of("slow", [Measure(10.0, 300, 100, partial=True)])
    assert (row.status, row.samples_per_s, row.tokens_per_s) == ("partial", None, 30.0)


def test_written_result_reads_back_the_same(tmp_path):
    result = a_result()
    path = tmp_path / "results" / "one.json"
    result.write(path)
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert Result.read(path) == result
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/9"}, "other/9"),
        ({"colour": 1}, "colour"),
        ({"machine": {"cpu": "x"}}, "Machine"),
        ({"rows": [{"engine": "a", "status": "fine"}]}, "Row"),
        ({"rows": [{"engine": "a", "status": "error"}]}, "says why"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, change, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**a_result().to_dict(), **change}))
    with pytest.raises(UserError, match=message) as caught:
        Result.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_file_is_refused(tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"schema": "rft')
    with pytest.raises(UserError, match=r"half\.json"):
        Result.read(path)


def test_machine_is_described():
    here = machine()
    assert here.cores >= 1
    assert here.cpu
    assert here.memory_mib > 100
    assert {"python", "torch"} <= set(versions())
