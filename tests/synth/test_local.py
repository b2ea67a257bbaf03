"""A model of one's own as the teacher: through the sampler, the same each time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("datasketch", reason="datasketch is not installed (pip install 'rftfast[synth]')")

from rftfast.engine import Generation, Request, Sampler
from rftfast.models.tokenizer import Tokenizer
from rftfast.synth.job import SynthOptions, prepare
from rftfast.synth.local import LocalTeacher
from rftfast.synth.run import open_synth, run, write_problems
from rftfast.synth.teacher import Ask
from tests.synth.server import solve, toy_problem
from tests.tiny_model import write_tiny_llama


class Scholar:
    """An engine that answers like the server's teacher, in any order."""

    def __init__(self, tokenizer: Tokenizer, order: int = 0) -> None:
        self.tokenizer, self.shuffle = tokenizer, random.Random(order)
        self.requests: list[Request] = []

    def stream(self, requests: Iterable[Request | None], monitor: object = None) -> Iterator[Generation]:
        waiting: list[tuple[Request, int]] = []
        source, more = iter(requests), True
        while more or waiting:
            while more and len(waiting) < 12:
                request = next(source, "end")
                if request is None:
                    break
                if request == "end":
                    more = False
                else:
                    assert isinstance(request, Request)
                    self.requests.append(request)
                    waiting += [(request, i) for i in request.indices()]
            if waiting:
                request, i = waiting.pop(self.shuffle.randrange(len(waiting)))
                prompt = self.tokenizer.decode(request.tokens)
                if prompt.endswith("\nAnswer:"):
                    text = " " + solve(prompt.rpartition("Question: ")[2], i)
                else:
                    text = " " + toy_problem(prompt)[0]
                yield Generation(request.name, i, text, (1, 2, 3), (-1.0,) * 3, "stop")


def test_a_job_with_a_local_teacher(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_tiny_llama(tmp_path / "model"))
    outcomes = set()
    for order in range(3):
        scholar = Scholar(tokenizer, order)
        job = prepare(SynthOptions(problems=20))
        out = tmp_path / str(order)
        with open_synth(job, out, {"local": True}, {}, {}, {}) as directory:
            run(job, LocalTeacher(scholar, tokenizer, seed=5), directory, lambda progress: None)  # type: ignore[arg-type]
        totals = write_problems(job, out)
        outcomes.add((out / "problems.jsonl").read_bytes() + (out / "dropped.jsonl").read_bytes())
        assert totals.kept > 8 and totals.usage.output == sum(3 * len(r.indices()) for r in scholar.requests)
    assert len(outcomes) == 1
    solving = [r for r in scholar.requests if r.name.endswith("/solutions")]
    assert all(r.params.k == 4 and r.params.stop == ("\n\n", "\nQuestion:") and r.params.seed == 5 for r in solving)
    row = json.loads((out / "problems.jsonl").read_text().splitlines()[0])
    assert "#### " in row["answer"]


def test_the_same_ask_gives_the_same_texts(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    asks = [Ask(name, (), f"{name} says:", (), 3, 12, 1.0) for name in ("a", "b")]
    found = []
    for order in (asks, asks[::-1]):
        sampler = Sampler.from_pretrained(folder, dtype="float32", kv_memory="4MiB", threads=1)
        answers = {a.ask.name: a for a in LocalTeacher(sampler, sampler.tokenizer).stream(iter(order))}
        found.append({name: [t.text for t in a.texts] for name, a in answers.items()})
        assert any(t.cut for a in answers.values() for t in a.texts), "it mostly has no end of its own"
        assert answers["a"].usage.input == len("a says:") and 3 <= answers["a"].usage.output <= 36
    assert found[0] == found[1]
