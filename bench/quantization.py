"""What float8 does to a model: its own greedy answers, scored token by token by the same model in other arithmetic.

bfloat16 draws greedy answers; then float32, bfloat16 and bfloat16 with the layers' products, or keys and values, or both in
float8 give each of their tokens a log-probability, and say what they would have drawn there. On a CPU, where float8 is emulated: the arithmetic is
that of the GPU's products but for the order of sums. The same answers for all, so that differences do not add up.

    python bench/quantization.py --model smollm2-135m-instruct --questions test.jsonl --n-prompts 40 --json out.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

import torch

from bench.command import execute
from bench.machine import machine, usable_cores, versions
from bench.schema import Result
from rftfast.engine import Sampler, SamplingParams
from rftfast.engine.runner import Runner
from rftfast.engine.scheduler import Chunk, Step
from rftfast.ops.linear import MAX_ROWS

FORMS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bf16"},
    "bfloat16+kv-fp8": {"dtype": "bf16", "kv_cache_dtype": "fp8"},
    "bfloat16+fp8": {"dtype": "bf16", "quantization": "fp8"},
    "bfloat16+fp8+kv-fp8": {"dtype": "bf16", "quantization": "fp8", "kv_cache_dtype": "fp8"},
}
PAIRS = (("bfloat16", "float32"), *((form, "bfloat16") for form in FORMS if "fp8" in form))


@dataclass(frozen=True)
class Distance:
    """Between two forms of a model, over the tokens of the answers."""

    mean: float
    """Of the differences of a token's log-probability, without their sign."""
    median: float
    high: float
    """99 of 100 differ by less."""
    divergence: float
    """Kullback and Leibler's, in nats a token, of the second form's distribution from the first's; averaged."""
    agreement: float
    """Share of places where both would draw the same token, greedily."""


def log_probabilities(sampler: Sampler, path: Sequence[int], first: int) -> torch.Tensor:
    """float32 [n, V]: of what may stand at ``first`` and each later place of ``path``, after the tokens before it."""
    tree, runner = sampler.tree, sampler.runner
    assert isinstance(runner, Runner) and 0 < first < len(path) <= MAX_ROWS
    node = tree.child(tree.root, shared=False)
    try:
        copies = tree.append(node, list(path))
        inputs = runner._inputs(Step(chunks=[Chunk(node, 0, list(path))], copies=copies), ())
        wanted = replace(inputs, logit_rows=torch.arange(first - 1, len(path) - 1))
        return sampler.decoder.forward(wanted, sampler.pool).float().log_softmax(-1)
    finally:
        tree.release(node, keep=False)


def distance(answers: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Distance:
    """``answers``: of each its tokens [n] and what two forms say of its places [n, V]."""
    gaps, divergences, same = [], [], []
    for tokens, one, other in answers:
        places = torch.arange(len(tokens))
        gaps.append((one[places, tokens] - other[places, tokens]).abs())
        divergences.append((one.exp() * (one - other)).sum(-1))
        same.append(one.argmax(-1) == other.argmax(-1))
    gap = torch.cat(gaps)
    mean, median, high = gap.mean(), gap.median(), gap.quantile(0.99)
    found = mean, median, high, torch.cat(divergences).mean(), torch.cat(same).float().mean()
    return Distance(*(float(value) for value in found))


def run(args: argparse.Namespace) -> Result:
    """Raises ``UserError`` for what cannot be used."""
    from bench.prompts import build
    from rftfast.errors import UserError
    from rftfast.models.resolve import resolve

    folder = resolve(args.model)
    prompts = build(folder, args.questions, args.n_prompts, 0, None, args.prompt)
    longest = max(map(len, prompts.tokens)) + args.max_tokens
    if args.max_tokens < 1 or longest > MAX_ROWS:
        raise UserError(f"{longest} tokens with the new ones: use a --max-tokens from 1 on, with {MAX_ROWS} in all")
    given = {"threads": args.threads, "kv_memory": "256MiB"}
    models = {name: Sampler.from_pretrained(folder, **given, **form) for name, form in FORMS.items()}
    params = SamplingParams(k=1, temperature=0.0, max_tokens=args.max_tokens, stop=prompts.stop)
    drawn = models["bfloat16"].generate(prompts.tokens, params)
    answers: dict[tuple[str, str], list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {pair: [] for pair in PAIRS}
    distances, count = {}, 0
    for prompt, (answer,) in zip(prompts.tokens, drawn, strict=True):
        path = [*prompt, *answer.token_ids]
        said = {name: log_probabilities(model, path, len(prompt)) for name, model in models.items()}
        tokens = torch.tensor(answer.token_ids)
        count += len(tokens)
        for one, other in PAIRS:
            answers[one, other].append((tokens, said[one], said[other]))
    figures = {"answers": float(len(drawn)), "their tokens": float(count)}
    for (one, other), scored in answers.items():
        distances[one, other] = distance(scored)
        figures |= {f"{one} from {other}: {name}": value for name, value in vars(distances[one, other]).items()}
    _show(distances, len(drawn), count)
    return Result(
        benchmark="quantization",
        machine=machine(None),
        versions=versions(),
        command=shlex.join(["python", "bench/quantization.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={name: value for name, value in vars(args).items() if name != "json" and value is not None},
        figures=figures,
        rows=(),
    )


def _show(distances: dict[tuple[str, str], Distance], answers: int, tokens: int) -> None:
    print(f"{tokens:,} tokens of {answers} answers; log-probabilities differ by")
    print(f"{'':34}   mean  median  99 of 100  divergence  same greedy token")
    for (one, other), d in distances.items():
        figures = f"{d.mean:7.4f} {d.median:7.4f} {d.high:10.4f}  {d.divergence:10.5f}  {d.agreement:17.1%}"
        print(f"{one + ' from ' + other:34}{figures}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="folder or name (default: %(default)s)")
    parser.add_argument("--questions", help="file of questions (default: the bundled set)")
    parser.add_argument("--n-prompts", type=int, default=8, help="questions from its front (default: %(default)s)")
    parser.add_argument("--prompt", default="gsm8k", help="prompt template (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=160, help="new tokens an answer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: all cores)")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def main(argv: list[str] | None = None) -> int:
    return execute("quantization", _parser().parse_args(argv), run)


if __name__ == "__main__":
    sys.exit(main())
