"""Completions from the middle of responses, drawn by each engine: the same prefixes, the same number of new tokens.

Every rollout draws exactly ``new`` tokens, so that engines do equal work. What is shared among prefixes is each engine's
own affair, and is in the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure

ENGINES = {
    "rftfast": "this project's sampler: every prefix of a question in one tree",
    "rftfast-noshare": "the same, every rollout a request of its own without sharing",
    "rftfast-free": "rftfast with --no-invariant, so that tokens may depend on the batch, as the others' do",
    "rftfast-free-noshare": "both",
    "transformers": "generate, prefixes of a question in left-padded batches",
    "transformers-cb": "continuous batching, generate_batch with its own block sharing",
    "llama.cpp": "each response decoded once, its cells shared with its rollouts (unified cache)",
    "llama.cpp-split": "each response decoded once, its cache copied to each rollout",
}
_PADDED_ROWS = 80  # of a batch of generate; more take its memory beyond a small machine's
_SEQUENCES = 256  # llama.cpp's own limit


@dataclass(frozen=True)
class Group:
    """A question: its prompt, its responses, and for each of these the lengths (in tokens) of the prefixes rolled out."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    prefixes: tuple[tuple[int, ...], ...]

    def states(self) -> list[tuple[int, ...]]:
        """Prompt and prefix of each state, the longest of a response first."""
        pairs = zip(self.responses, self.prefixes, strict=True)
        return [(*self.prompt, *tokens[:n]) for tokens, lengths in pairs for n in sorted(lengths, reverse=True)]


@dataclass(frozen=True)
class Work:
    """What one engine is asked to do."""

    engine: str
    model: str
    groups: tuple[Group, ...]
    rollouts: int
    new: int
    threads: int
    dtype: str
    temperature: float
    seed: int
    budget_s: float
    scratch: str

    @property
    def states(self) -> int:
        return sum(len(lengths) for group in self.groups for lengths in group.prefixes)

    def job(self) -> Job:
        """As the other benchmark's engines take it, for what they share: loading a model."""
        prompts = tuple(state for group in self.groups for state in group.states())
        return Job(
            engine=self.engine,
            model=self.model,
            prompts=prompts,
            k=self.rollouts,
            max_tokens=self.new,
            temperature=self.temperature,
            seed=self.seed,
            threads=self.threads,
            dtype=self.dtype,
            budget_s=self.budget_s,
            scratch=self.scratch,
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Work:
        data = json.loads(path.read_text(encoding="utf-8"))
        groups = tuple(
            Group(
                tuple(g["prompt"]),
                tuple(tuple(r) for r in g["responses"]),
                tuple(tuple(p) for p in g["prefixes"]),
            )
            for g in data["groups"]
        )
        return cls(**{**data, "groups": groups})


def measure(work: Work) -> Measure:
    """Draw ``work`` with the engine it names."""
    if work.engine.startswith("rftfast"):
        return _ours(work, share="noshare" not in work.engine, invariant="free" not in work.engine)
    if work.engine == "transformers":
        return _padded(work)
    if work.engine == "transformers-cb":
        return _continuous(work)
    assert work.engine in ("llama.cpp", "llama.cpp-split"), work.engine
    return _llama(work, unified=work.engine == "llama.cpp")


@dataclass(frozen=True)
class _Start:
    """Wall and processor time."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> _Start:
        return cls(time.perf_counter(), time.process_time())

    def over(self, budget_s: float) -> bool:
        return time.perf_counter() - self.wall > budget_s


def _result(work: Work, start: _Start, tokens: int, **rest: Any) -> Measure:
    partial = tokens < work.states * work.rollouts * work.new
    notes = (f"stopped at its time limit of {work.budget_s:g} s",) if partial else ()
    return Measure(
        seconds=time.perf_counter() - start.wall,
        tokens=tokens,
        samples=tokens // work.new,
        partial=partial,
        notes=(*rest.pop("notes", ()), *notes),
        # On a machine that does other work, too, processor time is what can be compared.
        extra={"cpu_s": time.process_time() - start.cpu, **rest.pop("extra", {})},
        **rest,
    )


def _ours(work: Work, *, share: bool, invariant: bool) -> Measure:
    from rftfast.engine import Request, Sampler, SamplingParams

    torch.set_num_threads(work.threads)
    sampler = Sampler.from_pretrained(
        work.model, dtype=work.dtype, threads=work.threads, prefix_share=share, invariant=invariant
    )
    params = SamplingParams(
        k=work.rollouts, temperature=work.temperature, max_tokens=work.new, seed=work.seed, ignore_eos=True
    )
    warm = SamplingParams(k=64, temperature=work.temperature, max_tokens=WARM_UP_TOKENS, ignore_eos=True)
    sampler.generate([list(work.job().warm_up_prompt)], warm)
    requests = [
        Request(f"{g}/{i}", state, params)
        for g, group in enumerate(work.groups)
        for i, state in enumerate(group.states())
    ]
    before, start, tokens = sampler.stats, _Start.now(), 0
    stream = sampler.stream(requests)
    for generation in stream:
        tokens += len(generation.token_ids)
        if start.over(work.budget_s):
            break
    measured = _result(
        work,
        start,
        tokens,
        extra={
            "prompt_tokens": sampler.stats.prompt_tokens - before.prompt_tokens,
            "prefill_tokens": sampler.stats.prefill_rows - before.prefill_rows,
            "steps": sampler.stats.steps - before.steps,
        },
    )
    stream.close()  # type: ignore[attr-defined]
    return measured


def _padded(work: Work) -> Measure:
    import transformers

    from bench.engine_transformers import _load, _settings

    job = work.job()
    model = _load(job)
    settings = _settings(job, work.new)

    def generate(states: Sequence[tuple[int, ...]], new: int) -> None:
        longest = max(map(len, states))
        ids = torch.tensor([[0] * (longest - len(state)) + list(state) for state in states])
        mask = torch.tensor([[0] * (longest - len(state)) + [1] * len(state) for state in states])
        settings.max_new_tokens = new
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        assert out.shape == (len(states) * work.rollouts, longest + new), out.shape

    transformers.logging.set_verbosity_error()
    generate([job.warm_up_prompt], min(WARM_UP_TOKENS, work.new))
    torch.manual_seed(work.seed)
    start, tokens = _Start.now(), 0
    for group in work.groups:
        states = sorted(group.states(), key=len)  # of like length, so that little is padded
        for first in range(0, len(states), max(1, _PADDED_ROWS // work.rollouts)):
            batch = states[first : first + max(1, _PADDED_ROWS // work.rollouts)]
            generate(batch, work.new)
            tokens += len(batch) * work.rollouts * work.new
            if start.over(work.budget_s):
                return _result(work, start, tokens)
    return _result(work, start, tokens, notes=(f"batches of at most {_PADDED_ROWS} rows, sorted by length",))


def _continuous(work: Work) -> Measure:
    from transformers import ContinuousBatchingConfig

    from bench.engine_transformers import _generate_batch, _load, _settings

    job = work.job()
    model = _load(job)
    _generate_batch(model, job, (job.warm_up_prompt,), min(WARM_UP_TOKENS, work.new))
    start, tokens = _Start.now(), 0
    for group in work.groups:
        states = group.states()
        page = ContinuousBatchingConfig().page_size
        blocks = len(states) * work.rollouts * (-(-(max(map(len, states)) + work.new) // page) + 1)
        found = model.generate_batch(
            inputs=[list(state) for state in states],
            generation_config=_settings(job, work.new),
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=blocks, seed=work.seed),
            progress_bar=False,
        )
        drawn = [len(output.generated_tokens) for output in found.values()]
        if drawn != [work.new] * (len(states) * work.rollouts):
            raise RuntimeError(f"generate_batch gave {len(drawn)} rollouts of {set(drawn)} tokens")
        tokens += sum(drawn)
        if start.over(work.budget_s):
            break
    return _result(work, start, tokens)


def _llama(work: Work, unified: bool) -> Measure:
    import importlib.util

    from bench.skip import Skip

    if importlib.util.find_spec("llama_cpp") is None:
        raise Skip("llama-cpp-python is not installed (pip install llama-cpp-python)")
    forest = _Forest(work, unified)
    try:
        return forest.run()
    finally:
        forest.close()


class _Forest:
    """llama.cpp: sequence 0 holds the prompt, then one for each response, then the rollouts.

    A rollout's sequence takes over what its response's has up to the prefix's last token, which it feeds as its first row.
    Sampling is left out (token ids are made beforehand), so its figure is an upper bound.
    """

    def __init__(self, work: Work, unified: bool) -> None:
        from bench.engine_llamacpp import _Session, _weights

        self.work, self.unified = work, unified
        widest = max(len(group.responses) for group in work.groups)
        self.most = _SEQUENCES - 1 - widest  # rollouts at a time
        rollouts = min(self.most, max(sum(map(len, g.prefixes)) for g in work.groups) * work.rollouts)
        longest = max(len(state) for group in work.groups for state in group.states())
        sequences = 1 + widest + rollouts
        # A job whose k sequences of `max_tokens` after a longest prompt take just the cells that are needed here.
        each = work.new + 1
        if unified:
            each += -(-max(sum(map(len, group.responses)) for group in work.groups) // sequences)
        job = work.job()
        shaped = Job(**{**asdict(job), "prompts": (tuple(range(1, longest + 1)),), "k": sequences, "max_tokens": each})
        self.session = _Session(shaped, _weights(job), unified)
        self.lib, self.memory = self.session.lib, self.session.memory

    def close(self) -> None:
        self.session.close()

    def run(self) -> Measure:
        import random

        draw = random.Random(self.work.seed)
        vocabulary = self.session.vocabulary
        self.feed = [[draw.randrange(vocabulary) for _ in range(_SEQUENCES)] for _ in range(self.work.new)]
        self._group(Group(self.work.groups[0].prompt[:8], ((1, 2, 3),), ((2,),)), WARM_UP_TOKENS, float("inf"))
        start, tokens = _Start.now(), 0
        for group in self.work.groups:
            tokens += self._group(group, self.work.new, start.wall + self.work.budget_s)
        layout = "unified" if self.unified else "split"
        return _result(self.work, start, tokens, notes=(f"cache layout: {layout}; sampling left out",))

    def _group(self, group: Group, new: int, deadline: float) -> int:
        """Draws from all prefixes of a question; the new tokens."""
        lib, k = self.lib, self.work.rollouts
        lib.llama_memory_clear(self.memory, False)
        self._decode([(token, i, 0) for i, token in enumerate(group.prompt[:-1])], every=False)
        known = len(group.prompt) - 1
        rollouts: list[tuple[int, int, int]] = []  # response's sequence, cached tokens, next token
        for r, (tokens, lengths) in enumerate(zip(group.responses, group.prefixes, strict=True), start=1):
            if not lengths:
                continue
            self._copy(0, r, known)
            whole = (*group.prompt, *tokens[: max(lengths)])
            self._decode([(whole[i], i, r) for i in range(known, len(whole) - 1)], every=False)
            for n in lengths:
                last = len(group.prompt) + n - 1
                rollouts += [(r, last, whole[last])] * k
        drawn = 0
        first = 1 + len(group.responses)
        for begin in range(0, len(rollouts), self.most):
            batch = rollouts[begin : begin + self.most]
            for i, (r, cached, _) in enumerate(batch):
                self._copy(r, first + i, cached)
            for t in range(new):
                if time.perf_counter() > deadline:
                    return drawn
                rows = [
                    (token if t == 0 else self.feed[t][i], cached + t, first + i)
                    for i, (_, cached, token) in enumerate(batch)
                ]
                self._decode(rows, every=True)
                drawn += len(batch)
            for i in range(len(batch)):
                lib.llama_memory_seq_rm(self.memory, first + i, -1, -1)
        return drawn

    def _copy(self, source: int, target: int, cached: int) -> None:
        """``target`` becomes the first ``cached`` tokens of ``source``."""
        lib = self.lib
        lib.llama_memory_seq_rm(self.memory, target, -1, -1)
        if self.unified:
            lib.llama_memory_seq_cp(self.memory, source, target, 0, cached)
            return
        lib.llama_memory_seq_cp(self.memory, source, target, -1, -1)  # between streams whole sequences only
        if not lib.llama_memory_seq_rm(self.memory, target, cached, -1):
            raise RuntimeError("llama.cpp could not cut a copy back to the shared prefix")

    def _decode(self, rows: list[tuple[int, int, int]], every: bool) -> None:
        if rows:
            self.session._fill(rows, all_logits=every)
            self.session._decode()
            self.lib.llama_get_logits(self.session.context)  # waits for the results, as a sampler would
