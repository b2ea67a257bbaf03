"""Rollouts from the middle of wrong answers: ours against re-prompting every prefix, transformers and llama.cpp.

Wrong answers of each question are sampled first (not timed, kept for the next time), split into steps, and every engine
draws the same number of rollouts of the same length from the same prefixes, in a process of its own.

    python bench/rollouts.py --questions train.jsonl --n-questions 2 --json out.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench.machine import machine, usable_cores, versions
from bench.rollout_engines import ENGINES, Group, Work, measure
from bench.schema import Measure, Result, Row, with_ratios

OURS = "rftfast"
_GRACE_S = 300.0


def groups_of(run: Path, negatives: int, questions: int) -> tuple[Group, ...]:
    """The first questions of ``run`` with so many wrong answers, as ``rftfast rollout`` would take them apart.

    Raises ``UserError`` if there are too few.
    """
    from rftfast.errors import UserError
    from rftfast.negatives.job import RolloutOptions, prepare

    job = prepare(RolloutOptions(run, negatives=negatives, unfinished=True, temperature=0.7))
    groups = []
    for stored in job.questions():
        chosen = job.chosen(stored)
        if len(chosen) < negatives:
            continue
        prompt = job.source.prompt(stored, job.tokenizer)
        seen: set[tuple[int, ...]] = set()
        responses, prefixes = [], []
        for response in chosen:
            drawn = job.source.drawn(stored, response, job.options.steps, prompt, job.vocabulary)
            new = [n for n in drawn.steps.tokens[:-1] if drawn.tokens[:n] not in seen]
            seen.update(drawn.tokens[:n] for n in new)
            responses.append(drawn.tokens)
            prefixes.append(tuple(new))
        if not any(prefixes):
            continue
        groups.append(Group(prompt.tokens, tuple(responses), tuple(prefixes)))
        if len(groups) == questions:
            return tuple(groups)
    raise UserError(
        f"{run}: {len(groups)} questions have {negatives} wrong answers of several steps and {questions} are wanted: raise --k"
    )


def sample(args: argparse.Namespace, scratch: Path) -> Path:
    """A run with wrong answers, made by the command line; the same settings find it again."""
    options = [
        "--model",
        args.model,
        "--prompt",
        args.prompt,
        "--shots",
        args.shots,
        "--k",
        args.k,
        "--limit",
        args.pool,
    ]
    options += ["--questions", args.questions] if args.questions else []
    options += ["--exemplars", args.shots_from] if args.shots_from else []
    options += ["--no-early-stop", "--token-ids", "--max-tokens", 256]
    name = hashlib.blake2b(json.dumps(options, default=str).encode(), digest_size=8).hexdigest()
    out = scratch / f"rollouts-{name}"
    command = [sys.executable, "-m", "rftfast.cli.main", "sample", *map(str, options), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().split("\n")[-1])
    return out


def run_engine(work: Work) -> Measure | tuple[str, str]:
    """One engine's one run in a process of its own: its measure, or ("skipped" | "error", why)."""
    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        given, out, log = Path(folder) / "work.json", Path(folder) / "out.json", Path(folder) / "log.txt"
        work.write(given)
        environment = {
            "GOMP_SPINCOUNT": "2000",
            **os.environ,
            "OMP_NUM_THREADS": str(work.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, __file__, "--worker", str(given), str(out)]
        with log.open("wb") as stream:
            try:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                    timeout=work.budget_s + _GRACE_S,
                )
            except subprocess.TimeoutExpired:
                return "error", f"no result after {work.budget_s + _GRACE_S:.0f} s; its process was ended"
        if not out.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            return "error", next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]
        answer = json.loads(out.read_text(encoding="utf-8"))
    for status in ("skipped", "error"):
        if status in answer:
            return status, str(answer[status])
    return Measure(**{**answer["measure"], "notes": tuple(answer["measure"]["notes"])})


def worker(given: Path, out: Path) -> None:
    """The engine's process."""
    import resource

    from bench.skip import Skip

    try:
        found = measure(Work.read(given))
    except Skip as reason:
        answer: dict[str, Any] = {"skipped": str(reason)}
    except Exception as error:  # an engine that fails is a row of the table, whatever it fails with
        import traceback

        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        answer = {"measure": asdict(replace(found, peak_memory_mib=peak))}
    out.write_text(json.dumps(answer), encoding="utf-8")


def run(args: argparse.Namespace) -> Result:
    """Resolve the arguments, measure, and put the result together. Raises ``UserError`` for what cannot be used."""
    from rftfast.errors import UserError
    from rftfast.models.cache import cache_folder
    from rftfast.models.resolve import resolve

    engines = [name.strip() for name in args.engines.split(",") if name.strip()]
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown or not engines:
        raise UserError(f"unknown engines {', '.join(unknown) or '(none given)'}: choose of {', '.join(ENGINES)}")
    scratch = cache_folder() / "bench"
    scratch.mkdir(parents=True, exist_ok=True)
    groups = groups_of(args.run or sample(args, scratch), args.negatives, args.n_questions)
    work = Work(
        OURS,
        str(resolve(args.model)),
        groups,
        args.rollouts,
        args.max_tokens,
        args.threads,
        args.dtype,
        args.temperature,
        args.seed,
        args.budget_s,
        str(scratch),
    )
    load = os.getloadavg()[0]
    runs: dict[str, list[Measure]] = {engine: [] for engine in engines}
    failed: dict[str, tuple[str, str]] = {}
    for number in range(args.repeat):
        for engine in engines:
            if engine in failed:
                continue
            print(f"round {number + 1} of {args.repeat}: {engine} …", file=sys.stderr, flush=True)
            found = run_engine(replace(work, engine=engine))
            if isinstance(found, Measure):
                runs[engine].append(found)
            else:
                failed[engine] = found
    rows = [
        Row.of(engine, runs[engine])
        if runs[engine]
        else Row(engine=engine, status=failed[engine][0], notes=(failed[engine][1],))
        for engine in engines
    ]
    states = [state for group in groups for state in group.states()]
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("json", "engines")}
    shape = {
        "states": len(states),
        "prompt_tokens": [len(group.prompt) for group in groups],
        "response_tokens": [len(tokens) for group in groups for tokens in group.responses],
        "prefix_tokens_unshared": sum(map(len, states)) * args.rollouts,
        "load_before": load,
    }
    return Result(
        benchmark="rollouts",
        machine=machine(),
        versions=versions(),
        command=shlex.join(["python", "bench/rollouts.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={name: value for name, value in {**settings, **shape}.items() if value is not None},
        figures={},
        rows=tuple(with_ratios(rows, OURS, {})),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ",".join(name for name in ENGINES if name != "transformers-cb")  # minutes a question on a CPU
    names = ",".join(ENGINES)
    parser.add_argument("--engines", default=default, help=f"comma-separated, of {names} (default: %(default)s)")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="folder or name (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="a run directory with wrong answers (default: one is made)")
    parser.add_argument("--questions", help="file of questions (default: the bundled set)")
    parser.add_argument("--n-questions", type=int, default=2, help="rolled out (default: %(default)s)")
    parser.add_argument("--pool", type=int, default=4, help="sampled, to find those (default: %(default)s)")
    parser.add_argument(
        "--k", type=int, default=16, help="samples a question, to find wrong ones (default: %(default)s)"
    )
    parser.add_argument("--prompt", default="gsm8k", help="prompt template (default: %(default)s)")
    parser.add_argument("--shots", type=int, default=2, help="examples in the prompt (default: %(default)s)")
    parser.add_argument("--shots-from", help="file of the examples (default: the bundled ones)")
    parser.add_argument("--negatives", type=int, default=8, help="wrong answers a question (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=5, help="of each prefix (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="new tokens of a rollout (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of every engine (default: all cores)")
    parser.add_argument("--dtype", default="bf16", help="of ours and transformers (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="rounds over all engines; medians (default: %(default)s)")
    parser.add_argument("--budget-s", type=float, default=600.0, help="time limit of one run (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def show(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    s = result.settings
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(
        f"{result.machine.cpu}, {result.machine.cores} cores; {s['model']}: {s['n_questions']} questions × {s['negatives']} "
        f"wrong answers, {s['states']} prefixes × {s['rollouts']} rollouts of {s['max_tokens']} tokens",
        highlight=False,
    )
    table = Table("engine", "rollouts/s", "tokens/s", "ours is", "seconds", "rollouts/CPU s", "ours is", "peak MiB")
    cpu = {row.engine: rate for row in result.rows if (rate := _per_cpu_second(row, s["max_tokens"])) is not None}
    for row in result.rows:
        if row.tokens_per_s is None:
            table.add_row(row.engine, row.status)
            continue
        star = "*" if row.status == "partial" else ""
        rate = cpu.get(row.engine)
        table.add_row(
            row.engine,
            f"{row.tokens_per_s / s['max_tokens']:.2f}{star}",
            f"{row.tokens_per_s:.0f}",
            f"{row.times_slower:.2f}×" if row.times_slower else "",
            f"{row.seconds:.1f}",
            f"{rate:.2f}" if rate else "",
            f"{cpu[OURS] / rate:.2f}×" if rate and OURS in cpu else "",
            f"{row.peak_memory_mib or 0:.0f}",
        )
    console.print(table)
    for row in result.rows:
        for note in row.notes:
            console.print(f"{row.engine}: {note}", style="dim", markup=False, highlight=False)


def _per_cpu_second(row: Row, new: int) -> float | None:
    """Rollouts a second of processor time: what can be compared on a machine that does other work, too."""
    known = [run.tokens / new / run.extra["cpu_s"] for run in row.runs if run.extra.get("cpu_s")]
    return statistics.median(known) if known else None


def main(argv: list[str] | None = None) -> int:
    from rftfast.errors import UserError

    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["--worker"]:
        worker(Path(given[1]), Path(given[2]))
        return 0
    args = _parser().parse_args(given)
    try:
        result = run(args)
        if args.json is not None:
            result.write(args.json)
    except (UserError, OSError, RuntimeError) as error:
        print(f"rollouts: {error}", file=sys.stderr)
        return 2
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
