"""Whole jobs against a server that misbehaves: nothing lost, nothing asked twice, nothing told that is secret."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the openai client is not installed (pip install 'rftfast[synth]')")
pytest.importorskip("datasketch", reason="datasketch is not installed (pip install 'rftfast[synth]')")

from rftfast.data import load_questions
from rftfast.data.record_dir import read_records
from rftfast.errors import UserError
from rftfast.synth.endpoint import EndpointTeacher
from rftfast.synth.job import SynthOptions, prepare
from rftfast.synth.limits import Rates
from rftfast.synth.run import Progress, SynthTotals, open_synth, read_usage, run, write_problems
from rftfast.synth.teacher import Prices
from tests.synth.server import FAULTS, TeacherServer, serving, toy_problem

ROOT = Path(__file__).resolve().parents[2]
COUNT = 24
KEY = "sk-a-secret-that-nobody-may-see"
FAST = Rates(retries=8, backoff_s=0.01, timeout_s=4)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def work(
    server: TeacherServer, path: Path, rates: Rates = FAST, concurrency: int = 8, **options: Any
) -> tuple[Progress, SynthTotals, EndpointTeacher]:
    job = prepare(SynthOptions(**{"problems": COUNT, **options}))
    teacher = EndpointTeacher("toy", server.url, concurrency=concurrency, rates=rates)
    with open_synth(job, path, {"model": "toy"}, {}, {}, {}) as directory:
        progress = run(job, teacher, directory, lambda progress: None)
    return progress, write_problems(job, path), teacher


def files(path: Path) -> tuple[bytes, bytes]:
    return (path / "problems.jsonl").read_bytes(), (path / "dropped.jsonl").read_bytes()


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What comes out when nothing goes wrong."""
    path = tmp_path_factory.mktemp("well")
    os.environ["OPENAI_API_KEY"] = KEY
    with serving() as server:
        progress, totals, teacher = work(server, path)
    del os.environ["OPENAI_API_KEY"]
    assert teacher.retried == 0 and progress.failed == 0
    assert totals.problems == COUNT and totals.kept > COUNT / 2
    assert {"no agreement", "wrong equations"} <= set(totals.reasons)
    return files(path)


def test_kept_problems_are_a_question_file_with_agreed_solutions(well: tuple[bytes, bytes], tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_bytes(well[0])
    questions = load_questions(file)
    rows = [json.loads(line) for line in well[0].splitlines()]
    assert len(questions) == len(rows) > COUNT / 2
    for question, row in zip(questions, rows, strict=True):
        a, b = (int(word) for word in question.question.split() if word.isdigit())
        assert question.answer.endswith(f"#### {a + b}") and f"<<{a}+{b}={a + b}>>" in question.answer
        assert row["votes"] >= 3 and row["solutions"] == 4
    dropped = [json.loads(line) for line in well[1].splitlines()]
    assert len(dropped) + len(rows) == COUNT and all(row["detail"] for row in dropped)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_survived(fault: str, well: tuple[bytes, bytes], tmp_path: Path) -> None:
    rates = replace(FAST, timeout_s=3) if fault in ("hang", "drip") else FAST
    with serving(lambda number: fault if number % 7 == 3 and number < 40 else None) as server:
        progress, _, teacher = work(server, tmp_path, rates)
    assert files(tmp_path) == well
    assert teacher.retried >= 6 and progress.failed == 0
    assert max(Counter(server.answered).values()) == 1, "what was answered is not asked again"


def test_all_faults_at_once_and_broken_off_and_gone_on(well: tuple[bytes, bytes], tmp_path: Path) -> None:
    draw = random.Random(4)
    script = [draw.choice(FAULTS) if draw.random() < 0.3 else None for _ in range(2000)]
    with serving(lambda number: script[number]) as server:
        for problems in (5, 14, COUNT):
            work(server, tmp_path, replace(FAST, timeout_s=3), problems=problems)
    assert files(tmp_path) == well
    assert max(Counter(server.answered).values()) == 1


def test_an_endpoint_that_keeps_failing_ends_the_job_and_the_rest_is_kept(well: Any, tmp_path: Path) -> None:
    with serving(lambda number: "500" if number > 20 else None) as server:
        with pytest.raises(UserError, match=r"\d+ requests in a row failed 3 times each \(the last: .*500"):
            work(server, tmp_path, Rates(retries=2, backoff_s=0.01, timeout_s=4))
        stored = len(list(read_records(tmp_path)))
        assert 3 < stored < COUNT
        server.fault = lambda number: None
        before = len(server.requests)
        work(server, tmp_path)
        assert len(server.requests) - before <= 2 * (COUNT - stored)
    assert files(tmp_path) == well


def test_single_failures_are_left_for_another_time(tmp_path: Path) -> None:
    """A prompt that fails to the last attempt does not hold up the others."""
    with serving() as server:
        victim = [None]

        def fault(number: int) -> str | None:
            text = server.requests[number]["messages"][-1]["content"]
            victim[0] = victim[0] or text  # type: ignore[call-overload]
            return "500" if text == victim[0] else None

        server.fault = fault
        rates = Rates(retries=2, backoff_s=0.01, timeout_s=4)
        progress, totals, _ = work(server, tmp_path, rates)
        assert progress.failed == 1 and totals.problems == COUNT - 1
        assert "500" in progress.last_failure  # the command tells it
        server.fault = lambda number: None
        progress, totals, _ = work(server, tmp_path, rates)
        assert progress.failed == 0 and totals.problems == COUNT


def test_what_the_server_refuses_is_dropped_and_told(tmp_path: Path) -> None:
    with serving(lambda number: "400" if number == 2 else None) as server:
        _, totals, teacher = work(server, tmp_path, concurrency=1)
    assert totals.reasons["refused"] == 1 and teacher.retried == 0
    rows = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["detail"] for row in rows if row["reason"] == "refused"] == ["Error code: 400 - 400"]


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_an_error_that_concerns_all_ends_the_job_at_once(status: str, tmp_path: Path) -> None:
    with serving(lambda number: status) as server:
        with pytest.raises(UserError, match=f"{status}.*mend that"):
            work(server, tmp_path)
        assert len(server.requests) <= 8


def test_the_key_is_in_no_message_log_or_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda number: "503" if number < 6 else "401" if number > 20 else None) as server:
        server.key_echo = "yes"
        with pytest.raises(UserError) as error:
            work(server, tmp_path)
    assert server.keys == {f"Bearer {KEY}"}, "the server did get it"
    said = "".join(capfd.readouterr()) + caplog.text + str(error.value) + repr(error.value.__cause__)
    assert "***" in str(error.value) and KEY not in said
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert held and not any(KEY.encode() in path.read_bytes() for path in held)


def test_retry_after_holds_all_requests_back(tmp_path: Path) -> None:
    with serving(lambda number: "429 1.5" if number == 10 else None) as server:
        work(server, tmp_path, concurrency=4)
    times = server.times[10:]
    # Until the refusal is back, which takes its time on a busy machine, the others may still ask; then nobody does.
    silence, asked = max((after - before, i) for i, (before, after) in enumerate(itertools.pairwise(times)))
    assert silence > 1.2 and asked <= 9 and times[asked + 1] - times[0] > 1.45


def test_so_many_requests_at_a_time_and_no_more(tmp_path: Path) -> None:
    with serving() as server:
        server.delay = 0.03
        work(server, tmp_path, concurrency=3, problems=12)
    assert server.most_parallel == 3


def test_a_rate_limit_is_kept(tmp_path: Path) -> None:
    with serving() as server:
        work(server, tmp_path, Rates(requests=300))
    first = server.times[0]
    assert len(server.times) >= 40
    # A tenth of a minute's worth at once, then five a second; on a busy machine the first may be seen up to a second late.
    assert all(
        sum(first <= t <= first + s for t in server.times) <= 30 + 5 * (s + 1) for s in (0.1, 0.5, 1.0, 1.5, 2.5)
    )
    assert server.times[-1] - first > (len(server.times) - 31) / 5 - 1


def test_a_server_that_gives_one_text_at_a_time_is_asked_for_the_rest(tmp_path: Path) -> None:
    with serving() as server:
        server.one_choice = True
        work(server, tmp_path, problems=3)
    records = list(read_records(tmp_path))
    assert [len(r["solutions"]) for r in records if r["problem"]] == [4] * 3
    assert len(server.requests) == 3 + 3 * 4
    assert sorted(body["n"] for body in server.requests) == sorted([1] * 3 + [4, 3, 2, 1] * 3)


def test_tokens_and_cost_are_counted_over_all_processes(tmp_path: Path) -> None:
    with serving() as server:
        for problems in (3, 6):
            progress, totals, _ = work(server, tmp_path, problems=problems, prices=Prices(1.0, 10.0))
        asked = len(server.requests)
        usage = read_usage(tmp_path)
        assert (usage.requests, usage.input, usage.output) == (asked, 100 * asked, 10 * 6 + 40 * 6)
        assert progress.spent == pytest.approx((100 * asked + 10 * 300) / 1e6)
        assert totals.usage == usage
        server.no_usage = True
        work(server, tmp_path, problems=7)
        assert read_usage(tmp_path).unknown == 2


def test_no_problem_is_begun_beyond_the_cost(tmp_path: Path) -> None:
    each = (200 * 1.0 + 50 * 10.0) / 1e6
    with serving() as server:
        limits = {"prices": Prices(1.0, 10.0), "max_cost": 10.5 * each}
        progress, totals, _ = work(server, tmp_path, concurrency=2, **limits)
        assert 8 <= totals.problems <= 10 and progress.unasked == COUNT - totals.problems
        assert progress.spent <= 10.5 * each
        server.no_usage = True
        with pytest.raises(UserError, match="--max-cost cannot be kept"):
            work(server, tmp_path / "silent", concurrency=2, **limits)
        assert len(list(read_records(tmp_path / "silent"))) <= 1
        server.no_usage = False
        again, _, _ = work(server, tmp_path, concurrency=2, **limits)
        assert again.spent <= 10.5 * each, "what earlier processes spent counts"
        more, _, _ = work(server, tmp_path, **{**limits, "max_cost": 1.0})
        assert more.unasked == 0


def test_copies_of_given_problems_and_of_evaluation_questions_are_dropped(tmp_path: Path) -> None:
    """The server's answers depend on the prompt, so what it will say is known."""
    job = prepare(SynthOptions(problems=12))
    said = [toy_problem(job.problem_ask(name).messages[-1]["content"])[0] for name in job.names()]
    seeds, test = tmp_path / "seeds.jsonl", tmp_path / "test.jsonl"
    test.write_text(json.dumps({"id": "t1", "question": said[3].replace("?", " now then?"), "answer": "#### 1"}) + "\n")
    bundled = load_questions()
    rows = [{"id": q.id, "question": q.question, "answer": q.answer} for q in bundled]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"problems": 12, "seeds": str(seeds), "evaluation": (str(test),)}
    with serving() as server:
        work(server, tmp_path / "out", **options)
        asked = [body["messages"][-1]["content"] for body in server.requests]
    dropped = {row["name"]: row for row in map(json.loads, (tmp_path / "out" / "dropped.jsonl").open())}
    assert dropped["p000003"]["reason"] == "contaminated"
    assert dropped["p000003"]["detail"].startswith(f"{test}: t1 (“") and dropped["p000003"]["question"] == said[3]
    assert not any(text.startswith(said[3]) for text in asked), "nothing is spent on its solutions"


def test_the_order_of_the_given_problems_changes_nothing(tmp_path: Path) -> None:
    rows = [{"id": q.id, "question": q.question, "answer": q.answer} for q in load_questions()]
    jobs = []
    for name, given in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        jobs.append(prepare(SynthOptions(seeds=str(tmp_path / f"{name}.jsonl"), problems=9)))
    assert jobs[0].fingerprints() == jobs[1].fingerprints()
    assert [jobs[0].problem_ask(n) for n in jobs[0].names()] == [jobs[1].problem_ask(n) for n in jobs[1].names()]


def test_the_second_of_two_alike_is_dropped_whoever_answered_first(tmp_path: Path) -> None:
    outcomes = set()
    for run_number, delay in enumerate((0.0, 0.02)):
        with serving() as server:
            server.delay = delay
            path = tmp_path / str(run_number)
            _, totals, _ = work(server, path, problems=60, concurrency=16, near=0.35)
        assert totals.reasons["duplicate"] > 0
        outcomes.add(files(path))
    assert len(outcomes) == 1


def test_killed_it_goes_on_and_asks_for_nothing_twice(well: tuple[bytes, bytes], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rftfast.cli.main", "synth", "--teacher", "toy", "--problems", str(COUNT)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY}
    with serving() as server:
        server.delay = 0.05
        command += ["--endpoint", server.url, "--out", str(tmp_path / "run"), "--concurrency", "4"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as killed:
            deadline = time.monotonic() + 60
            while not any((tmp_path / "run" / "parts").glob("part-*")) and time.monotonic() < deadline:
                assert killed.poll() is None, "it ended before it could be killed"
                time.sleep(0.01)
            killed.send_signal(signal.SIGKILL)
        stored = {record["id"] for record in read_records(tmp_path / "run")}
        assert 0 < len(stored) < COUNT
        server.delay, before = 0.0, len(server.requests)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert len(server.requests) - before == 2 * (COUNT - len(stored))
        assert KEY not in done.stdout + done.stderr and f"going on: {len(stored)} problems" in done.stderr
        answered = len(server.answered)
    assert files(tmp_path / "run") == well
    assert answered - 8 <= read_usage(tmp_path / "run").requests <= answered, "all that was answered was counted"


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    with serving() as server:
        work(server, tmp_path, problems=2)
        with pytest.raises(UserError, match="agree 3 → 2"):
            work(server, tmp_path, problems=2, agree=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"problems": 0}, "problems is 0"),
        ({"agree": 5}, "5 solutions have to agree and 4"),
        ({"solve_temperature": 0.0}, "agree for nothing"),
        ({"temperature": 0.0}, "all the same"),
        ({"max_cost": 1.0}, "both prices"),
        ({"evaluation": ("/nowhere.jsonl",)}, "nowhere"),
    ],
)
def test_bad_options(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepare(SynthOptions(**options))


def test_bad_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("localhost:8000", "ftp://host/v1", "http://"):
        with pytest.raises(UserError, match="is no address"):
            EndpointTeacher("m", url)
    with pytest.raises(UserError, match="into the environment") as error:
        EndpointTeacher("m", "https://me:hunter2@host/v1")
    assert "hunter2" not in str(error.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        EndpointTeacher("m")
    EndpointTeacher("m", "http://localhost:1/v1")
    with pytest.raises(UserError, match="concurrency is 0"):
        EndpointTeacher("m", "http://localhost:1/v1", concurrency=0)
