"""Adaptive k through the pipeline: dealt in rounds, stored whole, and the same again after being broken off."""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rftfast.data.atomic import write_atomic, write_errors
from rftfast.data.run_dir import RunDir
from rftfast.engine.params import Generation, Request
from rftfast.engine.stats import Stats
from rftfast.errors import UserError
from rftfast.pipeline import budget
from rftfast.pipeline.job import Job, SampleOptions, prepare
from rftfast.pipeline.sample import Progress, run
from tests.tiny_model import write_tiny_llama

QUESTIONS, K, WINDOW = 14, 10, 4


class World:
    """Stands in for ``Sampler``: question q<i> has i equation lists; a path's text is a function of its name alone."""

    def __init__(self, seed: int, stop_after: int | None = None) -> None:
        self.order = random.Random(seed)
        self.stop_after = stop_after
        self.stats = Stats()
        self.drawn: list[tuple[str, int]] = []
        self.idle = 0

    def check_request(self, request: Request) -> None:
        assert request.tokens

    def stream(self, requests: Iterable[Request | None], monitor: object = None) -> Iterator[Generation]:
        source, batch, more = iter(requests), [], True
        while more or batch:
            while more and len(batch) < 12:
                request = next(source, "end")
                if request == "end":
                    more = False
                elif request is None:
                    self.idle += 1
                    break
                else:
                    assert isinstance(request, Request)
                    batch += [(request.name, i) for i in request.indices()]
            if not batch:
                assert not more
                return
            name, index = batch.pop(self.order.randrange(len(batch)))
            self.drawn.append((name, index))
            if self.stop_after is not None and len(self.drawn) > self.stop_after:
                raise UserError("the disk is full")
            yield Generation(name, index, self.text(name, index), (1, 2), (-1.0, -1.0), "eos")

    @staticmethod
    def text(name: str, index: int) -> str:
        kinds = int(name[1:])
        draw = int.from_bytes(hashlib.blake2b(f"{name}/{index}".encode(), digest_size=4).digest(), "big")
        if kinds == 0 or draw % 5 == 0:
            return "no idea"
        n = draw // 5 % kinds
        return f"{n}+{6} = <<{n}+6={n + 6}>>{n + 6}\n#### 6"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    questions = folder / "q.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i}?", "answer": "#### 6"} for i in range(QUESTIONS)]
    questions.write_text("".join(json.dumps(r) + "\n" for r in rows))
    model = write_tiny_llama(folder / "model")
    options = SampleOptions(str(model), str(questions), shots=0, k=K, budget=True, k_floor=2, k_cap=30)
    return prepare(options)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    original = budget.windows
    monkeypatch.setattr("rftfast.pipeline.adaptive.windows", lambda ids: original(ids, WINDOW))


def finish(job: Job, path: Path, world: World, commit: int = 3) -> Progress:
    with RunDir.open(path, job.identity(), job.fingerprints(), {}, commit_questions=commit) as directory:
        return run(job, world, directory, lambda _: None)  # type: ignore[arg-type]


def test_every_question_gets_its_share(job: Job, tmp_path: Path) -> None:
    progress = finish(job, tmp_path / "run", World(0))
    stored = {q.id: q for q in RunDir.read_questions(tmp_path / "run")}
    assert stored.keys() == {f"q{i}" for i in range(QUESTIONS)}
    counts = {name: len(q.samples) for name, q in stored.items()}
    assert sum(counts.values()) == QUESTIONS * K == progress.samples
    assert all(2 <= n <= 30 for n in counts.values())
    assert counts["q0"] < K < counts["q3"]  # the same window: nothing to find, and the most
    for name, question in stored.items():
        assert [s["sample_index"] for s in question.samples] == list(range(counts[name]))
        lists = {tuple(s["equations"]) for s in question.samples if s["verdict"] == "correct"}
        assert sum(s["kept"] for s in question.samples) == len(lists)
    recorded = {
        f"q{i}": [
            None if "####" not in World.text(f"q{i}", n) else World.text(f"q{i}", n).split("<<")[1] for n in range(30)
        ]
        for i in range(QUESTIONS)
    }
    assert job.budget is not None
    assert budget.simulate(recorded, job.budget, WINDOW) == counts
    assert progress.margin is not None and 0 < progress.margin < 1


def test_arrival_order_changes_nothing(job: Job, tmp_path: Path) -> None:
    contents = set()
    for seed in range(4):
        finish(job, tmp_path / str(seed), World(seed))
        contents.add((tmp_path / str(seed) / "rft.jsonl").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("stop_after", [5, 39, 60, 79, 83, 100, 131])
def test_broken_off_anywhere_it_ends_the_same(job: Job, tmp_path: Path, stop_after: int) -> None:
    """Parts of one question each: a window that was stored in part is dealt again from what is stored."""
    with pytest.raises(UserError, match="disk"):
        finish(job, tmp_path / "run", World(1, stop_after), commit=1)
    before = {q.id for q in RunDir.read_questions(tmp_path / "run")}
    world = World(2)
    finish(job, tmp_path / "run", world)
    assert not before & {name for name, _ in world.drawn}, "what is stored is not drawn again"
    finish(job, tmp_path / "whole", World(3))
    assert (tmp_path / "run/rft.jsonl").read_bytes() == (tmp_path / "whole/rft.jsonl").read_bytes()


def test_a_window_stored_in_part_is_gone_on_with(job: Job, tmp_path: Path) -> None:
    """As if killed between two parts of one window."""
    finish(job, tmp_path / "whole", World(0), commit=1)
    finish(job, tmp_path / "run", World(0), commit=1)
    parts = sorted((tmp_path / "run/samples").iterdir())
    lost = []
    for part in parts[1::3]:
        lost.append(json.loads(part.read_text().splitlines()[0])["question_id"])
        part.unlink()
    world = World(7)
    finish(job, tmp_path / "run", world)
    assert {name for name, _ in world.drawn} == set(lost)
    assert (tmp_path / "run/rft.jsonl").read_bytes() == (tmp_path / "whole/rft.jsonl").read_bytes()


@pytest.mark.parametrize("failures", [1, WINDOW])
def test_a_disk_that_is_full_for_a_while_costs_no_finished_window(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """All that a window has found out waits in memory, and is there when the run directory is closed."""
    left = failures

    def write(path: Path, chunks: Iterable[bytes]) -> None:
        nonlocal left
        if path.parent.name == "samples" and left > 0:
            left -= 1
            with write_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        write_atomic(path, chunks)

    monkeypatch.setattr("rftfast.data.run_dir.write_atomic", write)
    with pytest.raises(UserError, match="disk full"):
        finish(job, tmp_path / "run", World(1), commit=1)
    stored = {q.id for q in RunDir.read_questions(tmp_path / "run")}
    reached = sorted({int(name[1:]) // WINDOW for name in stored})
    assert left == 0 and reached and stored == {f"q{w * WINDOW + i}" for w in reached for i in range(WINDOW)}
    world = World(2)
    finish(job, tmp_path / "run", world)
    assert not stored & {name for name, _ in world.drawn}
    finish(job, tmp_path / "whole", World(3))
    assert (tmp_path / "run/rft.jsonl").read_bytes() == (tmp_path / "whole/rft.jsonl").read_bytes()


def test_a_record_that_does_not_fit_the_budget_is_refused(job: Job, tmp_path: Path) -> None:
    finish(job, tmp_path / "run", World(0), commit=1)
    for part in sorted((tmp_path / "run/samples").iterdir()):
        lines = part.read_text().splitlines()
        head = json.loads(lines[0])
        if head["question_id"] == "q3":
            head["samples"] = 2
            part.write_text("\n".join([json.dumps(head), *lines[1:3]]) + "\n")
        if head["question_id"] == "q2":
            part.unlink()
    with pytest.raises(UserError, match="'q3' is stored with fewer samples"):
        finish(job, tmp_path / "run", World(0))


def test_the_budget_is_part_of_the_runs_identity(job: Job, tmp_path: Path) -> None:
    finish(job, tmp_path / "run", World(0))
    plain = prepare(SampleOptions(str(job.folder), job.options.questions, shots=0, k=K))
    assert "budget" not in plain.identity()
    with pytest.raises(UserError, match="budget"):
        finish(plain, tmp_path / "run", World(0))


def test_bounds_without_a_budget_are_refused(job: Job) -> None:
    with pytest.raises(UserError, match="--budget"):
        prepare(SampleOptions(str(job.folder), job.options.questions, shots=0, k=K, k_cap=20))
