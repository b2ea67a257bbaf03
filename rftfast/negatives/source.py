"""The run that rollouts go on from: its prompts as they were sampled, its responses in steps with their tokens.

A run directory holds prompts as its training rows have them, without worked examples. Which question is in a prompt is
found out by taking the template away from it, and proved by rendering it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rftfast.data.parts import StoredQuestion
from rftfast.data.prompts import manifest_template
from rftfast.data.records import Question
from rftfast.data.run_index import RunIndex
from rftfast.errors import UserError
from rftfast.negatives.responses import Response
from rftfast.negatives.steps import StepPolicy, Steps, align, split
from rftfast.verify import Policy

if TYPE_CHECKING:
    from rftfast.models.tokenizer import Tokenizer

_MARK = "\ue000the question\ue001"
_SETTINGS = {"temperature": float, "top_p": float, "top_k": int, "min_p": float, "max_tokens": int, "seed": int}


@dataclass(frozen=True)
class Prompt:
    """What a question's samples were drawn after, worked examples included."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """A response as tokens: ``tokens`` are those after the prompt, ``steps`` where its steps end among them.

    ``retokenised`` says that they were made from the text again, as the run does not store those drawn.
    """

    response: Response
    tokens: tuple[int, ...]
    steps: Steps
    retokenised: bool


class Source:
    """A run directory that ``rftfast sample`` made. Raises UserError for any other, and for one with no finished question."""

    def __init__(self, path: str | Path, questions: Sequence[Question] = ()) -> None:
        self.index = RunIndex(path)
        self.path = self.index.path
        config: Mapping[str, Any] = self.index.manifest["config"]
        prompt = config.get("prompt")
        if not isinstance(prompt, dict) or any(not isinstance(config.get(n), (int, float)) for n in _SETTINGS):
            raise UserError(f"{path}: not made by 'rftfast sample' (its run.json says nothing of the sampling)")
        self.settings: dict[str, Any] = {name: kind(config[name]) for name, kind in _SETTINGS.items()}
        self.early_stop = bool(config.get("early_stop"))
        self.template = manifest_template(prompt)
        self.shots = tuple(Question("", s["question"], s["answer"]) for s in config.get("shots") or ())
        self.policy = Policy.of_run(config)
        self.fingerprints: Mapping[str, Any] = self.index.manifest["fingerprints"]
        notes = self.index.manifest.get("notes")
        named = notes.get("model") if isinstance(notes, dict) else None
        self.model: str | None = named if isinstance(named, str) else None
        self._questions = {q.id: q for q in questions}

    @property
    def order(self) -> list[str]:
        """Ids of the stored questions, in the run's order."""
        return self.index.order

    def read(self, question_id: str) -> StoredQuestion:
        return self.index.read(question_id)

    def prompt(self, stored: StoredQuestion, tokenizer: Tokenizer) -> Prompt:
        """The prompt that the question's samples were drawn after.

        Raises:
            UserError: the question cannot be told from its stored prompt; give the questions' file.
        """
        text = self._render(self._question(stored, tokenizer), tokenizer, self.shots)
        return Prompt(text, tuple(tokenizer.encode(text, add_special=not self.template.chat)))

    def _render(self, question: str, tokenizer: Tokenizer, shots: Sequence[Question] = ()) -> str:
        if self.template.chat:
            return tokenizer.chat(self.template.messages(question, shots))
        return self.template.render(question, shots)

    def _question(self, stored: StoredQuestion, tokenizer: Tokenizer) -> str:
        if (given := self._questions.get(stored.id)) is not None:
            text = given.question
        else:
            before, mark, after = self._render(_MARK, tokenizer).partition(_MARK)
            text = stored.prompt[len(before) : len(stored.prompt) - len(after)] if mark else ""
        if not text or self._render(text, tokenizer) != stored.prompt:
            raise UserError(
                f"{self.path}: question {stored.id!r}: its prompt is not what the run's template and this model's "
                "tokenizer make of a question; name the file the questions came from with --questions, or the run's own "
                "model with --model"
            )
        return text

    def drawn(
        self, stored: StoredQuestion, response: Response, policy: StepPolicy, prompt: Prompt, vocabulary: Vocabulary
    ) -> Drawn:
        """``response`` in steps. The tokens are those stored, where there are any of this tokenizer that spell the text;
        else the text's own. Raises UserError if neither spells it."""
        ends = split(response.text, policy, stored.gold)
        if response.token_ids is not None and self.fingerprints.get("tokenizer") == vocabulary.fingerprint:
            steps = align(response.text, ends, vocabulary.pieces(response.token_ids))
            if steps is not None:
                return Drawn(response, response.token_ids, steps, retokenised=False)
        ids = vocabulary.after(prompt, stored.begin + response.text, add_special=not self.template.chat)
        steps = align(response.text, ends, vocabulary.pieces(ids))
        if steps is None:
            raise UserError(
                f"{self.path}: question {stored.id!r}, sample {response.sample_index}: this model's tokenizer does not give "
                "its text back; sample the run with --token-ids"
            )
        return Drawn(response, ids, steps, retokenised=True)


class Vocabulary:
    """A tokenizer with what is asked of it for each response. ``size`` is the model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = tokenizer.fingerprint()
        self._bytes = tokenizer.token_bytes(size)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """What each token adds to a text; an id from outside adds what no text holds."""
        return [self._bytes[i] if 0 <= i < len(self._bytes) else b"\xff" for i in ids]

    def after(self, prompt: Prompt, text: str, *, add_special: bool) -> tuple[int, ...]:
        """``text`` as tokens that go on from the prompt's: as the two are written in one, where that keeps the prompt."""
        whole = self.tokenizer.encode(prompt.text + text, add_special=add_special)
        kept = len(prompt.tokens)
        if tuple(whole[:kept]) == prompt.tokens:
            return tuple(whole[kept:])
        return tuple(self.tokenizer.encode(text, add_special=False))
