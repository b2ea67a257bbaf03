"""A job of new problems: what the user asked for, read and checked before anything is asked of a teacher."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rftfast.data.questions import fingerprint as fingerprint_questions
from rftfast.data.questions import load_questions
from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.synth import prompts
from rftfast.synth.decontaminate import Evaluation
from rftfast.synth.duplicates import Seen
from rftfast.synth.teacher import Ask, Prices
from rftfast.verify import Policy


@dataclass(frozen=True)
class SynthOptions:
    """What ``rftfast synth`` was asked for."""

    seeds: str | None = None
    """File of the given problems with their solutions; None is the bundled set."""
    problems: int = 100
    """Problems asked for; those kept are fewer."""
    shown: int = 4
    """Given problems in each prompt."""
    solutions: int = 4
    """Solutions asked for of each problem."""
    agree: int = 3
    """How many of them have to give the same answer, with right calculations."""
    temperature: float = 1.0
    """Of problems."""
    solve_temperature: float = 0.7
    max_tokens: int = 512
    seed: int = 0
    near: float = 0.7
    """Similarity from which a problem repeats another (``synth.duplicates``)."""
    evaluation: tuple[str, ...] = ()
    """Files of questions that must not be given away."""
    ngram: int = 10
    """Words in a row that a problem may not share with one of them."""
    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None
    limit: int | None = None
    """Only the first of the given problems."""

    def __post_init__(self) -> None:
        for name, least in (("problems", 1), ("shown", 1), ("solutions", 1), ("agree", 1), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: use at least {least}")
        if self.agree > self.solutions:
            raise UserError(
                f"{self.agree} solutions have to agree and {self.solutions} are asked for: raise --solutions"
            )
        if self.solutions > 1 and self.solve_temperature <= 0:
            raise UserError(
                "solutions at temperature 0 are all the same and agree for nothing: use --solve-temperature"
            )
        if self.temperature <= 0:
            raise UserError("problems at temperature 0 are all the same: use --temperature above 0")
        if self.max_cost is not None and (self.max_cost <= 0 or not (self.prices.input or self.prices.output)):
            raise UserError("--max-cost is counted by --price-in and --price-out: give a cost above 0 and both prices")


@dataclass(frozen=True)
class SynthJob:
    """Given problems, evaluation questions and policy, read. Built by ``prepare``."""

    options: SynthOptions
    seeds: tuple[Question, ...]
    evaluation: Evaluation
    evaluation_print: str
    policy: Policy

    def names(self) -> list[str]:
        return [f"p{i:06d}" for i in range(self.options.problems)]

    def shown(self, name: str) -> list[Question]:
        """The given problems in the prompts of one new problem: a draw by its name alone."""
        draw = random.Random(f"{self.options.seed} {name}")
        return draw.sample(list(self.seeds), min(self.options.shown, len(self.seeds)))

    def problem_ask(self, name: str) -> Ask:
        o = self.options
        return prompts.problem_ask(f"{name}/problem", self.shown(name), o.max_tokens, o.temperature)

    def solution_ask(self, name: str, problem: str) -> Ask:
        o = self.options
        shown = self.shown(name)
        return prompts.solution_ask(f"{name}/solutions", problem, shown, o.solutions, o.max_tokens, o.solve_temperature)

    def given(self) -> Seen:
        """The given problems, as those that must not come back."""
        seen = Seen(self.options.near)
        for question in self.seeds:
            seen.add(question.id, question.question)
        return seen

    def identity(self, teacher: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the content; a directory goes on only with the same. More problems may be asked for."""
        o, p = self.options, self.policy
        return {
            "teacher": dict(teacher),
            "prompts": prompts.fingerprint(),
            "shown": o.shown,
            "solutions": o.solutions,
            "agree": o.agree,
            "temperature": o.temperature,
            "solve_temperature": o.solve_temperature,
            "max_tokens": o.max_tokens,
            "seed": o.seed,
            "near": o.near,
            "ngram": o.ngram,
            "verify": {"marker": p.marker, "equations": p.equations, "bare": p.bare, "math": p.math},
        }

    def fingerprints(self) -> dict[str, str]:
        return {"seeds": fingerprint_questions(self.seeds), "evaluation": self.evaluation_print}


def prepare(options: SynthOptions, policy: Policy = Policy()) -> SynthJob:
    """Reads the files. Raises UserError, naming file, row and mend."""
    # By id, as draws from them are to depend on what they are and not on their file's order, which fingerprints do not see.
    seeds = tuple(sorted(load_questions(options.seeds, limit=options.limit), key=lambda question: question.id))
    if not seeds:
        raise UserError(f"{options.seeds}: no problems to go by")
    questions: dict[tuple[str, str], Question] = {}
    for file in options.evaluation:
        questions.update({(file, q.id): q for q in load_questions(file)})
    held = list(questions.values())
    named = [Question(f"{file}: {q.id}", q.question, q.answer) for (file, _), q in questions.items()]
    return SynthJob(options, seeds, Evaluation(named, options.ngram), fingerprint_questions(held), policy)
