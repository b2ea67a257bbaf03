"""vLLM, offline: all prompts in one ``LLM.generate`` call with n = k, prefix cache on, graphs as wide as the batch."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from bench.job import WARM_UP_TOKENS, Job
from bench.schema import Measure
from bench.skip import Skip


def run(job: Job) -> Measure:
    """Measure ``job``; raises :class:`Skip` where vLLM is not installed, on CPUs and in verified mode."""
    if importlib.util.find_spec("vllm") is None:
        raise Skip("vLLM is not installed (pip install vllm)")
    if not job.device.startswith("cuda"):
        raise Skip("vLLM is measured on GPUs")
    if job.verified:
        raise Skip("it is given no tokenizer, so it has no texts to verify")
    import vllm

    rows = job.rows or len(job.prompts) * job.k
    longest = max(len(prompt) for prompt in job.prompts) + job.max_tokens
    # Its own sizes end at 512 rows unless it is told; larger batches would run without graphs.
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, rows, 64), rows]
    llm = vllm.LLM(
        model=job.model,
        dtype="float32" if job.dtype == "float32" else "bfloat16",
        quantization=job.quantization,
        kv_cache_dtype=job.kv_cache_dtype,
        load_format="dummy" if job.random_weights else "auto",
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        max_num_seqs=rows,
        max_model_len=longest,
        gpu_memory_utilization=0.9,
        compilation_config={"cudagraph_capture_sizes": sorted({size for size in sizes if size <= rows})},
        disable_log_stats=True,
        seed=job.seed,
    )
    _generate(vllm, llm, job, (job.warm_up_prompt,), min(WARM_UP_TOKENS, job.max_tokens))
    start = time.perf_counter()
    lengths = _generate(vllm, llm, job, job.prompts, job.max_tokens)
    seconds = time.perf_counter() - start
    notes = (f"vLLM {vllm.__version__}, one generate call with all prompts, at most {rows} sequences at once",)
    return Measure(seconds=seconds, tokens=sum(lengths), samples=len(lengths), notes=notes)


def _generate(vllm: Any, llm: Any, job: Job, prompts: tuple[tuple[int, ...], ...], new: int) -> list[int]:
    """New tokens of each sample."""
    params = vllm.SamplingParams(
        n=job.k, temperature=job.temperature, max_tokens=new, ignore_eos=True, detokenize=False, seed=None
    )
    found = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False)
    lengths = [len(sample.token_ids) for request in found for sample in request.outputs]
    assert len(lengths) == len(prompts) * job.k, (len(lengths), len(prompts), job.k)
    assert set(lengths) == {new}, f"asked for exactly {new} tokens, drew {sorted(set(lengths))}"
    return lengths
