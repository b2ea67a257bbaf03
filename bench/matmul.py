"""The matrix products of one decode step alone: the physical bound a step is held against."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bench.job import Job
from bench.schema import Measure

# Enough repetitions that the median stands still, few enough that the measure takes seconds.
REPEATS = 15


def product_shapes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(outputs, inputs) of each product of a decode step with fused q/k/v and gate/up weights, in order.

    ``config`` is a Llama-family config.json. The head counts once: the embedding look-up is no product.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    inner = config["intermediate_size"]
    layer = [
        ((heads + 2 * kv_heads) * head_dim, hidden),
        (hidden, heads * head_dim),
        (2 * inner, hidden),
        (hidden, inner),
    ]
    return layer * config["num_hidden_layers"] + [(config["vocab_size"], hidden)]


def time_products(
    config: dict[str, Any], rows: int, threads: int, dtype: torch.dtype = torch.bfloat16, repeats: int = REPEATS
) -> dict[str, float]:
    """Milliseconds of all products of one decode step of ``rows`` rows, and the best and median of ``repeats``.

    Every product has weights of its own, as in the model, so that caches hold no more than they would there.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shapes = product_shapes(config)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype) for shape in shapes]
    inputs = {width: torch.randn((rows, width), generator=generator).to(dtype) for _, width in shapes}
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            for weight in weights:
                functional.linear(inputs[weight.shape[1]], weight)
            times.append(1e3 * (time.perf_counter() - start))
    times = times[2:]  # the first two pay for page faults and for the library's own choice of kernels
    flop = 2.0 * rows * sum(a * b for a, b in shapes)
    median = statistics.median(times)
    return {"median_ms": median, "best_ms": min(times), "rows": float(rows), "gflop_per_s": flop / median / 1e6}


def time_model_products(model: Path, rows: int, threads: int) -> dict[str, float]:
    """:func:`time_products` for a model folder."""
    return time_products(json.loads((model / "config.json").read_text(encoding="utf-8")), rows, threads)


def measure_products(job: Job) -> Measure:
    """The products of a step of ``job.k`` rows as a measure: ``step_ms`` is their median time."""
    found = time_model_products(Path(job.model), job.k, job.threads)
    median = found["median_ms"]
    return Measure(seconds=median / 1e3, tokens=job.k, samples=0, step_ms=median, step_rows=job.k, extra=found)
