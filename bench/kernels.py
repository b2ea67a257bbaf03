"""Each GPU kernel alone: its time, what share of this device's own rates it reaches, and the same done by others.

Both rates, bytes a second of a large copy and operations a second of a large bf16 product, are measured first, in the same
run; caches are cold in every timed launch. Every result is checked against float64 before it is timed; a kernel that is
wrong has no time, and the exit status is 1. The rival of shared-prefix attention is plain flash decode with the rows of
a prompt side by side.

    python bench/kernels.py --quick --seconds 60 --json out.json
    python bench/kernels.py --only "decode attention"
    python bench/kernels.py --interpret

``--interpret`` checks small cases of the Triton kernels on a CPU, in Triton's interpreter, and times nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    _BEGIN = time.perf_counter()  # before torch is loaded, which takes seconds
    if "--interpret" in sys.argv:  # before anything loads Triton, and parts of torch do
        os.environ["TRITON_INTERPRET"] = "1"
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

import torch

from bench import attention_cases, op_cases
from bench.kernel_case import KernelCase, Planned, WrongResult, check, measure
from bench.machine import machine, versions
from bench.roofline import Rates, measure_rates
from bench.schema import KernelTime, Result

NAMES = (
    "decode attention",
    "prefill attention",
    "invariant linear",
    "rms_norm",
    "rope_write_kv",
    "swiglu",
    "sampler",
    "page copy",
)


class TimeUp(BaseException):
    """The time given is over. No ``Exception``, so that nobody takes it for a failure of what was running."""


@dataclass
class Found:
    times: list[KernelTime] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: int = 0
    """Cases for which there was no time."""


def planned(
    device: torch.device, dtype: torch.dtype, only: Sequence[str], *, quick: bool, tiny: bool
) -> Iterator[Planned]:
    """All cases, the most telling first: some of attention, everything else, then the rest of attention."""
    attention = [
        case
        for case in attention_cases.planned(device, dtype, quick=True, tiny=tiny)
        if not only or case.kernel in only
    ]
    others = [
        case for case in op_cases.planned(device, dtype, quick=quick, tiny=tiny) if not only or case.kernel in only
    ]
    yield from attention
    yield from others
    if not quick and not tiny:
        known = {case.case for case in attention}
        for case in attention_cases.planned(device, dtype, quick=False, tiny=False):
            if (not only or case.kernel in only) and case.case not in known:
                yield case


def _arm(seconds: float | None) -> None:
    """From now on ``TimeUp`` is raised after so many seconds, once; None: no more."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TimeUp

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0.0)


def run(args: argparse.Namespace, begin: float) -> int:
    """Status: 0, or 1 if a kernel computed something else than it should, or nothing could be measured."""
    device = torch.device("cpu" if args.interpret else "cuda")
    dtype = torch.float32 if args.interpret else torch.bfloat16
    cases = list(planned(device, dtype, args.only, quick=args.quick, tiny=args.interpret))
    found = Found(left=len(cases))
    result: Result | None = None
    try:
        _arm(None if args.seconds is None else max(args.seconds - (time.perf_counter() - begin), 0.001))
        rates = None if args.interpret else measure_rates(device, budget_s=0.25)
        for case in cases:
            _one(case, device, rates, found)
            found.left -= 1
            if rates is not None and args.json is not None:  # after each, so that whoever ends this has what there is
                result = _result(args, rates, found)
                result.write(args.json)
    except TimeUp:
        pass
    finally:
        _arm(None)
    if found.left:
        print(f"{found.left} of {len(cases)} cases were left out: {args.seconds:g} s were over", flush=True)
    if found.times and rates is not None:
        show(found.times, rates)
    for line in found.wrong:
        print(f"wrong: {line}")
    if args.interpret:
        print(f"{len(cases) - found.left - len(found.wrong)} of {len(cases)} cases are right")
        return 0 if not found.wrong and not found.left else 1
    return 0 if found.times and not found.wrong else 1


def _one(plan: Planned, device: torch.device, rates: Rates | None, found: Found) -> None:
    try:
        torch.manual_seed(0)
        case: KernelCase = plan.build()
        if rates is None:
            error = check(case)
            for name, way in case.rivals.items():
                its = case.error_of(way) if way.result is not None else 0.0
                if not its <= case.bound:
                    raise WrongResult(f"{case.kernel} {case.case}: {name}: error {its:.2e}")
            print(f"{case.kernel} {case.case}: error {error:.1e}, {len(case.rivals)} rivals agree", flush=True)
            return
        one = measure(case, device, rates)
    except WrongResult as wrong:
        found.wrong.append(str(wrong))
    except Exception as failure:  # of a kernel of ours; the others go on
        words = " ".join(str(failure).split())[:300]
        found.wrong.append(f"{plan.kernel} {plan.case}: {type(failure).__name__}: {words}")
    else:
        found.times.append(one)


def _result(args: argparse.Namespace, rates: Rates, found: Found) -> Result:
    settings = {"quick": args.quick, "only": list(args.only), "seconds": args.seconds, "cases_left": found.left}
    return Result(
        benchmark="kernels",
        machine=machine(torch.cuda.get_device_name()),
        versions=versions(),
        command=shlex.join(["python", "bench/kernels.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={**settings, "wrong": list(found.wrong)},
        figures=rates.figures(),
        rows=(),
        kernels=tuple(found.times),
    )


def show(times: Sequence[KernelTime], rates: Rates) -> None:
    """A line a case. Shares are of the rates measured in this run; "faster" is the fastest rival's time over ours."""
    for name, value in rates.figures().items():
        print(f"{name}: {value:,.1f}")
    width = max(len(one.case) for one in times)
    print(f"{'':18}{'':{width}}       us  bandwidth  products  of bound  faster  than")
    for one in times:
        seconds = one.ms / 1e3
        shares = one.bytes / seconds / rates.bandwidth, one.flops / seconds / rates.flops
        print(
            f"{one.kernel:18}{one.case:{width}} {1e3 * one.ms:8.1f}  {shares[0]:8.1%}  {shares[1]:8.1%}"
            f"  {one.of_bound:8.1%}  {_rival(one)}"
        )


def _rival(one: KernelTime) -> str:
    if not one.rivals_ms:
        return ""
    name = min(one.rivals_ms, key=lambda name: one.rivals_ms[name])
    return f"{one.times_faster:5.2f}x  {name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the most telling cases alone")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KERNEL", help=f"may be repeated; of {', '.join(NAMES)}"
    )
    parser.add_argument("--seconds", type=float, help="end after so many, with what there is by then")
    parser.add_argument("--interpret", action="store_true", help="check small cases on a CPU; no times")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def main(argv: list[str] | None = None, begin: float | None = None) -> int:
    """``begin``: when ``--seconds`` began, by ``time.perf_counter``; None for now."""
    begin = time.perf_counter() if begin is None else begin
    args = _parser().parse_args(argv)
    problem = None
    if unknown := sorted(set(args.only) - set(NAMES)):
        problem = f"unknown kernel '{unknown[0]}': choose of {', '.join(NAMES)}"
    elif args.seconds is not None and args.seconds <= 0:
        problem = f"--seconds is {args.seconds:g}: give it a positive number"
    elif args.interpret and args.json is not None:
        problem = "--interpret measures nothing: leave --json out"
    elif args.interpret and os.environ.get("TRITON_INTERPRET") != "1":
        problem = "--interpret needs TRITON_INTERPRET=1 in the environment"
    elif not args.interpret:
        from rftfast.ops import cuda

        missing = cuda.triton_available() or cuda.available()
        problem = f"needs a GPU: {missing} (--interpret checks the Triton kernels without one)" if missing else None
    if problem is not None:
        print(f"kernels: {problem}", file=sys.stderr)
        return 2
    return run(args, begin)


if __name__ == "__main__":
    sys.exit(main(begin=_BEGIN))
