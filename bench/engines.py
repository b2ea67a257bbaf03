"""The engines by name."""

from __future__ import annotations

from bench.job import Job
from bench.schema import Measure
from bench.skip import Skip

OURS = "rftfast"
MATMUL = "matmul"
RATES = "rates"
ENGINES = {
    OURS: "this project's sampler",
    "rftfast-noshare": "the same with prefix sharing off",
    "transformers": "generate(num_return_sequences=k)",
    "transformers-cb": "continuous batching, generate_batch",
    "llama.cpp": "llama-cpp-python, bf16, prompt shared by k sequences",
    "llama.cpp-split": "the same with a copy of the prompt's cache for each sequence",
    "vllm": "vLLM's LLM.generate, prefix cache on, graphs as wide as the batch (GPUs)",
    "sglang": "SGLang's Engine.generate, radix cache on, graphs as wide as the batch (GPUs)",
}
QUANTIZED = (OURS, "rftfast-noshare", "vllm", "sglang")
"""Those that take ``Job.quantization`` and ``Job.kv_cache_dtype``."""


def measure(job: Job) -> Measure:
    """Run ``job`` with the engine it names. Engines are imported only here, each in a process of its own."""
    if job.float8 and job.engine not in QUANTIZED:
        raise Skip(f"it is not measured with {job.float8} here")
    if job.engine in (OURS, "rftfast-noshare"):
        from bench import engine_rftfast

        return engine_rftfast.run(job, share=job.engine == OURS)
    if job.engine in ("transformers", "transformers-cb"):
        from bench import engine_transformers

        if job.engine == "transformers":
            return engine_transformers.run(job)
        return engine_transformers.run_continuous(job)
    if job.engine in ("llama.cpp", "llama.cpp-split"):
        from bench import engine_llamacpp

        return engine_llamacpp.run(job, unified=job.engine == "llama.cpp")
    if job.engine == "vllm":
        from bench import engine_vllm

        return engine_vllm.run(job)
    if job.engine == "sglang":
        from bench import engine_sglang

        return engine_sglang.run(job)
    if job.engine == RATES:
        from bench.roofline import measured

        return measured(job)
    assert job.engine == MATMUL, f"unknown engine {job.engine}"
    from bench.matmul import measure_products

    return measure_products(job)
