"""Run directories as the report reads them: figures over all samples, and the questions packed for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.parts import part_paths
from rftfast.data.records import Question
from rftfast.data.run_index import RunIndex
from rftfast.evaluate.run_metrics import read_run_metrics
from rftfast.negatives.step_rows import StepTotals
from rftfast.report.questions import QuestionPack, Samples
from rftfast.report.steps import StepValues, rollouts_of
from rftfast.select import KEYS, equation_key
from rftfast.select.statistics import ModelStatistics, Overlap
from rftfast.select.union import Candidate, Pool, PooledQuestion
from rftfast.verify import Policy

MOST = 24
_ALL = 64 * 10**6


@dataclass(frozen=True)
class RunView:
    """One run: ``statistics`` as ``ModelStatistics.report`` gives them, ``chances`` each question's share of samples with the
    right answer, ``pack`` as ``QuestionPack.finish`` gives it, ``manifest`` its run.json and ``metrics`` the lines of its
    metrics.jsonl. ``steps``: what its rollouts found, None without any."""

    name: str
    path: str
    statistics: Mapping[str, Any]
    chances: Sequence[float]
    pack: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    steps: StepTotals | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.manifest["config"]

    @property
    def model(self) -> str:
        """As the run was given it: a name or a folder."""
        notes = self.manifest.get("notes")
        named = notes.get("model") if isinstance(notes, dict) else None
        return named if isinstance(named, str) and named else self.name


def read_runs(
    paths: Sequence[str | Path],
    names: Sequence[str] | None = None,
    *,
    rollouts: Sequence[str | Path | None] | None = None,
    questions: Sequence[Question] = (),
    most: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[list[RunView], Mapping[str, Any] | None]:
    """Runs over the same questions, and, of several, which equation lists each alone found (``Overlap.report``).

    ``names``: what to call each; by default by its model, or by its folder where two have one model. ``rollouts``: each run's
    directory of rollouts; None: the one inside it, if there is one. ``questions`` tell the texts of questions whose prompts do
    not.
    ``most``: see ``QuestionPack``; by default all samples of runs below ``_ALL`` bytes, else 24. ``progress`` is
    told of each question how many are done, of how many. Memory: the packed questions and one question with its paths.

    Raises:
        UserError: no run, a damaged one, runs that contradict one another on a gold solution, or rollouts of another run.
    """
    given = [None] * len(paths) if rollouts is None else rollouts
    folders = [Path(g) if g else rollouts_of(Path(path)) for path, g in zip(paths, given, strict=True)]
    values = [None if folder is None else StepValues(folder) for folder in folders]
    indexes = [RunIndex(path) for path in paths]
    if most is None:
        parts = [part for index in indexes for part in part_paths(index.path / "samples")]
        most = 0 if sum(part.stat().st_size for part in parts) <= _ALL else MOST
    with Pool([str(path) for path in paths], questions=questions) as pool:
        called = _names(indexes, pool.models) if names is None else list(names)
        assert len(set(called)) == len(called), called
        name_of = dict(zip(pool.models, called, strict=True))
        keys = [_key(index) for index in indexes]
        statistics = [ModelStatistics(key) for key in keys]
        packs = [
            QuestionPack(key=key, policy=Policy.of_run(index.manifest["config"]), most=most)
            for index, key in zip(indexes, keys, strict=True)
        ]
        chances: list[list[float]] = [[] for _ in called]
        overlap = Overlap(keys[0])
        for done, question in enumerate(pool):
            progress(done, len(pool))
            by_run: dict[str, list[Candidate]] = {name: [] for name in called}
            for c in question.candidates:
                name = name_of[c.model]
                by_run[name].append(c if c.model == name else replace(c, model=name))
            found = [_accepted(by_run[name], keys[0]) for name in called]
            for i, name in enumerate(called):
                if by_run[name]:
                    chances[i].append(sum(c.right_answer for c in by_run[name]) / len(by_run[name]))
                    statistics[i].add(question, by_run[name])
                    packs[i].add(_samples(question, indexes[i], values[i], found, i))
            overlap.add(question, {name: candidates for name, candidates in by_run.items() if candidates})
    views = [
        RunView(
            name, str(path), s.report(), c, pack.finish(), index.manifest, read_run_metrics(Path(path)), v and v.totals
        )
        for name, path, s, c, pack, index, v in zip(
            called, paths, statistics, chances, packs, indexes, values, strict=True
        )
    ]
    return views, overlap.report(called) if len(called) > 1 else None


def _names(indexes: Sequence[RunIndex], models: Sequence[str]) -> list[str]:
    """The pool makes equal model names different by adding the path, which is long; folders' names do mostly."""
    plain = len(models) == 1 or not any(
        f"({index.path})" in model for index, model in zip(indexes, models, strict=True)
    )
    folders = [index.path.resolve().name for index in indexes]
    return folders if not plain and len(set(folders)) == len(folders) else list(models)


def _samples(
    question: PooledQuestion, index: RunIndex, values: StepValues | None, found: Sequence[set[str]], run: int
) -> Samples:
    stored = index.read(question.id)
    also = {
        key: [other for other, theirs in enumerate(found) if other != run and key in theirs]
        for key in sorted(found[run])
    }
    text = question.user if question.user is not None else stored.prompt
    rows = stored.samples if values is None else values.beside(question.id, stored.samples)
    return Samples(question.id, text, stored.gold, rows, also)


def _accepted(candidates: Sequence[Candidate], key: str) -> set[str]:
    return {equation_key(c.equations, key) for c in candidates if c.accepted}


def _key(index: RunIndex) -> str:
    key = index.manifest["config"].get("select", "reference")
    return key if key in KEYS else "reference"
