"""What a study's finished evaluations say: rows over seeds, gains over the baseline, paths behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.errors import UserError
from rftfast.evaluate.intervals import Interval, wilson
from rftfast.evaluate.outcomes import run_folders
from rftfast.evaluate.paired import Comparison, compare_runs
from rftfast.evaluate.scores import ModelScores, Score, score_runs
from rftfast.negatives.step_rows import TOTALS_FILE
from rftfast.study.graph import Step
from rftfast.study.state import DONE, State
from rftfast.study.student import mean_interval

GREEDY = "maj1@1"
PROBLEMS = "problems"
"""The place of a row on the axis of how many problems were trained on: ``at: {problems: 400}``."""


@dataclass(frozen=True)
class Data:
    """The rows a model was trained on. ``sampled`` and ``union``: distinct paths a question (S and U of ``rftfast stats``);
    None for data without sampled paths, or without deduplication."""

    rows: int
    questions: int
    sampled: float | None = None
    union: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model. ``pair``: evaluations with the same one are compared with each other (a seed)."""

    step: Step
    pair: str
    scores: ModelScores
    data: Data | None

    @property
    def right(self) -> dict[str, float]:
        """Question id -> whether the greedy answer is right."""
        return self.scores.scores[GREEDY].values

    @property
    def accuracy(self) -> float:
        return self.scores.scores[GREEDY].interval.value


@dataclass(frozen=True)
class Gain:
    """Accuracy minus the baseline's, as a difference of shares.

    ``runs``: one for each pair. ``interval``: over the runs (Student's t) where there are two or more that differ, else over
    the questions. ``by_question``: all questions, paired, each once however many runs have it.
    """

    runs: tuple[float, ...]
    interval: Interval
    by_question: Comparison


@dataclass(frozen=True)
class Row:
    """One line of the table: the same thing, once for each seed. Its gain is over the baseline of its group."""

    group: str
    name: str
    evaluations: tuple[Evaluation, ...]
    gain: Gain | None

    @property
    def labels(self) -> dict[str, Any]:
        return self.evaluations[0].step.labels

    def figure(self, of: Sequence[Score]) -> Interval:
        """The mean over the runs; over the questions where there is one run, or where all runs come to the same."""
        values = [s.interval.value for s in of]
        return mean_interval(values) if len(set(values)) > 1 else of[0].interval

    @property
    def greedy(self) -> Interval:
        return self.figure([e.scores.scores[GREEDY] for e in self.evaluations])

    def sampled(self, kind: str) -> Interval | None:
        """maj1@k or pass@k of the largest k that all runs have; None where they were evaluated greedily only."""
        k = self.k
        name = f"{kind}@{k}"
        found = [e.scores.scores[name] for e in self.evaluations if name in e.scores.scores]
        return self.figure(found) if k is not None and len(found) == len(self.evaluations) else None

    @property
    def k(self) -> int | None:
        drawn = [run.k for e in self.evaluations for run in e.scores.runs if not run.greedy]
        return min(drawn) if drawn else None

    def data_mean(self, field: str) -> float | None:
        values = [getattr(e.data, field) for e in self.evaluations if e.data is not None]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(self.evaluations) else None


@dataclass(frozen=True)
class StepRow:
    """What rollouts said of the steps of one row's right answers, once for each seed. ``totals``: as ``totals.json`` has them."""

    group: str
    name: str
    of: tuple[Step, ...]
    totals: tuple[Mapping[str, Any], ...]

    def total(self, name: str) -> int:
        return sum(each[name] for each in self.totals)

    @property
    def steps(self) -> int:
        return self.total("right_steps")

    @property
    def shares(self) -> list[float]:
        """Of steps without progress, by run."""
        return [each["spurious"] / each["right_steps"] for each in self.totals if each["right_steps"]]

    @property
    def share(self) -> Interval | None:
        """Over the runs where there are several, else over the steps."""
        if len(self.shares) > 1:
            return mean_interval(self.shares)
        return wilson(self.shares[0], self.steps) if self.shares else None

    def report(self) -> dict[str, Any]:
        share = None if self.share is None else self.share.report()
        counts = {name: self.total(name) for name in ("right", "right_steps", "spurious", "harmful")}
        return {"group": self.group, "row": self.name, "share": share, "runs": self.shares, **counts}


def step_rows(graph: Mapping[str, Step], states: Mapping[str, State]) -> list[StepRow]:
    """Of the rollouts that are done and have a row. Raises UserError for totals that cannot be read."""
    found: dict[tuple[str, str], list[Step]] = {}
    for name, step in graph.items():
        if step.kind.name == "rollout" and "row" in step.labels and states[name].status == DONE:
            found.setdefault((str(step.labels.get("group") or ""), str(step.labels["row"])), []).append(step)
    return [StepRow(*place, tuple(steps), tuple(map(_totals, steps))) for place, steps in found.items()]


def _totals(step: Step) -> dict[str, Any]:
    file = step.folder / step.kind.product / TOTALS_FILE
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove {step.folder} to roll out again") from error
    return found


def collect(graph: Mapping[str, Step], states: Mapping[str, State], baseline: str | None) -> list[Row]:
    """Rows in the order of the study, group by group, of the evaluations that are done.

    Raises:
        UserError: two evaluations of a row with the same seed, a damaged run.
    """
    rows: dict[tuple[str, str], dict[str, Evaluation]] = {}
    for name, step in graph.items():
        if step.kind.name == "eval" and states[name].status == DONE:
            found = _evaluation(step, graph)
            place = str(step.labels.get("group") or ""), str(step.labels.get("row", name))
            row = rows.setdefault(place, {})
            if found.pair in row:
                raise UserError(
                    f"steps {row[found.pair].step.name} and {name}: both are row {place[1]!r} with pair"
                    f" {found.pair or 'none'}; give them different rows, or a 'pair' each"
                )
            row[found.pair] = found
    made = []
    for (group, name), row in rows.items():
        basis = rows.get((group, baseline)) if baseline is not None and name != baseline else None
        made.append(Row(group, name, tuple(row.values()), None if basis is None else _gain(row, basis)))
    return _by_group(made)


def _by_group(rows: Sequence[Row]) -> list[Row]:
    """The rows of a group together: groups in order of their numbers of problems where they have any, else as they come."""
    first: dict[str, int] = {}
    amount: dict[str, float] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.group, place)
        problems = dict(row.labels.get("at") or {}).get(PROBLEMS)
        if problems is not None:
            amount.setdefault(row.group, float(problems))
    return sorted(rows, key=lambda row: (amount.get(row.group, 0.0), first[row.group]))


def _evaluation(step: Step, graph: Mapping[str, Step]) -> Evaluation:
    pair = step.labels.get("pair", step.values.get("seed", ""))
    folders = [f for folder in sorted((step.folder / step.kind.target).iterdir()) for f in run_folders(str(folder))]
    return Evaluation(step, str(pair), score_runs(folders), _data_behind(step, graph))


def _data_behind(step: Step, graph: Mapping[str, Step]) -> Data | None:
    """The training data of the evaluated model; None for a model that no step has trained."""
    for name in step.origins.get("model", ()):
        trained = graph[name]
        if "data" not in trained.kind.inputs:
            return None
        (path,) = trained.inputs["data"]
        counts = Path(path).parent / "counts.json"
        if trained.origins["data"] and counts.is_file():
            found = json.loads(counts.read_bytes())
            dedup = graph[trained.origins["data"][0]].options.get("dedup", True)
            paths = (found["distinct_sampled"], found["distinct_with_gold"]) if dedup else (None, None)
            return Data(found["rows"], found["questions"], *paths)
        file = Path(path) / "rft.jsonl" if Path(path).is_dir() else Path(path)
        if file.suffix == ".jsonl" and file.is_file():
            with file.open("rb") as lines:
                rows = sum(1 for line in lines if line.strip())
            return Data(rows, rows)
    return None


def _gain(row: Mapping[str, Evaluation], basis: Mapping[str, Evaluation]) -> Gain | None:
    pairs = [(found, basis[pair]) for pair, found in row.items() if pair in basis]
    if not pairs:
        return None
    runs = []
    for a, b in pairs:
        shared = [q for q in a.right if q in b.right]
        if not shared:
            raise UserError(f"{a.step.name} and {b.step.name} have no question in common; evaluate both on one file")
        runs.append(sum(a.right[q] - b.right[q] for q in shared) / len(shared))
    by_question = compare_runs([(a.right, b.right) for a, b in pairs])
    # Runs that all come to the same have no spread, which is not to say that their difference is exact.
    interval = mean_interval(runs) if len(set(runs)) > 1 else by_question.difference
    return Gain(tuple(runs), interval, by_question)
