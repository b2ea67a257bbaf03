"""Draws what an evaluation needs, as ordinary sampling runs: one greedy, and one with k paths a question for each seed.

An evaluation folder holds run directories, ``greedy`` and ``seed-0``, ``seed-1``, ...; each is safe against being killed, and
what is stored is not drawn again. Early stop and adaptive k stay off: every path is drawn to its end, every question alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rftfast.data.manifest import RUN_FILE, read_manifest
from rftfast.data.run_index import RunIndex
from rftfast.errors import UserError
from rftfast.ops import fp8
from rftfast.pipeline.engines import Opened, open_engine
from rftfast.pipeline.fleet import Fleet
from rftfast.pipeline.job import Job, SampleOptions, prepare
from rftfast.pipeline.sample import Progress, open_run, run

GREEDY = "greedy"


@dataclass(frozen=True)
class EvalOptions:
    """What ``rftfast eval`` was asked for; one for all models of the evaluation."""

    questions: str | None = None
    prompt: str | None = None
    """None: the template stored with the model, or else gsm8k."""
    shots: int | None = None
    exemplars: str | None = None
    k: int = 100
    """Paths a question for maj1@k and pass@k; 0: greedy only."""
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seeds: int = 1
    """Sampled runs, of seeds 0, 1, ..."""
    limit: int | None = None
    math: bool = False

    def __post_init__(self) -> None:
        checks = (
            (self.k >= 0, f"k is {self.k}: use 0 (greedy only) or a positive number"),
            (self.seeds >= 1, f"seeds is {self.seeds}: use at least 1"),
            (
                self.temperature > 0,
                f"temperature is {self.temperature}: greedy answers are always drawn; use k 0 for them alone",
            ),
        )
        for good, message in checks:
            if not good:
                raise UserError(message)


def prepare_jobs(model: str, options: EvalOptions) -> dict[str, Job]:
    """Run name -> job, everything read and checked but the weights. Raises UserError as ``pipeline.job.prepare`` does."""
    o = options
    greedy = SampleOptions(
        model=model,
        questions=o.questions,
        prompt=o.prompt,
        shots=o.shots,
        exemplars=o.exemplars,
        k=1,
        temperature=0.0,
        max_tokens=o.max_tokens,
        limit=o.limit,
        math=o.math,
    )
    jobs = {GREEDY: prepare(greedy)}
    for seed in range(o.seeds if o.k else 0):
        drawn = replace(greedy, k=o.k, temperature=o.temperature, top_p=o.top_p, top_k=o.top_k, seed=seed)
        jobs[f"seed-{seed}"] = prepare(drawn)
    return jobs


def draw(
    jobs: Mapping[str, Job],
    folder: Path,
    engine: Mapping[str, Any],
    report: Callable[[str, Progress], None],
    where: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draws what ``folder`` does not hold yet and gives the run directories. ``report`` gets a run's name and progress.

    The model is loaded once, and not at all where everything is stored. ``engine`` and ``where`` (device, gpus, ray) are
    those of ``pipeline.engines.open_engine``. Raises UserError; whole questions finished before it are stored.
    """
    where = where or {}
    notes = {name: value for name, value in {**where, **engine}.items() if name not in ("dtype", "invariant")}
    opened: Opened | None = None
    try:
        for name, job in jobs.items():
            if complete(job, folder / name, engine):
                continue
            opened = opened or open_engine(job.folder, engine, **where)
            with open_run(job, opened.engine, folder / name, notes) as directory:
                run(job, opened.engine, directory, partial(report, name))
    finally:
        if opened is not None and isinstance(opened.engine, Fleet):
            opened.engine.close()  # the next model wants their memory
    return [folder / name for name in jobs]


def complete(job: Job, path: Path, engine: Mapping[str, Any]) -> bool:
    """Whether ``path`` holds all of ``job``'s questions, made with the same configuration.

    What the engine adds to the configuration is known only once a model is loaded; it is compared where it was given.
    """
    if not (path / RUN_FILE).is_file():
        return False
    manifest = read_manifest(path)
    stored = dict(manifest["config"])
    # The stored dtype says what is in float8, too (``Sampler.dtype``), and "auto" is without.
    stored["dtype"], plus, rest = str(stored.get("dtype")).partition("+")
    if plus + rest != fp8.marks(engine.get("quantization"), engine.get("kv_cache_dtype")):
        return False
    for name in ("dtype", "invariant"):
        asked, held = engine.get(name), stored.pop(name, None)
        if asked not in (None, "auto", held):
            return False
    if stored != json.loads(json.dumps(job.identity())) or manifest["fingerprints"] != job.fingerprints():
        return False
    try:
        index = RunIndex(path)
    except UserError:  # nothing stored yet, or damage, which opening the run for writing tells
        return False
    return all(question.id in index for question in job.questions)


def folder_names(models: Sequence[str]) -> list[str]:
    """One folder name for each model: the last part of its name, numbered where that is taken. Of ``rft/model``, as the trainers
    write it, it is the part before that."""
    found: list[str] = []
    for model in models:
        path = Path(model)
        if path.name == "model" and path.parent.name not in ("", ".."):
            path = path.parent
        name = path.name.removesuffix(".gguf") or "model"
        number = 2
        unique = name
        while unique in found:
            unique = f"{name}-{number}"
            number += 1
        found.append(unique)
    return found
