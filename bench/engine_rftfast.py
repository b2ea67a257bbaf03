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

PROFILED_STEPS = 24
SHORT_GAP_US = 10.0
"""Between two kernels of a graph the device itself takes a microsecond or so; a host that is late leaves longer gaps."""


@dataclass
class _Clock:
    """Wall time between the ends of steps, and the engine's own split of the host's time in each."""

    sampler: Any
    steps: list[tuple[int, bool, float, dict[str, float]]] = field(default_factory=list)
    first: float | None = None
    last: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.sampler.on_step = self.step

    def step(self, times: Any) -> None:
        now = time.perf_counter()
        if times.decode_rows and self.first is None:
            self.first = now
        self.steps.append((times.decode_rows, times.prefill_rows > 0, now - self.last, times.parts))
        self.last = now


def run(job: Job, share: bool) -> Measure:
    """Measure ``job`` with ``prefix_share=share``. The KV memory is the engine's own plan."""
    from rftfast import Sampler, SamplingParams

    torch.set_num_threads(job.threads)
    begin = time.perf_counter()
    sampler = Sampler.from_pretrained(
        job.model,
        device=job.device,
        dtype=job.dtype,
        threads=job.threads,
        prefix_share=share,
        max_running=job.rows,
        quantization=job.quantization,
        kv_cache_dtype=job.kv_cache_dtype,
    )
    made = time.perf_counter() - begin
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
    before = sampler.stats
    clock = _Clock(sampler)
    start = time.perf_counter()
    groups = sampler.generate(prompts, params)
    seconds = time.perf_counter() - start
    after = sampler.stats
    sampler.on_step = None
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
            "beyond_end": after.beyond_end - before.beyond_end,
            "steps": after.steps - before.steps,
            "load_s": made,
            "dtype": sampler.dtype,
            "kernels": {op: name for op, (name, _) in sampler.decoder.ops.backends.items()},
            **parts,
            **(_profile(sampler, job, prompts, rows) if job.profile else {}),
        },
    )


def _full_steps(clock: _Clock) -> tuple[int | None, float | None, dict[str, float]]:
    """Of the steps that only decode, those with the number of rows in which most tokens are drawn: rows, median ms, and ms of each part.

    ``host_share``: on a CPU, the part of such a step that is spent outside the model and the sampling; on a GPU, the part
    in which the host works, while the device has the step before.
    """
    pure = [step for step in clock.steps if step[0] and not step[1]]
    if not pure:
        return None, None, {}
    drawn: Counter[int] = Counter()
    for step in pure:
        drawn[step[0]] += step[0]
    rows = drawn.most_common(1)[0][0]
    full = [step for step in pure if step[0] == rows]
    total = sum(step[2] for step in full)
    sums = {name: sum(step[3].get(name, 0.0) for step in full) for name in full[0][3]}
    parts = {f"step_{name}_ms": 1e3 * value / len(full) for name, value in sums.items()}
    device = sums.get("model", 0.0) + sums.get("sample", 0.0) + sums.get("wait", 0.0)
    return rows, 1e3 * statistics.median(step[2] for step in full), {**parts, "host_share": 1 - device / total}


def _profile(sampler: Any, job: Job, prompts: list[list[int]], rows: int | None) -> dict[str, Any]:
    """``PROFILED_STEPS`` steps of ``rows`` rows, with no prompts in them, under torch's profiler: for how long the device had
    nothing to do, in short gaps and in long ones, and which kernels took most of its time (name, share, times)."""
    from torch.profiler import ProfilerActivity, profile

    from rftfast import SamplingParams

    with profile(activities=[ProfilerActivity.CUDA]):  # loading it takes longer than a step
        torch.cuda.synchronize()
    recorder = profile(activities=[ProfilerActivity.CUDA])
    seen = 0

    def step(times: Any) -> None:
        nonlocal seen
        if seen == 0 and (times.decode_rows != rows or times.prefill_rows):
            return
        if seen == 0:
            recorder.start()
        if seen == PROFILED_STEPS:
            torch.cuda.synchronize()
            recorder.stop()
        seen += 1

    sampler.on_step = step
    params = SamplingParams(k=job.k, temperature=job.temperature, max_tokens=job.max_tokens, ignore_eos=True)
    enough = -(-(rows or 1) // job.k) + 1
    sampler.generate(prompts[:enough], params)
    sampler.on_step = None
    if 0 < seen <= PROFILED_STEPS:
        torch.cuda.synchronize()
        recorder.stop()
    events = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in (recorder.events() if seen else ())
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return device_time(settled(events))


def settled(events: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Without those of the first quarter of the time: starting to record held the host up, and the device ran dry."""
    if not events:
        return []
    first, last = min(event[1] for event in events), max(event[2] for event in events)
    return [event for event in events if event[1] >= first + (last - first) / 4]


def device_time(events: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Of kernels and copies (name, start, end; in microseconds): the share of the whole in which none ran, how much of that
    in gaps of at most ``SHORT_GAP_US``, and the kernels by time."""
    if not events:
        return {"device_idle_share": None, "short_gap_share": None, "kernel_shares": []}
    idle, short, reached = 0.0, 0.0, min(start for _, start, _ in events)
    whole = max(end for _, _, end in events) - reached
    for _, start, end in sorted(events, key=lambda event: event[1]):
        gap = max(0.0, start - reached)
        idle += gap
        short += gap if gap <= SHORT_GAP_US else 0.0
        reached = max(reached, end)
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, start, end in events:
        times[name[:80]] += end - start  # type: ignore[assignment]
        counts[name[:80]] += 1
    total = sum(times.values())
    shares = [(name, time_ / total, counts[name]) for name, time_ in times.most_common(20)]
    idle_share, short_share = (idle / whole, short / whole) if whole else (None, None)
    return {"device_idle_share": idle_share, "short_gap_share": short_share, "kernel_shares": shares}
