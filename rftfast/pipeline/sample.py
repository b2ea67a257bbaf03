"""Runs a sampling job: paths stream out of the engine, are verified beside it, and a question whose paths are all there is
folded into its distinct ones and handed to the run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.manifest import check_manifest
from rftfast.data.records import Completion, Question, Verdict
from rftfast.data.run_dir import RunDir
from rftfast.data.run_index import StoredQuestions
from rftfast.engine.params import Generation, Request
from rftfast.errors import UserError
from rftfast.pipeline.adaptive import AdaptiveDraws
from rftfast.pipeline.early_stop import SavedTokens
from rftfast.pipeline.engines import Engine
from rftfast.pipeline.job import Job, versions
from rftfast.pipeline.judge import Judge
from rftfast.select import equation_key, select_paths

_METRICS_EVERY_S = 10.0


@dataclass
class Progress:
    """Where a run stands. Counts are of this process unless they say ``stored``."""

    questions: int
    """Of the whole job."""
    stored_questions: int
    """Stored by earlier processes."""
    k: int
    questions_done: int = 0
    samples: int = 0
    tokens: int = 0
    accepted: int = 0
    distinct: int = 0
    truncated: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    """Prompt tokens as if each sample had its own."""
    computed_prompt_tokens: int = 0
    preemptions: int = 0
    stopped: int = 0
    """Paths that early stop ended at a false equation."""
    stop_saved_tokens: float = 0.0
    """Tokens these would still have drawn, estimated (``early_stop.SavedTokens``)."""
    margin: float | None = None
    """Adaptive k: expected new paths of the last samples dealt, averaged over the finished windows."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """By the samples drawn so far; None before the first."""
        if not self.samples:
            return None
        left = (self.questions - self.stored_questions) * self.k - self.samples
        return left * self.seconds / self.samples

    @property
    def distinct_per_question(self) -> float:
        return self.distinct / self.questions_done if self.questions_done else 0.0

    @property
    def saved_share(self) -> float:
        """Tokens that sharing spared, as a share of all that would have been computed without it."""
        whole = self.prompt_tokens + self.tokens
        return (self.prompt_tokens - self.computed_prompt_tokens) / whole if whole else 0.0


@dataclass
class _Open:
    """A question some of whose paths are still being drawn or judged."""

    question: Question
    completions: list[Completion] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    wanted: int = 0
    """Paths asked for and not judged yet."""
    arrived: list[Generation] = field(default_factory=list)
    """Those of them that are there."""


def check_run(job: Job, path: Path) -> None:
    """Raises UserError for a folder that :func:`open_run` would refuse, as far as that is known before the model is loaded."""
    check_manifest(path, job.identity(), job.fingerprints(), unknown=("dtype", "invariant"))


def open_run(job: Job, sampler: Engine, path: Path, notes: Mapping[str, Any]) -> RunDir:
    """The job's run directory, new or to go on with. ``notes`` are recorded, not compared.

    Raises UserError, before anything is written, if the longest prompt does not fit the model or the memory.
    """
    longest = job.longest_prompt()
    try:
        sampler.check_request(job.request(longest))
    except UserError as error:
        raise UserError(f"{job.named(longest)}: {error}") from None
    identity = job.identity() | {"dtype": sampler.dtype, "invariant": sampler.invariant}
    notes = {"model": job.options.model, **notes}
    token_ids = job.options.token_ids
    return RunDir.open(path, identity, job.fingerprints(), versions(), notes=notes, token_ids=token_ids)


def run(job: Job, sampler: Engine, directory: RunDir, report: Callable[[Progress], None]) -> Progress:
    """Draws what ``directory`` does not hold yet, and finishes it. ``report`` is called after every finished path.

    Raises UserError (a full disk, a prompt that does not fit); whole questions finished before it are stored.
    """
    with Judge(job) as judge:
        work = _Run(job, sampler, directory, judge)
        monitor = judge.online if job.options.early_stop else None
        last_metrics = time.monotonic()
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
    assert not work.waiting, f"{len(work.waiting)} questions were left unfinished"
    report(work.progress)
    directory.finish([q.id for q in job.questions])
    directory.metrics({"event": "finished", **_metrics(work.progress)})
    return work.progress


class _Run:
    """One process's share of a run: asks for paths, gathers them, has them judged, hands whole questions in."""

    def __init__(self, job: Job, sampler: Engine, directory: RunDir, judge: Judge) -> None:
        self.job, self.sampler, self.directory, self.judge = job, sampler, directory, judge
        done = directory.done()
        todo = [q for q in job.questions if q.id not in done]
        self.waiting = {q.id: _Open(q) for q in todo}
        self.progress = Progress(len(job.questions), len(job.questions) - len(todo), job.options.k)
        self._todo = todo
        self._start = time.monotonic()
        self._before = sampler.stats
        self._saved = SavedTokens(job.options.max_tokens)
        self._drawing = 0
        """Paths asked of the engine that have not come back."""
        self._adaptive: AdaptiveDraws | None = None
        if job.budget is not None:
            stored = StoredQuestions(directory.path)
            self._adaptive = AdaptiveDraws(
                job.questions, job.budget, job.request, done, stored.read, self._store_window
            )

    def requests(self) -> Iterator[Request | None]:
        for request in self.job.requests(self._todo) if self._adaptive is None else self._adaptive:
            if request is not None:
                entry = self.waiting[request.name]
                entry.wanted += len(request.indices())
                self._drawing += len(request.indices())
                yield request
            elif self._drawing:
                yield None
            else:  # what the next round waits for is being judged
                assert self.judge.busy, "a round waits for paths that nobody draws"
                self.settle(wait=True)

    def take(self, generation: Generation) -> None:
        """A path has come out of the engine."""
        self._drawing -= 1
        entry = self.waiting[generation.name]
        entry.arrived.append(generation)
        self._saved.add(len(generation.token_ids), generation.finish_reason)
        if len(entry.arrived) == entry.wanted:
            self.judge.submit(entry.question, sorted(entry.arrived, key=lambda g: g.sample_index))
            entry.arrived, entry.wanted = [], 0
        self._count(generation)
        self.settle(wait=False)

    def settle(self, wait: bool) -> None:
        """Takes in what has been judged; with ``wait``, until nothing is left to be judged."""
        for name, completions, verdicts in self.judge.results(wait):
            entry = self.waiting[name]
            entry.completions += completions
            entry.verdicts += verdicts
            self.progress.accepted += sum(verdict.correct for verdict in verdicts)
            if self._adaptive is None:
                self._store(name)
            else:
                self._adaptive.arrived(name, [equation_key(v.equations) if v.correct else None for v in verdicts])
                self.progress.margin = self._adaptive.margin

    def _store_window(self, names: list[str]) -> None:
        """Hands all of them in, even if a part cannot be written meanwhile: what waits is written when the disk allows."""
        with contextlib.ExitStack() as stack:
            for name in reversed(names):
                stack.callback(self._store, name)

    def _store(self, name: str) -> None:
        """Selects in sample order and hands the question in."""
        entry = self.waiting.pop(name)
        completions, verdicts = entry.completions, entry.verdicts
        good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
        chosen = select_paths([completions[i].text for i in good], equations=[verdicts[i].equations for i in good])
        kept = [completions[good[i]].sample_index for i in chosen]
        prompt = self.job.prompt(entry.question, shots=False)
        self.directory.add(
            entry.question,
            completions,
            verdicts,
            kept,
            prompt=prompt,
            begin=self.job.template.begin,
            answer_only=not self.job.has_solution(entry.question),
        )
        self.progress.distinct += len(kept)
        self.progress.questions_done += 1

    def _count(self, generation: Generation) -> None:
        p, stats = self.progress, self.sampler.stats
        p.samples += 1
        p.tokens += len(generation.token_ids)
        p.truncated += generation.finish_reason == "length"
        p.seconds = time.monotonic() - self._start
        before = self._before
        p.prompt_tokens = stats.prompt_tokens - before.prompt_tokens
        p.computed_prompt_tokens = stats.prefill_rows - before.prefill_rows
        p.preemptions = stats.preemptions - before.preemptions
        p.stopped, p.stop_saved_tokens = self._saved.paths, self._saved.estimate()


def _metrics(progress: Progress) -> dict[str, float]:
    return {
        "questions_done": progress.stored_questions + progress.questions_done,
        "questions": progress.questions,
        "samples": progress.samples,
        "tokens": progress.tokens,
        "accepted": progress.accepted,
        "distinct": progress.distinct,
        "truncated": progress.truncated,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": round(progress.tokens_per_second, 1),
        "prompt_tokens": progress.prompt_tokens,
        "computed_prompt_tokens": progress.computed_prompt_tokens,
        "preemptions": progress.preemptions,
        "stopped": progress.stopped,
        "stop_saved_tokens": round(progress.stop_saved_tokens),
        **({} if progress.margin is None else {"margin": round(progress.margin, 5)}),
    }
