"""Sampling throughput: ours against what people would use instead. Same prompts, same k, same lengths, one run.

Every engine runs in a process of its own, one after the other; loading and a short warm-up are left out, the prompt is
in the time. By default every sample has exactly --max-tokens new tokens (EOS ignored), so that engines do equal work;
with --verified samples end where they end, and distinct verified paths a second are counted as well.

    python bench/throughput.py --questions train.jsonl --shots 8 --shots-from train.jsonl --json out.json
    python bench/throughput.py --device cuda --model shape:llama-3.2-1b --prompt-tokens 900 --n-prompts 40 --json out.json

On a GPU every row also says what share it reaches of what the device could do at most, by rates measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    _BEGIN = time.perf_counter()  # before torch is loaded, which takes seconds
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

import torch

from bench.engines import ENGINES, MATMUL, OURS, RATES
from bench.job import Job
from bench.machine import machine, usable_cores, versions
from bench.roofline import Rates, Work, whole_job
from bench.schema import Measure, Result, Row, with_ratios

if TYPE_CHECKING:
    from bench.prompts import Prompts

WORKER = Path(__file__).resolve().parent / "worker.py"
# Loading, converting and warming up; an engine past its budget and this is ended from outside.
GRACE_S = 600.0


def run_engine(job: Job, timeout_s: float) -> Measure | tuple[str, str]:
    """One engine's one run in a process of its own: its measure, or ("skipped" | "error", why)."""
    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        job_file, out = Path(folder) / "job.json", Path(folder) / "out.json"
        job.write(job_file)
        environment = {
            # For every engine on torch alike: waiting threads sleep soon (docs/lab-book.md).
            "GOMP_SPINCOUNT": "2000",
            **os.environ,
            "OMP_NUM_THREADS": str(job.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, str(WORKER), str(job_file), str(out)]
        log = Path(folder) / "log.txt"
        with log.open("wb") as stream:
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, timeout=timeout_s
                )
            except subprocess.TimeoutExpired:
                return "error", f"no result after {timeout_s:.0f} s; its process was ended"
        if not out.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            return "error", f"its process ended with status {done.returncode}: {said[:300]}"
        answer = json.loads(out.read_text(encoding="utf-8"))
    for status in ("skipped", "error"):
        if status in answer:
            return status, str(answer[status])
    found = answer["measure"]
    return Measure(**{**found, "notes": tuple(found["notes"])})


def measure_all(
    job: Job, engines: list[str], repeat: int, timeout_s: float, limit_s: float = math.inf
) -> tuple[list[Row], dict[str, float]]:
    """``repeat`` rounds over all engines (A B C A B C), and the matrix products of their steps in every round.

    ``job`` without its engine is what each engine gets. An engine that fails or cannot take part is not asked again.
    ``timeout_s``: of each run; ``limit_s``: of all together.
    """
    deadline = time.monotonic() + limit_s

    def one(job: Job) -> Measure | tuple[str, str]:
        left = deadline - time.monotonic()
        return run_engine(job, min(timeout_s, left)) if left >= 1 else ("error", "no time was left for it")

    runs: dict[str, list[Measure]] = {engine: [] for engine in engines}
    failed: dict[str, tuple[str, str]] = {}
    products: dict[int, list[float]] = {}
    rates = None
    # The bound is one of bf16: in float8, a job may go below it.
    if job.device.startswith("cuda") and not job.verified and not job.float8:
        answer = one(replace(job, engine=RATES))
        if isinstance(answer, Measure):
            rates = Rates(answer.extra["bandwidth"], answer.extra["flops"])
        else:
            _say(f"rates of the device: {answer[1]}")
    for number in range(repeat):
        for engine in engines:
            if engine in failed:
                continue
            _say(f"round {number + 1} of {repeat}: {engine} …")
            found = one(replace(job, engine=engine))
            if isinstance(found, Measure):
                runs[engine].append(found)
                _say(f"  {found.tokens_per_s:.1f} tokens/s in {found.seconds:.1f} s")
            else:
                failed[engine] = found
                _say(f"  {found[0]}: {found[1]}")
        if job.device == "cpu" and not job.float8:
            seen = {run.step_rows for group in runs.values() for run in group if run.step_rows}
            for rows in sorted(seen | {job.k}):
                found = one(replace(job, engine=MATMUL, k=rows, verified=False, golds=()))
                if isinstance(found, Measure):
                    products.setdefault(rows, []).append(1e3 * found.seconds)
                else:
                    _say(f"  matrix products: {found[1]}")
    rows_out = []
    for engine in engines:
        if runs[engine]:
            row = Row.of(engine, runs[engine])
            if engine in failed:  # an earlier round went well: keep it, and say what happened later
                row = replace(row, notes=(*row.notes, f"a later round failed: {failed[engine][1]}"))
            rows_out.append(row)
        else:
            status, why = failed[engine]
            rows_out.append(Row(engine=engine, status=status, notes=(why,)))
    medians = {rows: statistics.median(times) for rows, times in products.items()}
    figures = {f"matrix products of a step of {rows} rows, ms": value for rows, value in medians.items()}
    least_s = None
    if rates is not None:
        least_s = rates.seconds(_work(job))
        figures |= {**rates.figures(), "the job at this device's rates, s": least_s}
    return with_ratios(rows_out, OURS, medians, least_s), figures


def _work(job: Job) -> Work:
    from rftfast.evaluate.model_size import ModelSize
    from rftfast.models.config import ModelConfig

    size = ModelSize.of(ModelConfig.from_folder(job.model))
    lengths = tuple(len(prompt) for prompt in job.prompts)
    same = (len(set(column)) == 1 for column in zip(*job.prompts, strict=False))
    header = sum(takewhile(bool, same)) if len(lengths) > 1 else 0
    return whole_job(size, lengths, job.k, job.max_tokens, job.rows or len(lengths) * job.k, header)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(ENGINES)
    parser.add_argument("--engines", default=names, help=f"comma-separated, of {names} (default: all)")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="folder or name (default: %(default)s)")
    parser.add_argument("--questions", help="file of questions (default: the bundled set)")
    parser.add_argument("--n-prompts", type=int, default=1, help="questions from its front (default: %(default)s)")
    parser.add_argument("--prompt", default="gsm8k", help="prompt template (default: %(default)s)")
    parser.add_argument("--shots", type=int, default=0, help="examples in the prompt (default: %(default)s)")
    parser.add_argument("--shots-from", help="file of the examples (default: the bundled ones)")
    parser.add_argument("--prompt-tokens", type=int, help="prompts of so many random tokens instead of questions")
    parser.add_argument("--header-tokens", type=int, default=0, help="of these, the first that all prompts share")
    parser.add_argument("--max-batch", type=int, help="samples drawn at once, of engines that can be told")
    parser.add_argument("--profile", action="store_true", help="ours on a GPU: idle time and kernels, in extra steps")
    parser.add_argument("--k", type=int, default=100, help="samples a prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=96, help="new tokens a sample (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--verified", action="store_true", help="real lengths; count distinct verified paths")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of every engine (default: all cores)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="bf16", help="of ours and transformers (default: %(default)s)")
    parser.add_argument("--quantization", choices=("fp8",), help="of ours, vLLM and SGLang (default: none)")
    parser.add_argument(
        "--kv-cache-dtype", choices=("auto", "fp8"), default="auto", help="likewise (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=1, help="rounds over all engines; medians (default: %(default)s)")
    parser.add_argument("--budget-s", type=float, default=900.0, help="time limit of one run (default: %(default)s)")
    parser.add_argument("--limit-s", type=float, help="time limit of all runs together, loading too")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def main(argv: list[str] | None = None, begin: float | None = None) -> int:
    """``begin``: when ``--limit-s`` began, by ``time.perf_counter``; None for now."""
    from rftfast.errors import UserError

    args = _parser().parse_args(argv)
    try:
        result = run(args, time.perf_counter() if begin is None else begin)
        if args.json is not None:
            result.write(args.json)
    except (UserError, OSError) as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2
    from bench.table import show

    show(result)
    return 0


def run(args: argparse.Namespace, begin: float) -> Result:
    """Resolve the arguments, measure, and put the result together. Raises ``UserError`` for what cannot be used."""
    from bench.prompts import build, random_prompts
    from rftfast.errors import UserError
    from rftfast.models.cache import cache_folder
    from rftfast.models.config import ModelConfig
    from rftfast.models.resolve import resolve
    from rftfast.models.shapes import PREFIX as SHAPE

    engines = [name.strip() for name in args.engines.split(",") if name.strip()]
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown or not engines:
        raise UserError(f"unknown engines {', '.join(unknown) or '(none given)'}: choose of {', '.join(ENGINES)}")
    for name, least in (("k", 1), ("max_tokens", 1), ("threads", 1), ("repeat", 1), ("budget_s", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: use at least {least}")
    if args.limit_s is not None and args.limit_s < 1:
        raise UserError(f"--limit-s is {args.limit_s:g}: use at least 1")
    if args.max_batch is not None and args.max_batch < 1:
        raise UserError(f"--max-batch is {args.max_batch}: use at least 1")
    if args.profile and args.device == "cpu":
        raise UserError("--profile needs a GPU: add --device cuda")
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch finds no CUDA device")
    folder = resolve(args.model)
    config = ModelConfig.from_folder(folder)
    prompts: Prompts
    if args.prompt_tokens is None:
        prompts = build(folder, args.questions, args.n_prompts, args.shots, args.shots_from, args.prompt)
    elif args.verified:
        raise UserError("--prompt-tokens makes prompts without an answer: leave --verified out")
    else:
        prompts = random_prompts(config.vocab_size, args.n_prompts, args.prompt_tokens, args.header_tokens, args.seed)
    longest = max(map(len, prompts.tokens)) + args.max_tokens
    if longest > config.max_positions:
        raise UserError(
            f"{longest} tokens with the new ones, and the context of {args.model} is {config.max_positions}"
        )
    scratch = cache_folder() / "bench"
    scratch.mkdir(parents=True, exist_ok=True)
    job = Job(
        engine=OURS,
        model=str(folder),
        prompts=prompts.tokens,
        k=args.k,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        threads=args.threads,
        device=args.device,
        dtype=args.dtype,
        budget_s=args.budget_s,
        verified=args.verified,
        golds=prompts.golds if args.verified else (),
        stop=prompts.stop,
        eos=tuple(config.eos_ids),
        scratch=str(scratch),
        rows=args.max_batch,
        random_weights=args.model.startswith(SHAPE),
        profile=args.profile,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
    )
    # What else ran on the machine as this began: two spinning thread pools on few cores spoil every figure.
    load = os.getloadavg()[0]
    limit = math.inf if args.limit_s is None else args.limit_s - (time.perf_counter() - begin)
    rows, figures = measure_all(job, list(dict.fromkeys(engines)), args.repeat, args.budget_s + GRACE_S, limit)
    settings: dict[str, Any] = {
        name: value for name, value in vars(args).items() if name not in ("json", "engines") and value is not None
    }
    return Result(
        benchmark="throughput",
        machine=machine(torch.cuda.get_device_name() if args.device != "cpu" else None),
        versions=versions(),
        command=shlex.join(["python", "bench/throughput.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={**settings, "load_before": load, "prompt_tokens": [len(tokens) for tokens in prompts.tokens]},
        figures=figures,
        rows=tuple(rows),
    )


if __name__ == "__main__":
    sys.exit(main(begin=_BEGIN))
