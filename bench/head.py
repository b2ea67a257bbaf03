"""The head of a training step, forward and backward: ours against plain logits, time and peak memory.

Plain is what transformers' causal models do: logits of all tokens in the model's dtype, then the loss of float32 copies.
Ours computes those of response tokens alone, a chunk at a time. Memory is the most bytes of tensors alive at a time beyond
hidden states and weight, the gradients of both included.

    python bench/head.py --json out.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import weakref
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.machine import machine, usable_cores, versions
from bench.schema import Measure, Result, Row, with_ratios

OURS, PLAIN = "rftfast", "plain"


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made under it; ``peak``: the most alive at a time. Any device, meta too."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._sizes.values()))
        return out


class Head:
    """Hidden states [T, d], the weight [V, d] and labels [T], of which every prompt's are -100."""

    def __init__(self, tokens: int, responses: int, vocabulary: int, width: int, device: str) -> None:
        torch.manual_seed(0)
        made = {"device": device, "dtype": torch.bfloat16}
        self.hidden = torch.randn(tokens, width, **made).requires_grad_()
        self.weight = torch.randn(vocabulary, width, **made).mul_(width**-0.5).requires_grad_()
        self.labels = torch.randint(vocabulary, (tokens,), device=device)
        self.labels[responses:] = -100
        self.rows = torch.arange(responses, device=device)

    def ours(self) -> torch.Tensor:
        from rftfast.train.cross_entropy import linear_cross_entropy

        return linear_cross_entropy(self.hidden, self.weight, self.labels, rows=self.rows)

    def plain(self) -> torch.Tensor:
        logits = torch.nn.functional.linear(self.hidden, self.weight).float()
        return torch.nn.functional.cross_entropy(logits, self.labels, reduction="sum")

    def backward(self, loss: Callable[[], torch.Tensor]) -> None:
        self.hidden.grad = self.weight.grad = None
        loss().backward()


def peak(head: Head, loss: Callable[[], torch.Tensor]) -> int:
    """Bytes at most."""
    with Alive() as alive:
        head.backward(loss)
    return alive.peak


def measured(head: Head, loss: Callable[[], torch.Tensor], repeat: int) -> Measure:
    """The fastest of ``repeat`` runs after the one that memory was counted in."""
    most, best = peak(head, loss), float("inf")
    for _ in range(repeat):
        _wait(head.hidden.device)
        began = time.perf_counter()
        head.backward(loss)
        _wait(head.hidden.device)
        best = min(best, time.perf_counter() - began)
    return Measure(best, len(head.hidden), 1, step_ms=1e3 * best, peak_memory_mib=most / 2**20)


def run(args: argparse.Namespace) -> Result:
    torch.set_num_threads(args.threads)
    shape = (args.tokens, round(args.tokens * args.responses), args.vocabulary, args.width)
    head = Head(*shape, args.device)
    rows = [Row.of(OURS, [measured(head, head.ours, args.repeat)])]
    rows.append(Row.of(PLAIN, [measured(head, head.plain, args.repeat)]))
    memory = [row.peak_memory_mib or 0 for row in rows]
    return Result(
        benchmark="head",
        machine=machine(torch.cuda.get_device_name() if args.device == "cuda" else None),
        versions=versions(),
        command=shlex.join(["python", "bench/head.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={k: v for k, v in vars(args).items() if k != "json"},
        figures={"peak memory, plain over ours": memory[1] / memory[0]},
        rows=tuple(with_ratios(rows, OURS, {})),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, what in (
        ("tokens", 4096, "of a packed row"),
        ("vocabulary", 49152, "of SmolLM2"),
        ("width", 576, "of SmolLM2-135M"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--responses", type=float, default=0.6, help="share of tokens with loss, GSM8K's (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="timed runs, the fastest counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: all cores)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    result = run(args)
    if args.json is not None:
        result.write(args.json)
    for row in result.rows:
        print(f"{row.engine:<8} {row.step_ms:9.1f} ms  {row.peak_memory_mib:9.1f} MiB at most")
    for name, value in result.figures.items():
        print(f"{name}: {value:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
