"""Training speed: ours against transformers' Trainer and TRL's SFTTrainer. Same model, same documents, one run.

Speed is counted in useful tokens: prompts and responses, no padding. Every trainer runs in a process of its own, one after the
other; loading and the first steps are left out. Steps hold the same documents in every trainer but TRL's, which packs by
itself, at a constant learning rate, so that the curves of the loss can be held against each other.

    python bench/train.py --data train.jsonl --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench.command import execute
from bench.machine import machine, versions
from bench.schema import Measure, Result, Row, with_ratios
from bench.train_command import add_options, show_trainers
from bench.train_engines import ENGINES, OURS, OURS_FLOAT32
from bench.train_job import TrainJob

WORKER = Path(__file__).resolve().parent / "train_worker.py"


def build(args: argparse.Namespace, folder: Path) -> TrainJob:
    """The job without its engine: documents in the order in which our trainer takes them. Writes its data to ``folder``."""
    from rftfast.data.prompts import load_template
    from rftfast.data.questions import BUNDLED
    from rftfast.errors import UserError
    from rftfast.train.documents import documents
    from rftfast.train.examples import read_examples
    from rftfast.train.model import open_base
    from rftfast.train.packing import plan_steps

    base = open_base(args.model)
    wanted = args.batch * (args.warm_up + args.steps)
    examples = read_examples(args.data or BUNDLED / "questions.jsonl", load_template(args.prompt))
    if len(examples) < wanted:  # a small set is gone through again, each time as other documents
        examples = [replace(e, id=f"{e.id}/{i}") for i in range(-(-wanted // len(examples))) for e in examples]
    if not all(isinstance(example.prompt, str) for example in examples):
        raise UserError(f"{args.data}: holds messages; the benchmark takes prompts and completions as texts")
    data = folder / "data.jsonl"
    rows = ({"id": e.id, "prompt": e.prompt, "completion": e.completion} for e in examples[:wanted])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = documents(read_examples(data), base.tokenizer, eos_id=base.eos_id)
    longest = max(len(document) for document in found)
    if longest > args.row_tokens:
        raise UserError(
            f"the longest document has {longest} tokens and a row {args.row_tokens}: use a larger --row-tokens"
        )
    plan = plan_steps(found, budget_tokens=args.row_tokens, documents_per_step=args.batch, seed=args.seed, epoch=0)
    ordered = tuple((tuple(d.tokens.tolist()), d.prompt_length) for step in plan for d in step.documents)
    return TrainJob(
        engine=OURS,
        model=str(base.folder),
        data=str(data),
        documents=ordered,
        batch=args.batch,
        micro_batch=args.micro_batch,
        row_tokens=args.row_tokens,
        warm_up=args.warm_up,
        steps=args.steps,
        lr=args.lr,
        seed=args.seed,
        threads=args.threads,
        device=args.device,
    )


def run_engine(job: Any, timeout_s: float, worker: Path = WORKER) -> Measure | tuple[str, str]:
    """One trainer's one run in a process of its own: its measure, or ("skipped" | "error", why)."""
    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        job_file, out, log = (Path(folder) / name for name in ("job.json", "out.json", "log.txt"))
        job.write(job_file)
        # For every trainer alike: waiting threads sleep soon (docs/lab-book.md).
        environment = {"GOMP_SPINCOUNT": "2000", **os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment["OMP_NUM_THREADS"] = str(job.threads)
        command = [sys.executable, str(worker), str(job_file), str(out)]
        with log.open("wb") as said:
            try:
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, timeout=timeout_s
                )
            except subprocess.TimeoutExpired:
                return "error", f"no result after {timeout_s:.0f} s; its process was ended"
        if not out.is_file():
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return "error", f"its process ended without a result: {lines[-1][:300] if lines else 'it said nothing'}"
        answer = json.loads(out.read_text(encoding="utf-8"))
    for status in ("skipped", "error"):
        if status in answer:
            return status, str(answer[status])
    found = answer["measure"]
    return Measure(**{**found, "notes": tuple(found["notes"])})


def measure_all(
    job: Any,
    engines: list[str],
    repeat: int,
    timeout_s: float,
    worker: Path = WORKER,
    once: Collection[str] = (),
) -> list[Row]:
    """``repeat`` rounds over all engines (A B C A B C), those of ``once`` in the first alone.

    An engine that fails or cannot take part is not asked again.
    """
    runs: dict[str, list[Measure]] = {engine: [] for engine in engines}
    failed: dict[str, tuple[str, str]] = {}
    for number in range(repeat):
        for engine in engines:
            if engine in failed or (number and engine in once):
                continue
            _say(f"round {number + 1} of {repeat}: {engine} …")
            found = run_engine(replace(job, engine=engine), timeout_s, worker)
            if isinstance(found, Measure):
                runs[engine].append(found)
                _say(f"  {found.tokens_per_s:.0f} useful tokens/s, {found.seconds:.1f} s")
            else:
                failed[engine] = found
                _say(f"  {found[0]}: {found[1]}")
    rows = []
    for engine in engines:
        if runs[engine]:
            rows.append(Row.of(engine, runs[engine]))
        else:
            status, why = failed[engine]
            rows.append(Row(engine=engine, status=status, notes=(why,)))
    return with_ratios(rows, OURS, {})


def curves(rows: list[Row]) -> dict[str, float]:
    """How far curves of the loss are apart: the largest difference at a step, as a share of ours there.

    Each is held against ours of its precision where that was measured: the first steps at a small rate move float32
    weights, but few of the bf16 ones that are computed with.
    """
    measured = {row.engine: row.runs[0].extra["losses"] for row in rows if row.runs}
    found = {}
    for engine, theirs in measured.items():
        if engine == OURS or engine.startswith("trl"):
            continue
        ours = OURS_FLOAT32 if engine == "hf-trainer" and OURS_FLOAT32 in measured else OURS
        if ours in measured:
            apart = max(abs(a - b) / b for a, b in zip(theirs, measured[ours], strict=True))
            found[f"loss of {engine} differs from {ours}'s at most by, %"] = 100 * apart
    return found


def run(args: argparse.Namespace) -> Result:
    """Resolve the arguments, measure, and put the result together. Raises ``UserError`` for what cannot be used."""
    from rftfast.errors import UserError

    engines, once = (
        list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        for names in (args.engines, args.once)
    )
    unknown = sorted({*engines, *once} - set(ENGINES))
    if unknown or not engines:
        raise UserError(f"unknown engines {', '.join(unknown) or '(none given)'}: choose of {', '.join(ENGINES)}")
    for name, least in (("batch", 1), ("micro_batch", 1), ("steps", 1), ("warm_up", 0), ("threads", 1), ("repeat", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: use at least {least}")
    if args.batch % args.micro_batch:
        raise UserError(f"--batch {args.batch} is no multiple of --micro-batch {args.micro_batch}; change one of them")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        job = build(args, Path(folder))
        rows = measure_all(job, engines, args.repeat, args.timeout_s, once=once)
    lengths = [len(tokens) for tokens, _ in job.documents]
    settings: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in ("json", "engines") and v is not None}
    return Result(
        benchmark="train",
        machine=machine(_accelerator(args.device)),
        versions=versions(),
        command=shlex.join(["python", "bench/train.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={**settings, "load_before": load, "mean_tokens": sum(lengths) / len(lengths), "longest": max(lengths)},
        figures=curves(rows),
        rows=tuple(rows),
    )


def _accelerator(device: str) -> str | None:
    if device != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(ENGINES)
    parser.add_argument("--engines", default=names, help=f"comma-separated, of {names} (default: all)")
    parser.add_argument(
        "--data", help="run directory, prompt-completion or question file (default: the bundled questions)"
    )
    parser.add_argument("--prompt", default="gsm8k", help="template that questions are put in (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="documents a step (default: %(default)s)")
    parser.add_argument(
        "--micro-batch", type=int, default=8, help="documents the Trainer pads together (default: %(default)s)"
    )
    add_options(parser, steps=3, lr=2e-5)
    parser.add_argument("--once", default="", help="trainers of the first round alone (slow ones)")
    return parser


def main(argv: list[str] | None = None) -> int:
    return execute("train", _parser().parse_args(argv), run, _show)


def _show(result: Result) -> None:
    s = result.settings
    job = f"{s['steps']} steps of {s['batch']} documents, {s['mean_tokens']:.0f} tokens on average, {s['longest']} at most"
    show_trainers(result, job, digits=".2f")


if __name__ == "__main__":
    sys.exit(main())
