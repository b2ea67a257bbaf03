"""What this device can do at most, measured now, and the least time that sampling can take on it.

Two rates are measured: bytes a second of a large copy (read and written counted) and operations a second of a large
product of random bf16 matrices. A job's bound is the larger of its bytes over the one and its operations over the other.
Counted is what the result needs: weights read once a step, a shared prompt's keys and values read once a step for all its
samples, each sample's own keys and values once, products without padding. Activations count as staying on the chip.

    python bench/roofline.py --device cuda --model shape:llama-3.2-1b --prompt-tokens 900 --k 100 --rows 1024
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench.job import Job
from bench.schema import Measure
from bench.timing import median_ms
from rftfast.evaluate.model_size import ModelSize


@dataclass(frozen=True)
class Rates:
    """``bandwidth`` in bytes a second, ``flops`` in operations a second (bf16 products), both measured."""

    bandwidth: float
    flops: float

    def seconds(self, work: Work) -> float:
        """The least time of ``work``."""
        return max(work.bytes / self.bandwidth, work.flops / self.flops)

    def bound(self, work: Work) -> str:
        """memory or compute: which one takes longer."""
        return "memory" if work.bytes / self.bandwidth > work.flops / self.flops else "compute"

    def figures(self) -> dict[str, float]:
        return {"copy bandwidth, GB/s": self.bandwidth / 1e9, "bf16 products, TFLOP/s": self.flops / 1e12}


@dataclass(frozen=True)
class Work:
    """The fewest bytes moved and operations done."""

    bytes: float
    flops: float

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: float) -> Work:
        return Work(self.bytes * count, self.flops * count)


def measure_rates(device: torch.device, *, budget_s: float = 0.5) -> Rates:
    """Measures both, in about twice ``budget_s``. Sizes: several times any cache; smaller on a CPU."""
    big = device.type == "cuda"
    return Rates(
        _copy_rate(device, 1 << 31 if big else 1 << 27, budget_s),
        _product_rate(device, 8192 if big else 1024, budget_s),
    )


def _copy_rate(device: torch.device, count: int, budget_s: float) -> float:
    source = torch.randint(-128, 127, (count,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2e3 * count / median_ms(lambda: target.copy_(source), device, budget_s=budget_s, most=50)


def _product_rate(device: torch.device, width: int, budget_s: float) -> float:
    left, right = (torch.randn(width, width, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return 2e3 * width**3 / median_ms(lambda: torch.mm(left, right, out=out), device, budget_s=budget_s, most=50)


def measured(job: Job) -> Measure:
    """The rates of ``job``'s device as a measure's ``extra``, for a process of its own."""
    begin = time.perf_counter()
    rates = measure_rates(torch.device(job.device))
    extra = {"bandwidth": rates.bandwidth, "flops": rates.flops}
    return Measure(seconds=time.perf_counter() - begin, tokens=0, samples=0, extra=extra)


def decode_step(size: ModelSize, groups: float, k: float, prompt: float, suffix: float, header: float = 0) -> Work:
    """One step of ``groups`` prompts of ``prompt`` tokens with ``k`` rows each, ``suffix`` own tokens a row (this one too).

    ``header``: tokens at their beginning that all prompts share.
    """
    rows = groups * k
    read = header + groups * (prompt - header) + rows * suffix
    flops = rows * (size.token_flops + size.head_flops + (prompt + suffix) * size.pair_flops)
    return Work(size.weight_bytes + read * size.kv_bytes, flops)


def prompt_work(size: ModelSize, tokens: float, start: float = 0.0) -> Work:
    """``tokens`` prompt tokens behind ``start`` others: keys and values written or read once; no weights, no logits."""
    return Work((start + tokens) * size.kv_bytes, size.forward_flops(tokens, start))


def whole_job(size: ModelSize, prompts: tuple[int, ...], k: int, new: int, rows: int, header: int = 0) -> Work:
    """``k`` samples of ``new`` tokens for each prompt (its tokens), ``rows`` of them at a time.

    Each prompt is computed once, and the ``header`` that all share once for all. The weights of a wave's prompts are read
    once: a prompt's rows could stand in a decode step. A sample's last token is never read, nor are its keys and values.
    """
    samples = len(prompts) * k
    waves = ceil(samples / min(rows, samples))
    work = Work(2.0 * size.matrices * waves, 0.0) + prompt_work(size, header)
    for length in prompts:
        work += prompt_work(size, length - 1 - header, header)
    mean = sum(prompts) / len(prompts)
    step = decode_step(size, samples / waves / k, k, mean, (new + 1) / 2, header)  # on average over the new tokens
    return work + step.times(waves * new)


def main(argv: list[str] | None = None) -> int:
    from rftfast.errors import UserError
    from rftfast.models.config import ModelConfig
    from rftfast.models.resolve import resolve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--model", default="shape:llama-3.2-1b", help="folder or name (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=900, help="(default: %(default)s)")
    parser.add_argument("--k", type=int, default=100, help="samples a prompt (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1024, help="rows of a step (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="new tokens a sample (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if min(args.prompt_tokens, args.k, args.rows, args.max_tokens) < 1:
            raise UserError("--prompt-tokens, --k, --rows and --max-tokens are 1 at least")
        device = torch.device(args.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device")
        size = ModelSize.of(ModelConfig.from_folder(Path(resolve(args.model))))
    except UserError as error:
        print(f"roofline: {error}", file=sys.stderr)
        return 2
    rates = measure_rates(device)
    for name, value in rates.figures().items():
        print(f"{name}: {value:,.1f}")
    suffix = (args.max_tokens + 1) / 2
    step = decode_step(size, args.rows / args.k, args.k, args.prompt_tokens, suffix)
    seconds = rates.seconds(step)
    print(f"a step of {args.rows} rows moves {step.bytes / 1e9:.2f} GB and does {step.flops / 1e12:.2f} TFLOP")
    print(f"at least {1e3 * seconds:.2f} ms ({rates.bound(step)}), so at most {args.rows / seconds:,.0f} tokens/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
