"""Several engines draw what one draws, each path once, also when some of them are lost on the way."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rftfast.engine import Generation, Request, Sampler, SamplingParams
from rftfast.engine.stats import Stats
from rftfast.errors import UserError
from rftfast.pipeline import processes
from rftfast.pipeline.early_stop import OnlineVerifier
from rftfast.pipeline.engine_host import Collected, Described, EngineHost
from rftfast.pipeline.engines import devices_of, open_engine
from rftfast.pipeline.fleet import EngineLost, Fleet
from rftfast.pipeline.processes import ProcessEngine, process_fleet
from rftfast.verify import Policy
from tests.cli.commands import rftfast
from tests.tiny_model import write_tiny_llama

PARAMS = SamplingParams(k=5, temperature=0.9, max_tokens=20, seed=3)
REQUESTS = [Request(f"q{i}", tuple(f"question {i}: two and two is".encode()), PARAMS) for i in range(9)]
OPTIONS: dict[str, Any] = {"dtype": "float32", "kv_memory": "4MiB", "threads": 1}


class Made:
    """A remote whose paths are a function of their names; it is lost after so many calls."""

    def __init__(self, number: int, rng: random.Random, calls: int | None, dtype: str = "float32") -> None:
        self.name = f"made {number}"
        self.rng, self.calls, self.dtype = rng, calls, dtype
        self.todo: list[tuple[str, int]] = []
        self.finished = 0
        self.closed = False

    def _call(self) -> None:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise EngineLost("killed by SIGKILL")

    def describe(self) -> Described:
        return Described(self.dtype, True, "made", (), 8)

    def check(self, request: Request) -> str | None:
        return None if request.tokens else "empty"

    def start(self, monitor: object) -> None:
        pass

    def submit(self, request: Request) -> None:
        self._call()
        self.todo += [(request.name, i) for i in request.indices()]

    def ask(self, wait_s: float) -> None:
        self._call()

    def answer(self) -> Collected:
        self._call()
        self.rng.shuffle(self.todo)
        n = self.rng.randint(0, len(self.todo))
        done, self.todo = self.todo[:n], self.todo[n:]
        self.finished += n
        return Collected(
            [Generation(name, i, f"{name}/{i}", (1,), (0.0,), "eos") for name, i in done], Stats(finished=self.finished)
        )

    def close(self) -> None:
        self.closed = True


def fleet(remotes: Sequence[Any], rng: random.Random) -> Fleet:
    return Fleet(remotes, lambda waiting: rng.sample(list(waiting), rng.randint(1, len(waiting))))


def names(generations: Any) -> list[tuple[str, int]]:
    return sorted((g.name, g.sample_index) for g in generations)


EXPECTED = sorted((r.name, i) for r in REQUESTS for i in range(PARAMS.k))


@pytest.mark.parametrize("seed", range(30))
def test_every_path_comes_once_whoever_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    lives = [rng.choice([None, 0, 1, 3, 7, 15]) for _ in range(3)]
    remotes = [Made(n, rng, life) for n, life in enumerate([*lives, None])]
    engines = fleet(remotes, rng)
    assert names(engines.stream(REQUESTS)) == EXPECTED
    assert engines.stats.finished == len(EXPECTED)
    assert {f"made {n}" for n, r in enumerate(remotes) if r.closed} == {line.split(":")[0] for line in engines.lost}


def test_a_source_that_waits_for_paths_goes_on() -> None:
    rng = random.Random(0)
    got: list[Generation] = []

    def source() -> Iterator[Request | None]:
        for i, request in enumerate(REQUESTS):
            while len(got) < i * PARAMS.k:
                yield None
            yield request

    for generation in fleet([Made(0, rng, None), Made(1, rng, 9)], rng).stream(source()):
        got.append(generation)
    assert names(got) == EXPECTED


@pytest.mark.parametrize("seed", range(5))
def test_streams_one_after_the_other_are_strangers(seed: int) -> None:
    rng = random.Random(seed)
    remotes = [Made(0, rng, None), Made(1, rng, None)]
    engines = fleet(remotes, rng)
    assert names(engines.stream(REQUESTS)) == EXPECTED
    remotes[0].calls = 3  # what it is lost with are this stream's requests, not those of the same names before
    assert names(engines.stream(REQUESTS)) == EXPECTED
    assert len(engines.lost) == 1


def test_one_stream_at_a_time() -> None:
    rng = random.Random(0)
    engines = fleet([Made(0, rng, None)], rng)
    first = engines.stream(REQUESTS)
    next(first)
    with pytest.raises(UserError, match="close their other stream"):
        list(engines.stream(REQUESTS))
    first.close()  # type: ignore[attr-defined]


def test_without_any_engine_left_it_says_what_became_of_them() -> None:
    rng = random.Random(0)
    with pytest.raises(UserError, match=r"no engine is left; made \d: killed by SIGKILL; made \d: killed"):
        list(fleet([Made(0, rng, 3), Made(1, rng, 4)], rng).stream(REQUESTS))


def test_engines_that_would_draw_differently_are_refused() -> None:
    rng = random.Random(0)
    with pytest.raises(UserError, match="differ in dtype"):
        fleet([Made(0, rng, None), Made(1, rng, None, dtype="bfloat16")], rng)


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("cpu", None, ["cpu"]), ("cuda", 2, ["cuda:0", "cuda:1"]), ("cuda:1, cuda:3", None, ["cuda:1", "cuda:3"])],
)
def test_devices(device: str, gpus: int | None, expected: list[str]) -> None:
    assert devices_of(device, gpus) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "words"), [("cpu,", None, "commas"), ("cuda:1", 2, "leave"), ("cuda", 0, "at least")]
)
def test_bad_devices(device: str, gpus: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        devices_of(device, gpus)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[tuple[str, int], Generation]:
    sampler = Sampler.from_pretrained(folder, **OPTIONS)
    return {(g.name, g.sample_index): g for g in sampler.stream(REQUESTS)}


def test_processes_draw_what_one_engine_draws_and_one_may_be_killed(
    folder: Path, alone: dict[tuple[str, int], Generation]
) -> None:
    engines = process_fleet(str(folder), ["cpu", "cpu"], OPTIONS)
    try:
        engines.check_request(REQUESTS[0])
        with pytest.raises(UserError, match="prompt is empty"):
            engines.check_request(Request("none", (), PARAMS))
        found = {}
        for generation in engines.stream(REQUESTS, OnlineVerifier(Policy())):  # random text: it never stops any
            found[generation.name, generation.sample_index] = generation
            if len(found) == 3:
                victim = engines._engines[0].remote
                assert isinstance(victim, ProcessEngine)
                os.kill(victim.process.pid or 0, signal.SIGKILL)
        assert found == alone
        assert len(engines.lost) == 1 and "SIGKILL" in engines.lost[0]
        assert engines.stats.prompt_tokens > 0
        again = {(g.name, g.sample_index): g for g in engines.stream(REQUESTS[:2])}
        assert again == {name: g for name, g in alone.items() if name[0] in ("q0", "q1")}
    finally:
        engines.close()


def test_a_stream_is_left_early_and_an_engine_dies_between_streams(
    folder: Path, alone: dict[tuple[str, int], Generation]
) -> None:
    engines = process_fleet(str(folder), ["cpu", "cpu"], OPTIONS)
    try:
        left = engines.stream(REQUESTS)
        next(left)
        left.close()  # type: ignore[attr-defined]
        engines.check_request(REQUESTS[0])  # not the paths that the other engine was asked for
        assert {(g.name, g.sample_index): g for g in engines.stream(REQUESTS)} == alone
        victim = engines._engines[0].remote
        assert isinstance(victim, ProcessEngine)
        victim.process.kill()
        victim.process.join()
        engines.check_request(REQUESTS[0])
        assert len(engines.lost) == 1 and "SIGKILL" in engines.lost[0]
        assert {(g.name, g.sample_index): g for g in engines.stream(REQUESTS)} == alone
    finally:
        engines.close()


def test_an_engine_whose_parent_is_gone_ends_quietly_in_the_middle_of_its_work(folder: Path) -> None:
    engine = ProcessEngine(str(folder), {**OPTIONS, "device": "cpu"})
    try:
        engine.describe()
        engine.start(None)
        long = SamplingParams(k=5000, max_tokens=400, ignore_eos=True)
        engine.submit(Request("long", (1, 2, 3), long))
        engine.ask(1.0)
        assert len(engine.answer().generations) < long.k
        engine.pipe.close()
        engine.process.join(30)
        assert engine.process.exitcode == 0
    finally:
        engine.close()


class Served:
    """``_serve`` on a thread, with a host in the place of ``EngineHost``; ``pipe`` is the parent's side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: Any) -> None:
        monkeypatch.setattr(processes, "EngineHost", host)
        monkeypatch.setattr(processes.signal, "signal", lambda *_: None)  # only for main threads
        self.pipe, there = multiprocessing.Pipe()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(there,), daemon=True)
        self.thread.start()

    def _run(self, there: Any) -> None:
        try:
            processes._serve(there, "folder", {})
        except BaseException as error:
            self.error = error


def test_both_sides_may_have_much_to_say_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that sends many paths goes on taking requests, or neither side would ever read."""

    class Host:
        def __init__(self, folder: str, options: object) -> None:
            self.submitted = 0

        def describe(self) -> str:
            return "described"

        def submit(self, request: Request) -> None:
            self.submitted += 1

        def collect(self, wait_s: float) -> tuple[bytes, int]:
            return b"paths" * 10**6, self.submitted

    served = Served(monkeypatch, Host)
    answers: list[Any] = []

    def parent() -> None:
        answers.append(served.pipe.recv())
        served.pipe.send(("collect", 0.0))
        for _ in range(50):
            served.pipe.send(("submit", b"request" * 10**5))
        served.pipe.send(("collect", 0.0))
        answers.extend(served.pipe.recv() for _ in range(2))
        served.pipe.close()

    thread = threading.Thread(target=parent, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "parent and child wait for each other"
    assert [answers[0], answers[2][1]] == ["described", 50]
    served.thread.join(60)
    assert not served.thread.is_alive() and served.error is None


def test_an_engine_that_fails_to_load_does_not_go_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def host(*_: object) -> None:
        raise PermissionError("the kernels' cache")

    served = Served(monkeypatch, host)
    served.thread.join(60)
    assert isinstance(served.error, PermissionError)


def test_an_engine_that_cannot_start_says_why(folder: Path) -> None:
    with pytest.raises(UserError, match="KV memory"):
        process_fleet(str(folder), ["cpu", "cpu"], {**OPTIONS, "kv_memory": "1KiB"})


def test_engines_on_one_device_want_their_share_of_its_memory_named(folder: Path) -> None:
    with pytest.raises(UserError, match="2 engines on cpu: say with --kv-memory"):
        open_engine(folder, {"kv_memory": None}, device="cpu,cpu")


def test_a_hosts_failure_reaches_the_parent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = EngineHost(str(folder), {**OPTIONS, "device": "cpu"})

    def broken(*_: object) -> None:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(host._sampler.runner, "launch", broken)
    host.start(None)
    host.submit(REQUESTS[0])
    found = host.collect(60.0)
    assert found.error is not None and "RuntimeError: a kernel failed" in found.error
    host.close()


def test_the_command_deals_questions_to_several_engines(folder: Path, tmp_path: Path) -> None:
    common = ["--model", folder, "--k", 3, "--limit", 4, "--max-tokens", 12, "--shots", 0, "--kv-memory", "4MiB"]
    one = rftfast("sample", *common, "--threads", 1, "--out", tmp_path / "one")
    two = rftfast("sample", *common, "--device", "cpu,cpu", "--out", tmp_path / "two")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert "engine on cpu (1)" in two.stdout
    assert (tmp_path / "one/rft.jsonl").read_bytes() == (tmp_path / "two/rft.jsonl").read_bytes()


def test_ray_actors_draw_what_one_engine_draws_and_one_may_be_lost(
    folder: Path, alone: dict[tuple[str, int], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    ray.init(num_cpus=2, num_gpus=0, log_to_driver=False, include_dashboard=False)
    try:
        with pytest.raises(UserError, match="the cluster has 0"):
            open_engine(folder, OPTIONS, device="cuda", ray=True)
        with pytest.raises(UserError, match="KV memory"):
            open_engine(folder, {**OPTIONS, "kv_memory": "1KiB"}, device="cpu", ray=True)
        opened = open_engine(folder, OPTIONS, device="cpu,cpu", ray=True)
        engines = opened.engine
        assert isinstance(engines, Fleet)
        found = {}
        for generation in engines.stream(REQUESTS):
            found[generation.name, generation.sample_index] = generation
            if len(found) == 2:
                ray.kill(engines._engines[0].remote.actor)  # type: ignore[attr-defined]
        assert found == alone
        assert len(engines.lost) == 1
        engines.close()
    finally:
        ray.shutdown()
