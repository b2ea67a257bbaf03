"""Rollouts from the middle of responses: for each step, completions from its end, all prefixes of a question in one tree.

A response's longest prefix is asked for first: it is computed once, and the shorter ones fork from it. Prefixes that
several responses of a question have in common are one state and are rolled out once. A rollout's noise is named
``question/sample/step`` (of the first response that has the prefix) and its index, so it does not depend on what else is
drawn, nor on how often the job was killed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rftfast.data.parts import StoredQuestion
from rftfast.data.record_dir import RecordDir
from rftfast.engine.params import Generation, Request
from rftfast.errors import UserError
from rftfast.negatives.job import RolloutJob
from rftfast.negatives.judge import RolloutJudge, Round
from rftfast.negatives.records import Rolled, RolledQuestion, Rollout, State
from rftfast.negatives.search import All, Bisection, Search, StateTest
from rftfast.negatives.source import Drawn
from rftfast.pipeline.engines import Engine
from rftfast.pipeline.job import versions

_COMMIT_QUESTIONS = 8
_METRICS_EVERY_S = 10.0


@dataclass
class Progress:
    """Where a job stands; counts are of this process unless they say ``stored``."""

    questions: int
    """Of the run that have responses to take apart."""
    stored_questions: int
    questions_done: int = 0
    responses: int = 0
    states: int = 0
    """Different prefixes rolled out from."""
    rollouts: int = 0
    right: int = 0
    tokens: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    """Tokens of all rollouts' prompts and prefixes, as if each had its own."""
    computed_prompt_tokens: int = 0
    retokenised: int = 0
    joined: int = 0
    """Step borders given up, as they fall inside a token."""
    spared_rollouts: int = 0
    """By bisection, of those that all states would have taken."""
    spared_tokens: float = 0.0
    """That these would have drawn, estimated from the lengths of the others of their question."""

    @property
    def rollouts_per_second(self) -> float:
        return self.rollouts / self.seconds if self.seconds else 0.0


@dataclass(eq=False)
class _OpenState:
    name: str
    prefix: tuple[int, ...]
    text: str
    test: StateTest
    arrived: list[Generation] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)


class _OpenQuestion:
    """A question while its rollouts are drawn: states by their tokens, and each response's search among them."""

    def __init__(self, job: RolloutJob, stored: StoredQuestion) -> None:
        self.job, self.stored = job, stored
        self.prompt = job.source.prompt(stored, job.tokenizer)
        self.sampled = job.sampled(stored)
        self.states: list[_OpenState] = []
        self.drawn: list[Drawn] = []
        self.of_response: list[list[int | None]] = []
        self.searches: list[Search] = []
        self._by_prefix: dict[tuple[int, ...], int] = {}
        for response in job.chosen(stored):
            self._add(job.source.drawn(stored, response, job.options.steps, self.prompt, job.vocabulary))

    def _add(self, drawn: Drawn) -> None:
        bisect = self.job.options.bisect and not drawn.response.right
        count = len(drawn.steps.ends)
        numbers: list[int | None] = []
        for step in range(count):
            if step == 0 and (bisect or self.sampled is not None):
                numbers.append(None)  # what the question itself is worth is known, or not asked
                continue
            tokens = drawn.tokens[: drawn.steps.tokens[step - 1]] if step else ()
            number = self._by_prefix.setdefault(tokens, len(self.states))
            if number == len(self.states):
                text = drawn.response.text[: drawn.steps.ends[step - 1]] if step else ""
                name = f"{self.stored.id}/{drawn.response.sample_index}/{step}"
                test = StateTest(self.job.options.rollouts, sequential=bisect)
                self.states.append(_OpenState(name, tokens, text, test))
            elif not bisect:
                self.states[number].test.sequential = False  # another response needs its Q
            numbers.append(number)
        self.drawn.append(drawn)
        self.of_response.append(numbers)
        first = 0 if numbers[0] is not None else 1
        self.searches.append(Bisection(count) if bisect else All(count, first))

    def next(self) -> Iterator[tuple[int, Request]]:
        """Requests that can be made now, each with the number of its state."""
        progress = True
        while progress:
            progress = False
            for numbers, search in zip(self.of_response, self.searches, strict=True):
                for step in search.wanted():
                    number = numbers[step]
                    assert number is not None
                    test = self.states[number].test
                    if test.decided:
                        search.tell(step, test.dead)
                        progress = True
                    elif indices := test.next():
                        yield number, self._request(self.states[number], indices)

    def _request(self, state: _OpenState, indices: range) -> Request:
        params = self.job.params
        left = max(1, params.max_tokens - len(state.prefix))
        tokens = (*self.prompt.tokens, *state.prefix)
        return Request(state.name, tokens, replace(params, max_tokens=left), tuple(indices))

    @property
    def done(self) -> bool:
        return not any(search.wanted() for search in self.searches)

    def result(self) -> RolledQuestion:
        """What was found out. States that nobody asked about are left out."""
        asked = {i: n for n, i in enumerate(i for i, s in enumerate(self.states) if s.test.asked)}
        responses = []
        for drawn, numbers, search in zip(self.drawn, self.of_response, self.searches, strict=True):
            r = drawn.response
            responses.append(
                Rolled(
                    r.sample_index,
                    r.text,
                    r.verdict,
                    r.right,
                    r.complete,
                    drawn.retokenised,
                    drawn.steps.joined,
                    drawn.steps.ends,
                    tuple(asked.get(n) if n is not None else None for n in numbers),
                    "bisect" if isinstance(search, Bisection) else "all",
                    search.pit if isinstance(search, Bisection) else None,
                )
            )
        states = tuple(
            State(s.name, len(s.prefix), s.test.sequential, tuple(s.rollouts)) for s in self.states if s.test.asked
        )
        s = self.stored
        return RolledQuestion(s.id, s.prompt, s.begin, s.gold, self.sampled, tuple(responses), states)

    def spared(self) -> tuple[int, float]:
        """(rollouts, tokens) that drawing from all states would have taken besides."""
        drawn = [len(s.prefix) + r.tokens for s in self.states for r in s.rollouts]
        usual = sum(drawn) / len(drawn) if drawn else 0.0
        missing = [(s, s.test.most - s.test.asked) for s in self.states]
        return sum(n for _, n in missing), sum(n * max(1.0, usual - len(s.prefix)) for s, n in missing)


def open_rollouts(job: RolloutJob, sampler: Engine, path: Path, notes: Mapping[str, Any]) -> RecordDir:
    """The job's directory, new or to go on with. ``notes`` are recorded, not compared."""
    identity = job.identity() | {"dtype": sampler.dtype, "invariant": sampler.invariant}
    return RecordDir.open(path, identity, job.fingerprints(), versions(), notes=notes, commit_records=_COMMIT_QUESTIONS)


def run(job: RolloutJob, sampler: Engine, directory: RecordDir, report: Callable[[Progress], None]) -> Progress:
    """Draws what ``directory`` does not hold yet. ``report`` is called after every rollout.

    Raises UserError (a full disk, a prefix that does not fit); whole questions finished before it are stored.
    """
    early_stop = job.source.early_stop
    with RolloutJudge(job.policy, job.params.stop, early_stop=early_stop) as judge:
        work = _Run(job, sampler, directory, judge)
        last_metrics = time.monotonic()
        monitor = judge.border if judge.border.triggers else None
        try:
            for generation in sampler.stream(work.requests(), monitor):
                work.take(generation)
                now = time.monotonic()
                if now - last_metrics >= _METRICS_EVERY_S:
                    directory.metrics(_metrics(work.progress))
                    last_metrics = now
                report(work.progress)
        finally:  # also what was drawn before an error or an interrupt is judged and handed in
            work.settle(wait=True)
    assert not work.open, f"{len(work.open)} questions were left unfinished"
    directory.commit()
    report(work.progress)
    directory.metrics({"event": "finished", **_metrics(work.progress)})
    return work.progress


class _Run:
    """One process's share of the job."""

    def __init__(self, job: RolloutJob, sampler: Engine, directory: RecordDir, judge: RolloutJudge) -> None:
        self.job, self.sampler, self.directory, self.judge = job, sampler, directory, judge
        done = directory.done()
        names = [stored.id for stored in job.questions()]
        if not names:
            raise UserError(
                f"{job.source.path}: no question has a response to roll out from; look at --dry-run, which counts them"
            )
        self._todo = iter([name for name in names if name not in done])
        self.progress = Progress(len(names), sum(name in done for name in names))
        self.open: dict[str, _OpenQuestion] = {}
        self._ready: deque[tuple[str, int, Request]] = deque()
        self._drawing: dict[str, tuple[str, int, int]] = {}  # request -> question, state, rollouts that are out
        self._start = time.monotonic()
        self._before = sampler.stats.prompt_tokens, sampler.stats.prefill_rows

    def requests(self) -> Iterator[Request | None]:
        while True:
            self.settle(wait=False)
            if self._ready:
                yield self._asked(*self._ready.popleft())
            elif (name := next(self._todo, None)) is not None:
                question = _OpenQuestion(self.job, self.job.source.read(name))
                self.open[name] = question
                self._advance(name)
            elif self._drawing:
                yield None
            elif self.open:  # what they wait for is being judged
                self.settle(wait=True)
            else:
                return

    def take(self, generation: Generation) -> None:
        """A rollout has come out of the engine."""
        name, number, out = self._drawing.pop(generation.name)
        question = self.open[name]
        state = question.states[number]
        state.arrived.append(generation)
        if out > 1:
            self._drawing[generation.name] = name, number, out - 1
        else:
            del self.judge.border.tails[generation.name]
            arrived, state.arrived = tuple(state.arrived), []
            self.judge.submit(Round(name, number, state.text, question.stored.gold, arrived))
        p, stats = self.progress, self.sampler.stats
        p.rollouts += 1
        p.tokens += len(generation.token_ids)
        p.seconds = time.monotonic() - self._start
        p.prompt_tokens = stats.prompt_tokens - self._before[0]
        p.computed_prompt_tokens = stats.prefill_rows - self._before[1]
        self.settle(wait=False)

    def settle(self, wait: bool) -> None:
        """Takes in what has been judged; with ``wait``, until nothing is left to be judged."""
        for round_, rollouts in self.judge.results(wait):
            state = self.open[round_.question_id].states[round_.state]
            state.rollouts.extend(rollouts)
            state.test.record([r.right for r in rollouts])
            self.progress.right += sum(r.right for r in rollouts)
            self._advance(round_.question_id)

    def _asked(self, name: str, number: int, request: Request) -> Request:
        state = self.open[name].states[number]
        self._drawing[request.name] = name, number, len(request.indices())
        self.judge.border.tails[request.name] = state.text
        return request

    def _advance(self, name: str) -> None:
        question = self.open[name]
        self._ready.extend((name, number, request) for number, request in question.next())
        if question.done:
            del self.open[name]
            self._store(question)

    def _store(self, question: _OpenQuestion) -> None:
        rolled = question.result()
        self.directory.add(rolled.to_record())
        p = self.progress
        p.questions_done += 1
        p.responses += len(rolled.responses)
        p.states += len(rolled.states)
        p.retokenised += sum(r.retokenised for r in rolled.responses)
        p.joined += sum(r.joined for r in rolled.responses)
        rollouts, tokens = question.spared()
        p.spared_rollouts += rollouts
        p.spared_tokens += tokens


def _metrics(p: Progress) -> dict[str, Any]:
    return {
        "questions": p.stored_questions + p.questions_done,
        "states": p.states,
        "rollouts": p.rollouts,
        "right": p.right,
        "tokens": p.tokens,
        "seconds": round(p.seconds, 3),
        "rollouts_per_s": round(p.rollouts_per_second, 2),
        "prompt_tokens": p.prompt_tokens,
        "computed_prompt_tokens": p.computed_prompt_tokens,
    }
