"""SGLang, offline: all prompts in one ``Engine.generate`` call with n = k, radix cache on, graphs as wide as the batch."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure
from bench.skip import Skip


def run(job: Job) -> Measure:
    """Measure ``job``; raises :class:`Skip` where SGLang is not installed, on CPUs and in verified mode."""
    if importlib.util.find_spec("sglang") is None:
        raise Skip("SGLang is not installed (pip install sglang)")
    if not job.device.startswith("cuda"):
        raise Skip("SGLang is measured on GPUs")
    if job.verified:
        raise Skip("it is given no tokenizer, so it has no texts to verify")
    import sglang

    rows = job.rows or len(job.prompts) * job.k
    engine = sglang.Engine(
        model_path=job.model,
        dtype="float32" if job.dtype == "float32" else "bfloat16",
        quantization=job.quantization,
        kv_cache_dtype="auto" if job.kv_cache_dtype == "auto" else "fp8_e4m3",
        load_format="dummy" if job.random_weights else "auto",
        skip_tokenizer_init=True,
        max_running_requests=rows,
        cuda_graph_max_bs=rows,
        random_seed=job.seed,
        log_level="error",
    )
    try:
        _generate(engine, job, (job.warm_up_prompt,), min(WARM_UP_TOKENS, job.max_tokens))
        start = time.perf_counter()
        lengths = _generate(engine, job, job.prompts, job.max_tokens)
        seconds = time.perf_counter() - start
    finally:
        engine.shutdown()
    notes = (f"SGLang {sglang.__version__}, one generate call with all prompts, at most {rows} requests at once",)
    return Measure(seconds=seconds, tokens=sum(lengths), samples=len(lengths), notes=notes)


def _generate(engine: Any, job: Job, prompts: tuple[tuple[int, ...], ...], new: int) -> list[int]:
    """New tokens of each sample."""
    params = {"n": job.k, "temperature": job.temperature, "max_new_tokens": new, "ignore_eos": True}
    found = engine.generate(input_ids=[list(prompt) for prompt in prompts], sampling_params=params)
    lengths = [len(sample["output_ids"]) for sample in found]
    assert len(lengths) == len(prompts) * job.k, (len(lengths), len(prompts), job.k)
    assert set(lengths) == {new}, f"asked for exactly {new} tokens, drew {sorted(set(lengths))}"
    return lengths
