"""A sampling job: everything the user asked for, read and checked, before a model is loaded."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rftfast.data.prompts import Template, exemplars, load_template, model_template
from rftfast.data.questions import fingerprint as fingerprint_questions
from rftfast.data.questions import load_questions
from rftfast.data.records import Question
from rftfast.engine.params import Request, SamplingParams
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.resolve import fingerprint as fingerprint_model
from rftfast.models.resolve import resolve
from rftfast.models.tokenizer import Tokenizer
from rftfast.pipeline.budget import WINDOW, Budget
from rftfast.verify import Policy, extract_answer, math, parse_gold

_MEASURED_PROMPTS = 256  # prompts tokenised for an estimate
_BUNDLED = "the bundled questions"


@dataclass(frozen=True)
class SampleOptions:
    """What ``rftfast sample`` was asked for, as given."""

    model: str
    questions: str | None = None
    prompt: str | None = None
    """Template or file; by default the one stored with the model, else gsm8k."""
    shots: int | None = None
    exemplars: str | None = None
    k: int = 100
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    limit: int | None = None
    early_stop: bool = False
    """End a path at its first false equation and after the line of its answer. Never for evaluation."""
    budget: bool = False
    """Adaptive k: ``k`` is an average, and samples go where new paths are found (``rftfast.pipeline.budget``)."""
    k_floor: int | None = None
    k_cap: int | None = None
    token_ids: bool = False
    """Store each path's token ids."""
    marker: str = "last"
    equations: str = "strict"
    bare: bool = False
    math: bool = False
    """How paths are judged, see ``rftfast.verify.Policy``."""


@dataclass(frozen=True)
class Job:
    """Questions, template and model, resolved. Built by ``prepare``."""

    options: SampleOptions
    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    questions: tuple[Question, ...]
    template: Template
    shots: tuple[Question, ...]
    params: SamplingParams
    policy: Policy
    budget: Budget | None = None

    def prompt(self, question: Question, *, shots: bool = True) -> str:
        """The text before the completion; without ``shots`` as a training row has it."""
        given = self.shots if shots else ()
        if self.template.chat:
            return self.tokenizer.chat(self.template.messages(question.question, given))
        return self.template.render(question.question, given)

    def tokens(self, question: Question) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(self.prompt(question), add_special=not self.template.chat))

    def request(self, question: Question, samples: tuple[int, ...] | None = None) -> Request:
        """``samples``: the sample indices to draw; all k by default."""
        return Request(question.id, self.tokens(question), self.params, samples)

    def requests(self, questions: Sequence[Question]) -> Iterator[Request]:
        for question in questions:
            yield self.request(question)

    def has_solution(self, question: Question) -> bool:
        """Whether the gold answer is a solution (text with its answer behind a marker) and not the bare answer: to train on
        the latter would teach the model to answer without reasoning."""
        gold, marker, markers = question.answer, self.policy.marker, self.policy.markers
        return extract_answer(gold, marker, markers) is not None or math.final_answer(gold, marker, markers) is not None

    def longest_prompt(self) -> Question:
        """The question with most tokens: its prompt fails first, so it is tried first."""
        most = -1
        for question in sorted(self.questions, key=lambda q: len(q.question.encode()), reverse=True):
            if len(question.question.encode()) <= most:
                break  # no token has less than a byte
            tokens = len(self.tokenizer.encode(question.question, add_special=False))
            if tokens > most:
                longest, most = question, tokens
        return longest

    def named(self, question: Question) -> str:
        """The question as messages name it, as an id that is a hash is nothing to look for in a file."""
        return f"{self.options.questions or _BUNDLED}, question {question.id} ({question.question[:50]!r})"

    def notes(self) -> list[str]:
        """What a user may not have meant, in words."""
        o, found = self.options, []
        bare = sum(not self.has_solution(question) for question in self.questions)
        if bare:
            found.append(
                f"{bare:,} of {len(self.questions):,} gold answers are bare answers without a solution: they judge paths and "
                "make no rows in rft.jsonl"
            )
        if o.temperature == 0 and o.k > 1:
            found.append(f"temperature 0 draws the same path {o.k} times: --k 1 is enough, or give a --temperature")
        longest = self.longest_prompt()
        room = self.config.max_positions - len(self.tokens(longest))
        if 0 < room < o.max_tokens:
            found.append(
                f"the model's context of {self.config.max_positions:,} tokens leaves {room:,} for a path of the longest "
                f"prompt ({longest.question[:50]!r}), not {o.max_tokens:,}"
            )
        return found

    def identity(self) -> dict[str, Any]:
        """What decides the run's content; a run directory goes on only with the same."""
        o, t = self.options, self.template
        return {
            "prompt": {"template": t.name, "text": t.prompt, "shot": t.shot, "stop": list(t.stop)}
            | ({"chat": True} if t.chat else {})
            | ({"system": t.system} if t.system else {}),
            "shots": [{"question": s.question, "answer": s.answer} for s in self.shots],
            "k": o.k,
            "temperature": o.temperature,
            "top_p": o.top_p,
            "top_k": o.top_k,
            "min_p": o.min_p,
            "max_tokens": o.max_tokens,
            "seed": o.seed,
            "verify": {"marker": self.policy.marker, "equations": self.policy.equations, "bare": self.policy.bare}
            | ({"math": True} if self.policy.math else {}),
            "select": "reference",
            # Only where they are on, so that run directories from before they existed go on.
            **({"early_stop": True} if o.early_stop else {}),
            **({"budget": {"floor": b.floor, "cap": b.cap, "window": WINDOW}} if (b := self.budget) else {}),
            **({"token_ids": True} if o.token_ids else {}),
        }

    def fingerprints(self) -> dict[str, str]:
        return {
            "model": fingerprint_model(self.folder),
            "tokenizer": self.tokenizer.fingerprint(),
            "questions": fingerprint_questions(self.questions),
        }

    def estimate(self) -> dict[str, float]:
        """Tokens of the job: prompts measured on a sample of the questions, answers at most ``max_tokens``.

        Raises UserError if the longest prompt does not fit the model.
        """
        longest = self.longest_prompt()
        if (most := len(self.tokens(longest))) >= self.config.max_positions:
            raise UserError(
                f"{self.named(longest)}: the prompt has {most:,} tokens and the model's context is "
                f"{self.config.max_positions:,}: use fewer shots or shorten the question"
            )
        measured = self.questions[:: max(1, len(self.questions) // _MEASURED_PROMPTS)][:_MEASURED_PROMPTS]
        lengths = [len(self.tokens(q)) for q in measured]
        mean = sum(lengths) / len(lengths)
        return {
            "questions": len(self.questions),
            "samples": len(self.questions) * self.options.k,
            "prompt_tokens_each": mean,
            "prompt_tokens_shared": mean * len(self.questions),
            "prompt_tokens_unshared": mean * len(self.questions) * self.options.k,
            "new_tokens_at_most": len(self.questions) * self.options.k * self.options.max_tokens,
        }


def prepare(options: SampleOptions) -> Job:
    """Reads and checks everything but the weights. Raises UserError, naming file, row and mend."""
    if options.limit is not None and options.limit < 1:
        raise UserError(f"limit is {options.limit}: ask for at least 1 question")
    given = None if options.prompt is None else load_template(options.prompt)
    folder = resolve(options.model)
    template = given or model_template(folder) or load_template("gsm8k")
    params = SamplingParams(
        k=options.k,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        max_tokens=options.max_tokens,
        stop=template.stop,
        seed=options.seed,
    )
    questions = load_questions(options.questions, limit=options.limit)
    policy = Policy(marker=options.marker, equations=options.equations, bare=options.bare, math=options.math)
    budget = Budget.of(options.k, options.k_floor, options.k_cap) if options.budget else None
    if not options.budget and (options.k_floor, options.k_cap) != (None, None):
        raise UserError("--k-floor and --k-cap bound an adaptive k: give --budget, too")
    _check_golds(questions, policy, options.questions or _BUNDLED)
    count = template.shots if options.shots is None else options.shots
    if count and not template.takes_shots:
        raise UserError(f"prompt '{template.name}' takes no shots: leave --shots out or use --prompt gsm8k")
    shots = exemplars(count, options.exemplars)
    config = ModelConfig.from_folder(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if template.chat and not tokenizer.has_chat_template:
        raise UserError(f"{options.model} has no chat template: use --prompt gsm8k or alpaca")
    return Job(options, folder, config, tokenizer, tuple(questions), template, tuple(shots), params, policy, budget)


def _check_golds(questions: Sequence[Question], policy: Policy, source: str) -> None:
    """Raises UserError for the first gold answer that cannot be read, and says how many there are."""
    failed: list[tuple[Question, UserError]] = []
    for question in questions:
        try:
            if policy.math:
                math.check_gold(question.answer, policy)
            else:
                parse_gold(question.answer, policy.marker, policy.markers)
        except UserError as error:
            failed.append((question, error))
    if failed:
        first, why = failed[0]
        many = "" if len(failed) == 1 else f"; {len(failed):,} of {len(questions):,} questions have such an answer"
        raise UserError(f"{source}, question {first.id} ({first.question[:50]!r}): {why}{many}")


def versions() -> dict[str, str]:
    """Of what the run's content may depend on."""
    found = {"python": platform.python_version()}
    for package in ("rftfast", "torch", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
