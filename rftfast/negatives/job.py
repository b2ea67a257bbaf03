"""A job of rollouts: what the user asked for, read and checked against the run, before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rftfast.data.parts import StoredQuestion
from rftfast.data.questions import load_questions
from rftfast.engine.params import SamplingParams
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.resolve import fingerprint as fingerprint_model
from rftfast.models.resolve import resolve
from rftfast.models.tokenizer import Tokenizer
from rftfast.negatives.responses import Response, negatives, positives
from rftfast.negatives.source import Source, Vocabulary
from rftfast.negatives.steps import StepPolicy
from rftfast.verify import Policy


@dataclass(frozen=True)
class RolloutOptions:
    """What ``rftfast rollout`` was asked for, as given. None: as the run has it."""

    run: str | Path
    negatives: int = 8
    """Wrong responses a question (arXiv 2406.14532, §6.1)."""
    positives: int = 0
    """Right responses a question, to find steps in that do not help."""
    unfinished: bool = False
    """Responses that came to no answer count as wrong ones."""
    rollouts: int = 5
    """Completions of each state."""
    bisect: bool = False
    """Of wrong responses, find the pit only: bisect over the steps, stop at a state's first right rollout."""
    model: str | None = None
    questions: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    """Tokens of a whole response at most; a rollout has what its prefix leaves."""
    seed: int = 0
    steps: StepPolicy = field(default_factory=StepPolicy)
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("negatives", 0), ("positives", 0), ("rollouts", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: use at least {least}")
        if self.negatives + self.positives < 1:
            raise UserError("no responses are asked for: use --negatives or --positives")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}: ask for at least 1 question")


@dataclass(frozen=True)
class RolloutJob:
    """Run and model, resolved. Built by ``prepare``."""

    options: RolloutOptions
    source: Source
    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    params: SamplingParams
    policy: Policy
    """The run's, equations unchecked: a rollout is right if its final answer is."""
    model_fingerprint: str

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer, self.config.vocab_size)

    @property
    def own_model(self) -> bool:
        """Whether the rollouts' model is the one the run was sampled from."""
        return self.source.fingerprints.get("model") == self.model_fingerprint

    def chosen(self, stored: StoredQuestion) -> list[Response]:
        """The question's responses to take apart: wrong ones, then right ones."""
        responses = [Response.of(row) for row in stored.samples]
        o = self.options
        return [*negatives(responses, o.negatives, unfinished=o.unfinished), *positives(responses, o.positives)]

    def questions(self) -> Iterator[StoredQuestion]:
        """Those of the run that have such responses, in the run's order; of the first ``limit`` questions."""
        for name in self.source.order[: self.options.limit]:
            stored = self.source.read(name)
            if self.chosen(stored):
                yield stored

    def sampled(self, stored: StoredQuestion) -> tuple[int, int] | None:
        """(right, drawn) among the run's samples of the question, where these are as good as rollouts from its prompt:
        by the same model, drawn in the same way, none of them stopped before its answer, and no fewer."""
        s, p = self.source.settings, self.params
        same = all(s[name] == getattr(p, name) for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens"))
        if not (same and self.own_model) or self.source.early_stop or len(stored.samples) < self.options.rollouts:
            return None
        return sum(Response.of(row).right for row in stored.samples), len(stored.samples)

    def identity(self) -> dict[str, Any]:
        """What decides the content of the rollouts; a directory goes on only with the same."""
        o, p = self.options, self.params
        names = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed")
        return {
            "negatives": o.negatives,
            "positives": o.positives,
            "unfinished": o.unfinished,
            "rollouts": o.rollouts,
            "search": "bisect" if o.bisect else "all",
            "steps": {"kind": o.steps.kind, "least": o.steps.least, "most": o.steps.most},
            **{name: getattr(p, name) for name in names},
        }

    def fingerprints(self) -> dict[str, str]:
        manifest = self.source.index.manifest
        text = json.dumps([manifest["config"], manifest["fingerprints"]], sort_keys=True)
        return {
            "run": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
            "model": self.model_fingerprint,
            "tokenizer": self.vocabulary.fingerprint,
        }


def prepare(options: RolloutOptions) -> RolloutJob:
    """Reads and checks everything but the weights. Raises UserError, naming what is wrong and the mend."""
    source = Source(options.run, load_questions(options.questions) if options.questions else ())
    name = options.model or source.model
    if name is None:
        raise UserError(f"{options.run}: does not say which model it was sampled from: name one with --model")
    folder = resolve(name)
    found = fingerprint_model(folder)
    if options.model is None and source.fingerprints.get("model") != found:
        raise UserError(
            f"{options.run}: was sampled from another {name} than the one that is there now: give --model {name} to roll out "
            "from that one all the same, or name the old one"
        )
    tokenizer = Tokenizer.from_folder(folder)
    if source.template.chat and not tokenizer.has_chat_template:
        raise UserError(f"{name} has no chat template, and {options.run} was sampled with one: use another --model")
    s = source.settings
    most = options.max_tokens if options.max_tokens is not None else s["max_tokens"]
    if most < s["max_tokens"]:
        raise UserError(f"max-tokens is {most} and the run's responses have up to {s['max_tokens']}: use at least that")
    params = SamplingParams(
        k=options.rollouts,
        temperature=options.temperature if options.temperature is not None else s["temperature"],
        top_p=s["top_p"],
        top_k=s["top_k"],
        min_p=s["min_p"],
        max_tokens=most,
        stop=source.template.stop,
        seed=options.seed,
    )
    if params.temperature == 0 and options.rollouts > 1:
        raise UserError("rollouts at temperature 0 are all the same: use --temperature, or --rollouts 1")
    policy = replace(source.policy, equations="off")
    return RolloutJob(options, source, folder, ModelConfig.from_folder(folder), tokenizer, params, policy, found)
