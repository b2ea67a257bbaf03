"""Runs a sampling job: paths stream out of the engine, are verified as they come, and a question whose k paths are all
there is folded into its distinct ones and handed to the run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.records import Completion, Question, Verdict
from rftfast.data.run_dir import RunDir
from rftfast.engine.params import Generation
from rftfast.engine.sampler import Sampler
from rftfast.pipeline.job import Job, versions
from rftfast.select import select_paths
from rftfast.verify import verify

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
    """A question some of whose paths are still being drawn."""

    question: Question
    completions: list[Completion] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


def open_run(job: Job, sampler: Sampler, path: Path, notes: Mapping[str, Any]) -> RunDir:
    """The job's run directory, new or to go on with. ``notes`` are recorded, not compared.

    Raises UserError, before anything is written, if the longest prompt does not fit the model or the memory.
    """
    sampler.check_request(next(job.requests([job.longest_prompt()])))
    dtype = str(sampler.decoder.dtype).removeprefix("torch.")
    identity = job.identity() | {"dtype": dtype, "invariant": sampler.invariant}
    return RunDir.open(path, identity, job.fingerprints(), versions(), notes={"model": job.options.model, **notes})


def run(job: Job, sampler: Sampler, directory: RunDir, report: Callable[[Progress], None]) -> Progress:
    """Draws what ``directory`` does not hold yet, and finishes it. ``report`` is called after every finished path.

    Raises UserError (a full disk, a prompt that does not fit); whole questions finished before it are stored.
    """
    done = directory.done()
    todo = [q for q in job.questions if q.id not in done]
    progress = Progress(len(job.questions), len(job.questions) - len(todo), job.options.k)
    waiting = {q.id: _Open(q) for q in todo}
    start = last_metrics = time.monotonic()
    for generation in sampler.stream(job.requests(todo)):
        entry = waiting[generation.name]
        completion, verdict = _verified(job, entry.question, generation)
        entry.completions.append(completion)
        entry.verdicts.append(verdict)
        if len(entry.completions) == job.options.k:
            progress.distinct += _store(job, directory, waiting.pop(generation.name))
            progress.questions_done += 1
        now = time.monotonic()
        _count(progress, sampler, generation, verdict, now - start)
        if now - last_metrics >= _METRICS_EVERY_S:
            directory.metrics(_metrics(progress))
            last_metrics = now
        report(progress)
    assert not waiting, f"{len(waiting)} questions were left unfinished"
    directory.finish([q.id for q in job.questions])
    directory.metrics({"event": "finished", **_metrics(progress)})
    return progress


def _verified(job: Job, question: Question, generation: Generation) -> tuple[Completion, Verdict]:
    text = job.template.clean(generation.text)
    truncated = generation.finish_reason == "length"
    completion = Completion(
        question.id,
        generation.sample_index,
        text,
        generation.token_ids,
        generation.logprob,
        generation.finish_reason,
    )
    return completion, verify(text, question.answer, job.policy, truncated=truncated)


def _store(job: Job, directory: RunDir, entry: _Open) -> int:
    """Selects in sample order, hands the question in; returns how many paths were kept."""
    order = sorted(range(len(entry.completions)), key=lambda i: entry.completions[i].sample_index)
    completions = [entry.completions[i] for i in order]
    verdicts = [entry.verdicts[i] for i in order]
    good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
    chosen = select_paths([completions[i].text for i in good], equations=[verdicts[i].equations for i in good])
    kept = [completions[good[i]].sample_index for i in chosen]
    prompt = job.prompt(entry.question, shots=False)
    directory.add(entry.question, completions, verdicts, kept, prompt=prompt, begin=job.template.begin)
    return len(kept)


def _count(progress: Progress, sampler: Sampler, generation: Generation, verdict: Verdict, seconds: float) -> None:
    progress.samples += 1
    progress.tokens += len(generation.token_ids)
    progress.accepted += verdict.correct
    progress.truncated += generation.finish_reason == "length"
    progress.seconds = seconds
    scheduler = sampler.scheduler
    progress.prompt_tokens = scheduler.prompt_tokens
    progress.computed_prompt_tokens = scheduler.prefill_tokens
    progress.preemptions = scheduler.preemptions


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
    }
