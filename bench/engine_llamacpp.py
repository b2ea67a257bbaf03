"""llama.cpp through llama-cpp-python's low-level interface: the prompt decoded once, its cache shared by k sequences.

Sampling is left out of it altogether (it gets token ids made beforehand), so its figure is an upper bound of what a
user of it would see. What several prompts have in common at their beginning stays in its cache from one to the next.

llama.cpp has two layouts of its cache, and which is faster depends on the prompt's length: ``unified``, in which k
sequences share the prompt's cells and every row is masked against all cells, and ``split``, in which each sequence
has a copy of the prompt. Both can be measured.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure
from bench.skip import Skip

UBATCH = 512


def run(job: Job, unified: bool) -> Measure:
    """Measure ``job``; raises :class:`Skip` where llama-cpp-python is not installed or the mode needs sampling."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise Skip("llama-cpp-python is not installed (pip install llama-cpp-python)")
    if job.device != "cpu" or job.random_weights:
        raise Skip("it is measured on CPUs, with a model's own weights")
    if job.verified:
        raise Skip("its sampling is left out, so it has no texts to verify")
    session = _Session(job, _weights(job), unified)
    try:
        session.generate((job.warm_up_prompt,), min(WARM_UP_TOKENS, job.max_tokens), None)
        return session.generate(job.prompts, job.max_tokens, job.budget_s)
    finally:
        session.close()


def _weights(job: Job) -> Path:
    """The model as a bf16 GGUF file, converted once in a process of its own (its memory is none of llama.cpp's)."""
    folder = Path(job.model)
    held = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sorted(folder.iterdir())]
    name = hashlib.blake2b("\n".join([str(folder), *held]).encode(), digest_size=8).hexdigest()
    gguf = Path(job.scratch or folder) / f"{folder.name}-{name}-bf16.gguf"
    if not gguf.is_file():
        script = Path(__file__).resolve().parent / "to_gguf.py"
        done = subprocess.run([sys.executable, str(script), str(folder), str(gguf)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().split("\n")[-1])
    return gguf


class _Session:
    """A loaded model, its context for k sequences, and one batch that is filled again and again."""

    def __init__(self, job: Job, gguf: Path, unified: bool) -> None:
        import llama_cpp.llama_cpp as lib

        self.lib: Any = lib
        self.job = job
        self.unified = unified
        # llama.cpp prints through a callback; an empty one keeps the worker's standard error for errors.
        self.quiet = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self.quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(str(gguf).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {gguf.name}")
        longest = max(len(prompt) for prompt in job.prompts)
        context = lib.llama_context_default_params()
        cells = longest + job.k * job.max_tokens if unified else job.k * (longest + job.max_tokens)
        context.n_ctx = cells + 256 * (1 if unified else job.k)  # it rounds each sequence's share up itself
        context.n_batch = max(longest, job.k)
        context.n_ubatch = max(UBATCH, job.k)
        context.n_seq_max = job.k
        context.n_threads = job.threads
        context.n_threads_batch = job.threads
        context.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context.kv_unified = unified
        context.no_perf = True
        self.context = lib.llama_init_from_model(self.model, context)
        if not self.context:
            raise RuntimeError(f"llama.cpp could not make a context of {cells} cells for {job.k} sequences")
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(max(longest, job.k), 0, 1)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.cached: tuple[int, ...] = ()

    def close(self) -> None:
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def generate(self, prompts: tuple[tuple[int, ...], ...], new: int, budget_s: float | None) -> Measure:
        """k sequences of ``new`` tokens for each prompt. The first token comes of the prompt's own logits."""
        lib, k = self.lib, self.job.k
        pick = random.Random(self.job.seed)
        tokens = [[pick.randrange(self.vocabulary) for _ in range(k)] for _ in range(new)]
        steps: list[float] = []
        prefill = 0.0
        drawn = samples = 0
        over = False
        start = time.perf_counter()
        for prompt in prompts:
            mark = time.perf_counter()
            self._prefill(prompt)
            prefill += time.perf_counter() - mark
            drawn += k
            for t in range(new - 1):
                mark = time.perf_counter()
                if budget_s is not None and mark - start > budget_s:
                    over = True
                    break
                self._step(tokens[t], len(prompt) + t)
                lib.llama_get_logits(self.context)  # waits for the results, as a sampler would
                steps.append(time.perf_counter() - mark)
                drawn += k
            if over:
                break
            samples += k
        layout = "unified" if self.unified else "split"
        notes = [f"cache layout: {layout}; sampling left out"]
        if over:
            notes.append(f"stopped at its time limit of {budget_s:g} s")
        return Measure(
            seconds=time.perf_counter() - start,
            tokens=drawn,
            samples=samples,
            prefill_s=prefill,
            step_ms=1e3 * statistics.median(steps) if steps else None,
            step_rows=k,
            partial=over,
            notes=tuple(notes),
        )

    def _prefill(self, prompt: tuple[int, ...]) -> None:
        """Decode into sequence 0 what its cache does not hold yet, then give it to all k sequences."""
        lib = self.lib
        keep = 0
        while keep < min(len(self.cached), len(prompt) - 1) and self.cached[keep] == prompt[keep]:
            keep += 1
        for sequence in range(1, self.job.k):
            lib.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        if not lib.llama_memory_seq_rm(self.memory, 0, keep, -1):
            raise RuntimeError("llama.cpp could not cut its cache back to the shared prefix")
        self._fill([(token, position, 0) for position, token in enumerate(prompt)][keep:], all_logits=False)
        self._decode()
        lib.llama_get_logits(self.context)
        for sequence in range(1, self.job.k):
            lib.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        self.cached = prompt

    def _step(self, tokens: list[int], position: int) -> None:
        self._fill([(token, position, sequence) for sequence, token in enumerate(tokens)], all_logits=True)
        self._decode()

    def _fill(self, rows: list[tuple[int, int, int]], all_logits: bool) -> None:
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = all_logits or i == len(rows) - 1

    def _decode(self) -> None:
        status = self.lib.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {self.batch.n_tokens} tokens")
