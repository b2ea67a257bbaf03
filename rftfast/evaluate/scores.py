"""maj1@1, maj1@k and pass@k of one model, from its runs: one greedy, and one with k samples a question for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rftfast.errors import UserError
from rftfast.evaluate.intervals import Interval, wilson_mean
from rftfast.evaluate.outcomes import Outcomes, read_outcomes
from rftfast.evaluate.paired import Comparison, compare
from rftfast.select.statistics import pass_at_k

# Settings that the greedy run and the sampled ones of a model have in common.
_SHARED = ("prompt", "shots", "max_tokens", "verify")


@dataclass(frozen=True)
class Score:
    """One figure, and what it is the mean of.

    ``values``: question id -> share of the seeds with a right answer (maj1), or the estimated chance (pass), averaged
    over the seeds. ``by_seed``: the figure of each seed alone.
    """

    name: str
    values: dict[str, float]
    by_seed: tuple[float, ...]
    samples: int
    """Samples a question and seed that it is made from."""

    @property
    def shares(self) -> bool:
        """The values are shares of right outcomes, one outcome a seed."""
        return self.name.startswith("maj")

    @property
    def interval(self) -> Interval:
        draws = len(self.by_seed) * (1 if self.shares else self.samples)
        return wilson_mean(list(self.values.values()), draws)


@dataclass(frozen=True)
class ModelScores:
    """All figures of one model, by name: first maj1@1, then maj1@k and pass@k by rising k."""

    model: str
    runs: tuple[Outcomes, ...]
    scores: dict[str, Score]

    @property
    def headline(self) -> list[Score]:
        """maj1@1, and of the sampled ones those of the largest k and the accuracy of a single sample."""
        sampled = [run.k for run in self.runs if not run.greedy]
        names = ["maj1@1", *([f"maj1@{sampled[0]}", "pass@1", f"pass@{sampled[0]}"] if sampled else [])]
        return [self.scores[name] for name in dict.fromkeys(names) if name in self.scores]

    def report(self) -> dict[str, Any]:
        """Plain values for JSON; shares are between 0 and 1."""
        return {
            "model": self.model,
            "runs": [
                {
                    "path": str(run.path),
                    "temperature": run.settings["temperature"],
                    "seed": run.seed,
                    "k": run.k,
                    "questions": len(run.golds),
                    "finished": not run.unfinished,
                    "verdicts": dict(sorted(run.verdicts.items())),
                }
                for run in self.runs
            ],
            "scores": {
                name: {"questions": len(s.values), **s.interval.report(), "by_seed": list(s.by_seed)}
                for name, s in self.scores.items()
            },
        }


def score_runs(paths: Sequence[str | Path], vote: str = "value") -> ModelScores:
    """Figures from the run directories of one model.

    Raises:
        UserError: what ``read_outcomes`` raises; no run; two greedy runs or two of one seed; runs of different models,
            prompts, settings, questions or k.
    """
    if not paths:
        raise UserError("no run is named; give run directories of one model")
    runs = sorted((read_outcomes(path, vote) for path in paths), key=lambda run: (not run.greedy, run.seed))
    for run in runs[1:]:
        _refuse_mixture(runs[0], run)
    greedy = [run for run in runs if run.greedy]
    sampled = [run for run in runs if not run.greedy]
    if len(greedy) > 1:
        raise UserError(f"{greedy[1].path}: a second greedy run beside {greedy[0].path}; name one")
    for first, second in [(one, two) for one in greedy for two in sampled[:1]]:
        other = [name for name in _SHARED if first.settings[name] != second.settings[name]]
        if other:
            raise UserError(
                f"{second.path}: {', '.join(other)} not as in {first.path}; they are no one model's figures"
            )
    for first, second in pairwise(sampled):
        if first.seed == second.seed:
            raise UserError(f"{second.path}: has seed {second.seed}, as has {first.path}; sample with another --seed")
        other = [name for name, value in first.settings.items() if second.settings[name] != value]
        if first.k != second.k:
            other.append("k")
        if other:
            raise UserError(f"{second.path}: {', '.join(other)} not as in {first.path}; only the seed may differ")
    scores: dict[str, Score] = {}
    for run in greedy:
        scores["maj1@1"] = _majority([run], 1)
    ks = list(sampled[0].majority) if sampled else []
    for k in ks:
        # maj1@1 is the greedy answer, as in the paper; one sample's accuracy is pass@1.
        if k > 1:
            scores[f"maj1@{k}"] = _majority(sampled, k)
    for k in ks:
        scores[f"pass@{k}"] = _pass(sampled, k)
    return ModelScores(runs[0].model, tuple(runs), scores)


def short_names(models: Sequence[str]) -> list[str]:
    """The models' names for tables: of folders the last parts, as many as it takes to tell them apart.

    Two of them at least where the last one is ``model``, as all models are called that the trainers write.
    """
    parts = [Path(model).parts or (model,) for model in models]
    count = 2 if any(each[-1] == "model" for each in parts) else 1
    while count < max(map(len, parts)) and len({each[-count:] for each in parts}) < len(set(models)):
        count += 1
    return ["/".join(each[-count:]) for each in parts]


def compare_models(a: ModelScores, b: ModelScores) -> dict[str, Comparison]:
    """A against B on the questions both have, for each figure both have.

    Raises:
        UserError: no question or no figure in common, another gold answer for a question, other numbers of seeds.
    """
    golds = b.runs[0].golds
    for name, gold in a.runs[0].golds.items():
        if golds.get(name, gold) != gold:
            raise UserError(
                f"question {name!r} has one gold answer in {a.runs[0].path} and another in {b.runs[0].path}; "
                "evaluate both on one file"
            )
    found: dict[str, Comparison] = {}
    for name in a.scores.keys() & b.scores.keys():
        first, second = a.scores[name], b.scores[name]
        shared = [q for q in first.values if q in second.values]
        if not shared:
            raise UserError(
                f"{a.runs[0].path} and {b.runs[0].path} have no question in common; evaluate both on one file"
            )
        seeds = len(first.by_seed)
        if seeds != len(second.by_seed):
            raise UserError(
                f"{name}: {seeds} seeds of {a.model} and {len(second.by_seed)} of {b.model}; compare equal numbers of runs"
            )
        found[name] = compare(
            [first.values[q] for q in shared], [second.values[q] for q in shared], seeds if first.shares else None
        )
    if not found:
        raise UserError(f"no figure in common: {', '.join(a.scores)} of {a.model}, {', '.join(b.scores)} of {b.model}")
    return {name: found[name] for name in a.scores if name in found}


def _majority(runs: Sequence[Outcomes], k: int) -> Score:
    return _mean(f"maj1@{k}", [run.majority[k] for run in runs], k)


def _pass(runs: Sequence[Outcomes], k: int) -> Score:
    return _mean(f"pass@{k}", [{q: pass_at_k(run.k, c, k) for q, c in run.right.items()} for run in runs], runs[0].k)


def _mean(name: str, by_run: Sequence[Mapping[str, float]], samples: int) -> Score:
    values = {q: sum(run[q] for run in by_run) / len(by_run) for q in by_run[0]}
    return Score(name, values, tuple(sum(run.values()) / len(run) for run in by_run), samples)


def _refuse_mixture(first: Outcomes, run: Outcomes) -> None:
    if run.fingerprint != first.fingerprint:
        raise UserError(f"{run.path}: another model than {first.path}; give the second model's runs with --against")
    if run.golds != first.golds:
        few, many = sorted((run, first), key=lambda r: len(r.golds))
        raise UserError(
            f"{few.path}: has {len(few.golds)} questions that are not the {len(many.golds)} of {many.path}; "
            "let both finish, on one file of questions"
        )
