"""The short table at the end of ``bench/gpu.sh``: what its result files say, next to what is aimed at.

python bench/gpu_table.py bench/results/nvidia-h200-*.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench import kernels
from bench.roofline import Rates
from bench.schema import Result, Row
from rftfast.ops import fp8

AIMS = {  # tokens a second on one H200, for the prompts and lengths of gpu.sh
    "shape:llama-3.2-1b": 150e3,
    "shape:qwen2.5-1.5b": 120e3,
    "shape:llama-7b": 24e3,
    "smollm2-135m-instruct": 200e3,
    "shape:smollm2-135m": 200e3,
}
SHOWN_KERNELS = 3
TRAINING = ("train", "head")


def show(results: Sequence[Result]) -> None:
    """Throughput first, with the idle share of the device and the kernels that take most of a step; then single kernels."""
    for result in results:
        if result.kernels:
            rates = Rates(1e9 * result.figures["copy bandwidth, GB/s"], 1e12 * result.figures["bf16 products, TFLOP/s"])
            kernels.show(result.kernels, rates)
    sampled = [result for result in results if result.rows and result.benchmark not in TRAINING]
    if sampled:
        print(
            f"{'model':22}{'engine':16}   tokens/s  aim on H200  of bound  step ms  idle (in gaps of the device's own)"
        )
    for result in sampled:
        for row in result.rows:
            _line(result, row)
    for result in results:
        if result.benchmark in TRAINING:
            _training(result)


def _training(result: Result) -> None:
    for row in result.rows:
        name = f"{result.benchmark} {result.settings.get('model', '')}".strip()
        if row.tokens_per_s is None:
            print(f"{name}, {row.engine}: {row.status}: {row.notes[0][:90]}")
            continue
        mfu = row.runs[0].extra.get("mfu")
        share = f", {mfu:.1%} of the peak" if mfu is not None else ""
        peak = f", {row.peak_memory_mib:,.0f} MiB at most" if row.peak_memory_mib is not None else ""
        print(f"{name}, {row.engine}: {row.tokens_per_s:,.0f} tokens/s{share}{peak}")


def _line(result: Result, row: Row) -> None:
    model = str(result.settings.get("model"))
    quantization, kept = result.settings.get("quantization"), result.settings.get("kv_cache_dtype", "auto")
    begin = f"{model + fp8.marks(quantization, kept):26}{row.engine:16}"
    if row.tokens_per_s is None:
        print(f"{begin} {row.status}: {row.notes[0][:90]}")
        return
    extra = row.runs[0].extra
    aim = (
        f"{AIMS[model]:13,.0f}"
        if row.engine == "rftfast" and model in AIMS and not fp8.marks(quantization, kept)
        else f"{'':13}"
    )
    bound = f"{row.of_roofline:8.1%}" if row.of_roofline is not None else f"{'':8}"
    step = f"{row.step_ms:7.2f}" if row.step_ms is not None else f"{'':7}"
    idle = extra.get("device_idle_share")
    gaps = "" if idle is None else f"{idle:.1%} ({extra['short_gap_share']:.1%})"
    print(f"{begin} {row.tokens_per_s:10,.0f}{aim}  {bound}  {step}  {gaps}")
    for name, share, count in extra.get("kernel_shares", ())[:SHOWN_KERNELS]:
        print(f"{'':22}{share:6.1%} in {count} launches of {name[:80]}")


def main(arguments: Sequence[str]) -> int:
    from rftfast.errors import UserError

    if not arguments:
        print("gpu_table: name the result files", file=sys.stderr)
        return 2
    try:
        results = [Result.read(Path(name)) for name in arguments]
    except UserError as error:
        print(f"gpu_table: {error}", file=sys.stderr)
        return 2
    accelerators = sorted({result.machine.accelerator or result.machine.cpu for result in results})
    print(f"{', '.join(accelerators)}; torch {results[0].versions.get('torch')}")
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
