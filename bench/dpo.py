"""Speed on preference pairs: ours against TRL's DPOTrainer. Same model, same pairs, same steps, one run.

Speed is counted in useful tokens: both completions of a pair, each with its prompt, no padding. Every trainer runs in a process
of its own, one after the other; loading, the first steps and the pass of the reference before them are left out, and figures with
that pass are given beside. Without --data, pairs are made of questions: chosen is the gold solution, rejected that of another
question, with --cut up to a line of it.

    python bench/dpo.py --questions train.jsonl --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench.command import execute
from bench.dpo_engines import ENGINES, OURS, tokens_of
from bench.dpo_job import PairJob
from bench.machine import machine, versions
from bench.schema import Result, Row
from bench.train import measure_all
from bench.train_command import add_options, show_trainers

WORKER = Path(__file__).resolve().parent / "dpo_worker.py"


def build(args: argparse.Namespace, folder: Path) -> PairJob:
    """The job without its engine: pairs in the order in which our trainer takes them. Writes its data to ``folder``."""
    from rftfast.errors import UserError
    from rftfast.train.model import open_base
    from rftfast.train.preference import read_preferences
    from rftfast.train.preference_documents import pair_documents
    from rftfast.train.preference_packing import plan_pairs

    base = open_base(args.model)
    wanted = args.batch * (args.warm_up + args.steps)
    data = Path(args.data) if args.data else folder / "pairs.jsonl"
    if not args.data:
        rows = made_rows(args.questions, wanted, cut=args.cut, seed=args.seed)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = pair_documents(read_preferences(data)[:wanted], base.tokenizer, eos_id=base.eos_id)
    if len(pairs) < wanted:
        raise UserError(f"{data}: {len(pairs)} pairs, and {wanted} are wanted; use fewer --steps or a smaller --batch")
    if any(d.weights is not None for pair in pairs for d in pair.documents) or any(pair.weight != 1 for pair in pairs):
        raise UserError(f"{data}: pairs have weights, which TRL's trainer does not know; remove the columns")
    plan = plan_pairs(pairs, budget_tokens=args.row_tokens, pairs_per_step=args.batch, seed=args.seed, epoch=0)
    if args.data:  # ours is to see the first pairs alone
        lines = data.read_text(encoding="utf-8").split("\n")
        data = folder / "pairs.jsonl"
        data.write_text("\n".join([line for line in lines if line.strip()][:wanted]) + "\n", encoding="utf-8")
    return PairJob(
        engine=OURS,
        model=str(base.folder),
        data=str(data),
        pairs=tuple(tokens_of(pair) for step in plan for pair in step.pairs),
        batch=args.batch,
        micro_batch=args.micro_batch,
        row_tokens=args.row_tokens,
        warm_up=args.warm_up,
        steps=args.steps,
        lr=args.lr,
        beta=args.beta,
        seed=args.seed,
        threads=args.threads,
        device=args.device,
    )


def made_rows(questions: str | None, count: int, *, cut: bool, seed: int) -> Iterator[dict[str, Any]]:
    """Pairs of natural lengths; a small set of questions is gone through again, each time with other wrong answers."""
    from rftfast.data.prompts import load_template
    from rftfast.data.questions import BUNDLED, load_questions

    found = load_questions(questions or BUNDLED / "questions.jsonl")
    template = load_template("gsm8k")
    rng = random.Random(seed)
    for i in range(count):
        at, turn = i % len(found), i // len(found)
        question, other = found[at], found[(at + 1 + turn) % len(found)]
        wrong = other.answer
        if cut:
            lines = wrong.splitlines(keepends=True)
            wrong = "".join(lines[: rng.randint(1, max(1, len(lines) - 1))])
        yield {
            "id": f"{question.id}/{turn}",
            "prompt": template.render(question.question),
            "chosen": template.begin + question.answer,
            "rejected": template.begin + wrong,
            "rejected_ends": not cut,
        }


def figures(rows: list[Row]) -> dict[str, float]:
    """Rates with the pass of the reference, as in a run of one epoch; and how far losses of one precision are apart."""
    found: dict[str, float] = {}
    ran = {row.engine: row.runs[0] for row in rows if row.runs}
    for engine, run in ran.items():
        whole = run.seconds + run.extra.get("reference_s", 0.0)
        found[f"{engine}, the reference included (one epoch), useful tokens/s"] = run.tokens / whole
    for ours, theirs in ((OURS, "trl-bf16"), ("rftfast-float32", "trl")):
        if ours in ran and theirs in ran:
            pairs = zip(ran[theirs].extra["losses"], ran[ours].extra["losses"], strict=True)
            found[f"loss of {theirs} differs from that of {ours} at most by"] = max(abs(a - b) for a, b in pairs)
    return found


def run(args: argparse.Namespace) -> Result:
    """Resolve the arguments, measure, and put the result together. Raises ``UserError`` for what cannot be used."""
    from rftfast.errors import UserError

    engines = list(dict.fromkeys(name.strip() for name in args.engines.split(",") if name.strip()))
    unknown = sorted(set(engines) - set(ENGINES))
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
        rows = measure_all(job, engines, args.repeat, args.timeout_s, WORKER)
    settings: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in ("json", "engines") and v is not None}
    lengths = {
        name: sum(len(pair[i]) for pair in job.pairs) / len(job.pairs)
        for i, name in enumerate(("mean_prompt", "mean_chosen", "mean_rejected"))
    }
    return Result(
        benchmark="dpo",
        machine=machine(),
        versions=versions(),
        command=shlex.join(["python", "bench/dpo.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={**settings, "load_before": load, **lengths},
        figures=figures(rows),
        rows=tuple(rows),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(ENGINES)
    parser.add_argument("--engines", default=names, help=f"comma-separated, of {names} (default: all)")
    parser.add_argument("--data", help="JSONL of pairs, as 'rftfast pairs' writes them")
    parser.add_argument("--questions", help="questions to make pairs of (default: the bundled ones)")
    parser.add_argument("--cut", action="store_true", help="made pairs: rejected answers end after one of their lines")
    parser.add_argument("--batch", type=int, default=16, help="pairs a step (default: %(default)s)")
    parser.add_argument(
        "--micro-batch", type=int, default=4, help="pairs that TRL pads together (default: %(default)s)"
    )
    parser.add_argument("--beta", type=float, default=0.1, help="(default: %(default)s)")
    add_options(parser, steps=2, lr=1e-6)
    return parser


def main(argv: list[str] | None = None) -> int:
    return execute("dpo", _parser().parse_args(argv), run, _show)


def _show(result: Result) -> None:
    s = result.settings
    job = (
        f"{s['steps']} steps of {s['batch']} pairs; on average {s['mean_prompt']:.0f} tokens of prompt,"
        f" {s['mean_chosen']:.0f} chosen, {s['mean_rejected']:.0f} rejected"
    )
    show_trainers(result, job, digits=".4g")


if __name__ == "__main__":
    sys.exit(main())
