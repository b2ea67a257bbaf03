"""A toy policy whose step values are known exactly, behind the sampler's interface.

It writes ``LINES`` lines, each ``o`` (on track) or ``x`` (astray), and then ``#### 1`` if the last line was an ``o``, else
``#### 0``. After the question or an ``o`` a line is an ``x`` with chance ``STRAY``; after an ``x`` it is an ``o`` again
with chance ``RETURN``, but never once two ``x`` stand in a row.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rftfast.data.run_dir import RunDir
from rftfast.engine.params import Generation, Request
from rftfast.engine.stats import Stats
from rftfast.models.tokenizer import Tokenizer
from rftfast.negatives import rollouts
from rftfast.negatives.job import RolloutJob, RolloutOptions, prepare
from rftfast.negatives.step_rows import write_steps
from rftfast.pipeline import job as sampling
from rftfast.pipeline import sample as sampled
from tests.tiny_model import EOS, write_tiny_llama

LINES, STRAY, RETURN = 5, 0.3, 0.4
PROMPT_END = "Answer:"


@lru_cache
def tokenizer() -> Tokenizer:
    """The tiny model's: a token is a byte."""
    with TemporaryDirectory() as folder:
        return Tokenizer.from_folder(write_tiny_llama(Path(folder)))


def exact_q(lines: str) -> float:
    """The chance of ``#### 1`` after ``lines`` (such as ``oxo``)."""
    if "xx" in lines:
        return 0.0
    if len(lines) == LINES:
        return float(lines[-1] == "o")
    on = 1 - STRAY if not lines.endswith("x") else RETURN
    return on * exact_q(lines + "o") + (1 - on) * exact_q(lines + "x")


def write_on(lines: str, draw: random.Random) -> str:
    """The rest of a response that has come to ``lines``."""
    text = ""
    while len(lines) < LINES:
        on = 0.0 if "xx" in lines else RETURN if lines.endswith("x") else 1 - STRAY
        letter = "o" if draw.random() < on else "x"
        lines += letter
        text += f"{letter}\n"
    return text + f"#### {int(lines[-1] == 'o')}"


class ToySampler:
    """Draws by name alone; ``pause`` seconds a path, ``stop_after`` paths until it fails."""

    def __init__(self, *, order: int = 0, pause: float = 0.0, stop_after: int | None = None) -> None:
        self.invariant, self.dtype, self.stats = True, "float32", Stats()
        self._shuffle = random.Random(order)
        self._pause, self._left = pause, stop_after
        self.requests: list[Request] = []
        self.tokens = 0

    def check_request(self, request: Request) -> None:
        assert request.tokens

    def stream(self, requests: Iterable[Request | None], monitor: object = None) -> Iterator[Generation]:
        source, waiting, more = iter(requests), [], True
        while more or waiting:
            while more and len(waiting) < 64:
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
                if self._left == 0:
                    raise KeyboardInterrupt
                self._left = None if self._left is None else self._left - 1
                yield self._draw(*waiting.pop(self._shuffle.randrange(len(waiting))))

    def _draw(self, request: Request, index: int) -> Generation:
        time.sleep(self._pause)
        text = tokenizer().decode(request.tokens[-60:]).rpartition(PROMPT_END)[2]
        lead = "" if text.strip() else " "
        lines = "".join(line for line in text.split() if line in "ox")
        drawn = lead + write_on(lines, random.Random(f"{request.params.seed} {request.name} {index}"))
        ids = (*tokenizer().encode(drawn), EOS)
        self.tokens += len(ids)
        return Generation(request.name, index, drawn, ids, (-0.5,) * len(ids), "eos")


def make_run(folder: Path, *, questions: int = 6, k: int = 30, token_ids: bool = True) -> Path:
    """A run directory of the toy policy, made by the pipeline itself."""
    model = write_tiny_llama(folder / "model", context=512)
    file = folder / "q.jsonl"
    rows = [{"id": f"q{i}", "question": f"Where to, {i}?", "answer": "x\n#### 1"} for i in range(questions)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = sampling.prepare(
        sampling.SampleOptions(model=str(model), questions=str(file), shots=2, k=k, token_ids=token_ids)
    )
    with sampled.open_run(job, ToySampler(), folder / "run", {}) as directory:  # type: ignore[arg-type]
        sampled.run(job, ToySampler(), directory, lambda progress: None)  # type: ignore[arg-type]
    assert sum(1 for _ in RunDir.read_questions(folder / "run")) == questions
    return folder / "run"


def roll(job: RolloutJob, sampler: ToySampler, out: Path, best_of: int = 1) -> bytes:
    """Rolls out into ``out``; the bytes of its steps.jsonl."""
    with rollouts.open_rollouts(job, sampler, out, {}) as directory:  # type: ignore[arg-type]
        rollouts.run(job, sampler, directory, lambda progress: None)  # type: ignore[arg-type]
        write_steps(out, job.source.order, best_of)
    return (out / "steps.jsonl").read_bytes()


if __name__ == "__main__":  # RUN OUT: for tests that kill it
    rollouts._COMMIT_QUESTIONS = 1
    roll(prepare(RolloutOptions(sys.argv[1], rollouts=4, positives=3)), ToySampler(pause=0.002), Path(sys.argv[2]))
