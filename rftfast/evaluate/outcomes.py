"""What a run directory says about a model: how many of a question's samples are right, and what their vote comes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.data.manifest import RUN_FILE, read_manifest
from rftfast.errors import UserError
from rftfast.evaluate.run_metrics import questions_wanted, read_run_metrics
from rftfast.select.statistics import KS, VOTES, majority_is_right
from rftfast.select.union import Pool

# Fields of a run's configuration that its samples depend on, beside the model, the questions and the seed.
_SETTINGS = ("prompt", "shots", "temperature", "top_p", "top_k", "min_p", "max_tokens", "verify", "dtype", "invariant")


@dataclass(frozen=True)
class Outcomes:
    """One run, counted. Dicts are by question id, in the run's order."""

    path: Path
    model: str
    """As the run was given it: a name or a folder."""
    fingerprint: str
    """Of the model."""
    settings: dict[str, Any]
    seed: int
    k: int
    """Samples a question."""
    golds: dict[str, str]
    """The gold answers."""
    right: dict[str, int]
    """How many of the k samples have the right final answer, whatever their equations."""
    majority: dict[int, dict[str, bool]]
    """Of the first so many samples: is their vote right."""
    verdicts: Counter[str]
    wanted: int | None = None
    """How many questions the run was to have, where its metrics say."""

    @property
    def unfinished(self) -> bool:
        """Whether questions are missing yet: those that are there are the first, or the quickest, and no fair sample."""
        return self.wanted is not None and len(self.golds) < self.wanted

    @property
    def greedy(self) -> bool:
        return self.settings["temperature"] == 0


def read_outcomes(path: str | Path, vote: str = "value") -> Outcomes:
    """Count a run directory; nothing is sampled or judged again. Memory: a few numbers a question.

    ``vote``: as in ``select.statistics.majority_is_right``. It decides for single samples, too.

    Raises:
        UserError: not a run directory, a damaged part, an unknown vote, questions with different numbers of samples, or
            a run whose samples were shaped by early stop, so that a path's final answer may be missing.
    """
    if vote not in VOTES:
        raise UserError(f"vote is {vote!r}; choose one of {', '.join(VOTES)}")
    path = Path(path)
    manifest = read_manifest(path)
    config: dict[str, Any] = manifest["config"]
    if "method" in config:
        raise UserError(f"{path}: is the folder of a training run; evaluate its model, {path / 'model'}")
    if config.get("temperature") is None:
        raise UserError(f"{path / RUN_FILE}: no temperature in the configuration; evaluate runs of 'rftfast sample'")
    if config.get("early_stop"):
        raise UserError(
            f"{path}: sampled with early stop, which ends paths before their answers; evaluate a run sampled without it"
        )
    golds: dict[str, str] = {}
    right: dict[str, int] = {}
    majority: dict[int, dict[str, bool]] = {}
    verdicts: Counter[str] = Counter()
    k = 0
    with Pool([str(path)]) as pool:
        for question in pool:
            candidates = question.candidates
            if not golds:
                k = len(candidates)
                majority = {m: {} for m in sorted({m for m in KS if m < k} | {k})}
            if len(candidates) != k or not k:
                raise UserError(
                    f"{path}: question {question.id!r} has {len(candidates)} samples, others have {k}; evaluate a run "
                    "with as many for every question (sampled without --budget)"
                )
            assert question.answer is not None, question.id  # every run stores the gold solutions
            golds[question.id] = question.answer
            right[question.id] = sum(majority_is_right([c], vote, question.answer) for c in candidates)
            for m, found in majority.items():
                found[question.id] = majority_is_right(candidates[:m], vote, question.answer)
            verdicts.update(c.verdict for c in candidates)
        model = pool.models[0]
    named = (manifest.get("notes") or {}).get("model")
    return Outcomes(
        path,
        named if isinstance(named, str) and named else model,
        str(manifest["fingerprints"].get("model", "")),
        {name: config.get(name) for name in _SETTINGS},
        int(config.get("seed", 0)),
        k,
        golds,
        right,
        majority,
        verdicts,
        questions_wanted(read_run_metrics(path)),
    )


def run_folders(path: str | Path) -> list[Path]:
    """The run directories that ``path`` is or, one level below, holds; none if it is something else (a model).

    Raises:
        UserError: they lie two levels below, as in the folder of an evaluation of several models.
    """
    path = Path(path)
    if (path / RUN_FILE).is_file():
        return [path]
    if not path.is_dir() or (path / "config.json").is_file():
        return []
    found = sorted(child for child in path.iterdir() if (child / RUN_FILE).is_file())
    below = sorted({file.parent.parent.name for file in path.glob(f"*/*/{RUN_FILE}")})
    if below and not found:
        raise UserError(f"{path}: holds evaluations; name that of one model, such as {path / below[0]}")
    return found
