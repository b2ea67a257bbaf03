"""Our own engine, with and without prefix sharing."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure


@dataclass
class _Clock:
    """Wall time and the engine's own split of it, step by step, by wrapping the sampler's step."""

    sampler: Any
    steps: list[tuple[int, bool, float, dict[str, float]]] = field(default_factory=list)
    first: float | None = None

    def __post_init__(self) -> None:
        self.inner = self.sampler._step
        self.sampler._step = self.step

    def step(self) -> Any:
        before = self.sampler.stats
        start = time.perf_counter()
        finished = self.inner()
        seconds = time.perf_counter() - start
        after = self.sampler.stats
        parts = {name: value - (before.seconds or {}).get(name, 0.0) for name, value in (after.seconds or {}).items()}
        rows = after.decode_rows - before.decode_rows
        if rows and self.first is None:
            self.first = start + seconds
        self.steps.append((rows, after.prefill_rows > before.prefill_rows, seconds, parts))
        return finished


def run(job: Job, share: bool) -> Measure:
    """Measure ``job`` with ``prefix_share=share``. The KV memory is the engine's own plan."""
    from rftfast import Sampler, SamplingParams

    torch.set_num_threads(job.threads)
    sampler = Sampler.from_pretrained(
        job.model, device=job.device, dtype=job.dtype, threads=job.threads, prefix_share=share
    )
    prompts = [list(prompt) for prompt in job.prompts]
    forced = not job.verified
    warm = SamplingParams(
        k=job.k, temperature=job.temperature, max_tokens=min(WARM_UP_TOKENS, job.max_tokens), ignore_eos=True
    )
    sampler.generate([list(job.warm_up_prompt)], warm)
    params = SamplingParams(
        k=job.k,
        temperature=job.temperature,
        max_tokens=job.max_tokens,
        stop=() if forced else job.stop,
        seed=job.seed,
        ignore_eos=forced,
    )
    clock = _Clock(sampler)
    before = sampler.stats
    start = time.perf_counter()
    groups = sampler.generate(prompts, params)
    seconds = time.perf_counter() - start
    after = sampler.stats
    lengths = [len(path.token_ids) for group in groups for path in group]
    if forced:
        assert set(lengths) == {job.max_tokens}, (
            f"asked for exactly {job.max_tokens} tokens, drew {sorted(set(lengths))}"
        )
    distinct = None
    if job.verified:
        from bench.verified import distinct_verified

        distinct = distinct_verified([[path.text for path in group] for group in groups], job.golds, job.stop)
    rows, step_ms, parts = _full_steps(clock)
    return Measure(
        seconds=seconds,
        tokens=sum(lengths),
        samples=len(lengths),
        # Prompts that wait while others decode have no prefill time of their own.
        prefill_s=clock.first - start if clock.first is not None and len(prompts) == 1 else None,
        step_ms=step_ms,
        step_rows=rows,
        distinct_verified=distinct,
        notes=() if share else ("prefix sharing off",),
        extra={
            "prompt_tokens": after.prompt_tokens - before.prompt_tokens,
            "prefill_tokens": after.prefill_rows - before.prefill_rows,
            "preemptions": after.preemptions - before.preemptions,
            "dtype": str(sampler.decoder.dtype).removeprefix("torch."),
            **parts,
        },
    )


def _full_steps(clock: _Clock) -> tuple[int | None, float | None, dict[str, float]]:
    """Of the steps that only decode, those with the commonest number of rows: rows, median ms, and ms of each part.

    ``host_share``: the part of such a step that is spent outside the model and the sampling.
    """
    pure = [step for step in clock.steps if step[0] and not step[1]]
    if not pure:
        return None, None, {}
    rows = Counter(step[0] for step in pure).most_common(1)[0][0]
    full = [step for step in pure if step[0] == rows]
    total = sum(step[2] for step in full)
    sums = {name: sum(step[3].get(name, 0.0) for step in full) for name in full[0][3]}
    parts = {f"step_{name}_ms": 1e3 * value / len(full) for name, value in sums.items()}
    kernels = sums.get("model", 0.0) + sums.get("sample", 0.0)
    return rows, 1e3 * statistics.median(step[2] for step in full), {**parts, "host_share": 1 - kernels / total}
