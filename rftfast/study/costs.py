"""What a step costs, as far as that can be told before it has run: operations, and GPU-hours at the roofline.

Counts that are not known yet are the paper's (arXiv 2308.01825): lengths of GSM8K, and distinct paths a question by the number
of samples (Tables 2 and 5). A step whose model or questions cannot be looked at costs nothing here and says so, and so do
rollouts, and pairs that are not made yet: how many there are depends on what the model gets wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.evaluate.cost import Paths, Rows, Stage, pretraining, sampling, training
from rftfast.evaluate.gpus import find_gpu
from rftfast.evaluate.model_size import ModelSize
from rftfast.evaluate.workload import GSM8K
from rftfast.models.config import ModelConfig
from rftfast.models.named import list_named
from rftfast.models.shapes import SHAPES, shape_config
from rftfast.study.graph import Step

GPU = "A100-80GB"
_BATCH = 256
# Samples a question -> distinct sampled paths (S): the sizes of the data sets in Table 5, and 4 models' 100 in Table 2.
_DISTINCT = {1: 0.61, 3: 1.01, 6: 1.41, 12: 1.94, 25: 2.75, 50: 3.68, 100: 5.29, 400: 12.84}
_RIGHT = 0.533  # share of samples with the right answer, 7B
_WORLD_LENGTHS = (37.0, 47.0)  # tokens of a made-up problem and of its solution


@dataclass(frozen=True)
class Cost:
    flops: float = 0.0
    gpu_hours: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.gpu_hours + other.gpu_hours)

    def text(self, lead: str = ", ") -> str:
        """`` , 1.2e+15 FLOP, ≥ 0.3 A100-80GB hours``; empty where nothing is known."""
        if not self.flops:
            return ""
        hours = f", ≥ {self.gpu_hours:.2g} {GPU} hours" if self.gpu_hours >= 0.01 else ""
        return f"{lead}{self.flops:.1e} FLOP{hours}"


def cost_of(step: Step, graph: Mapping[str, Step]) -> Cost:
    """Of the whole step, whatever part of it is done."""
    gpu = find_gpu(GPU)
    option = _options(step)
    kind = step.kind.name
    found = _size(step, graph) if "model" in step.kind.inputs else None
    if found is None:
        return Cost()
    if kind == "pretrain":
        tokens = sum(
            _options(graph[name])("tokens") for name in step.origins["data"] if graph[name].kind.name == "blank"
        )
        return _cost(pretraining(found, tokens * option("epochs"), option("max_length"), gpu)) if tokens else Cost()
    if kind in ("sft", "rft"):
        count, prompt, solution = _rows(step, graph)
        rows = Rows(count, prompt, solution)
        return _cost(training(kind, found, rows, option("epochs"), gpu)) if count else Cost()
    if kind == "dpo":
        (path,) = step.inputs["data"]
        count, prompt, solution = _count(step, "data", path, graph)
        # Two completions a pair; the reference takes one more forward pass, a third of what an epoch takes.
        pairs = Rows(2 * count, prompt, solution)
        return _cost(training(kind, found, pairs, option("epochs") + 1 / 3, gpu)) if count else Cost()
    count, prompt, solution = _questions(step, "questions", graph)
    if option("limit"):
        count = min(count, option("limit"))
    k = option("k") if kind == "sample" else 1 + option("k") * option("seeds")
    if not count or not k:
        return Cost()
    return _cost(sampling(kind, found, Paths(count, k, 0, prompt, solution), _BATCH, gpu, shared=True))


def _options(step: Step) -> Any:
    known = step.kind.options()
    return lambda name: step.options.get(name, known[name].default)


def _cost(stage: Stage) -> Cost:
    return Cost(stage.flops, stage.gpu_hours)


def _size(step: Step, graph: Mapping[str, Step]) -> ModelSize | None:
    """Of the model the step is given, which training does not change."""
    for name in step.origins["model"]:
        if graph[name].kind.name == "blank":
            from rftfast.study.world.model import world_config

            return ModelSize.of(world_config())
        return _size(graph[name], graph)
    (model,) = step.inputs["model"]
    cached = {m.name: m.path for m in list_named() if m.cached}
    if model in SHAPES:
        return ModelSize.of(shape_config(model))
    folder = cached.get(model, Path(model))
    return ModelSize.of(ModelConfig.from_folder(folder)) if (folder / "config.json").is_file() else None


def _rows(step: Step, graph: Mapping[str, Step]) -> tuple[float, float, float]:
    """Training rows and mean lengths of prompt and completion."""
    (path,) = step.inputs["data"]
    for name in step.origins["data"]:
        source = graph[name]
        if source.kind.name == "select":
            counts = source.folder / "counts.json"
            runs = [graph[run] for run in source.origins["runs"]]
            questions, prompt, solution = _questions(runs[0], "questions", graph) if runs else (0.0, 0.0, 0.0)
            if counts.is_file():
                return json.loads(counts.read_bytes())["rows"], prompt, solution
            k = sum(_options(source)("first") or _options(run)("k") for run in runs)
            kept = _distinct(k) if _options(source)("dedup") else _RIGHT * k
            return questions * (1 + kept), prompt, solution
    return _count(step, "data", path, graph)


def _questions(step: Step, key: str, graph: Mapping[str, Step]) -> tuple[float, float, float]:
    given = step.inputs.get(key)
    return _count(step, key, given[0], graph) if given else (0.0, 0.0, 0.0)


def _count(step: Step, key: str, path: str, graph: Mapping[str, Step]) -> tuple[float, float, float]:
    """Questions in an input, and mean lengths; 0 where that cannot be told."""
    for name in step.origins[key]:
        source = graph[name]
        if source.kind.name == "world":
            return float(_options(source)(Path(path).stem)), *_WORLD_LENGTHS
        if source.kind.name == "questions":
            count, prompt, solution = _count(source, "source", source.inputs["source"][0], graph)
            count = max(1.0, round(count * _options(source)("fraction"))) if count else 0.0
            return min(count, _options(source)("limit") or count), prompt, solution
    file = Path(path)
    if not file.is_file() or file.suffix != ".jsonl":
        return 0.0, GSM8K.prompt, GSM8K.solution
    with file.open("rb") as lines:
        return float(sum(1 for line in lines if line.strip())), GSM8K.prompt, GSM8K.solution


def _distinct(k: float) -> float:
    """Between the paper's points by the logarithm of k."""
    known = sorted(_DISTINCT)
    if k >= known[-1]:
        return _DISTINCT[known[-1]]
    above = next(i for i, at in enumerate(known) if at > k)
    low, high = known[max(0, above - 1)], known[above]
    share = math.log(k / low) / math.log(high / low) if high > low else 0.0
    return _DISTINCT[low] + share * (_DISTINCT[high] - _DISTINCT[low])
