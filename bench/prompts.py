"""The benchmark's prompts as token ids, with their gold solutions and what ends a sample."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from rftfast.data.prompts import exemplars, load_template
from rftfast.data.questions import load_questions
from rftfast.errors import UserError
from rftfast.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompts:
    """``tokens[i]`` are the ids of prompt i, ``golds[i]`` its solution; ``stop`` are the template's stop strings."""

    tokens: tuple[tuple[int, ...], ...]
    golds: tuple[str, ...]
    stop: tuple[str, ...]


def build(
    folder: Path, questions: str | None, count: int, shots: int, shots_from: str | None, template_name: str
) -> Prompts:
    """The first ``count`` questions that are not among the ``shots`` examples, rendered and tokenized once for all.

    Raises :class:`UserError` for files, counts or templates that cannot be used.
    """
    if count < 1:
        raise UserError(f"{count} prompts: use --n-prompts 1 or more")
    template = load_template(template_name)
    if template.chat:
        raise UserError(f"template {template.name} is for chat; the benchmark takes gsm8k, alpaca, plain or a file")
    examples = exemplars(shots, shots_from)
    shown = {example.question for example in examples}
    found = [question for question in load_questions(questions) if question.question not in shown][:count]
    if len(found) < count:
        raise UserError(
            f"{count} prompts, but {questions or 'the bundled set'} has {len(found)}; use a smaller --n-prompts"
        )
    tokenizer = Tokenizer.from_folder(folder)
    return Prompts(
        tokens=tuple(tuple(tokenizer.encode(template.render(one.question, examples))) for one in found),
        golds=tuple(one.answer for one in found),
        stop=template.stop,
    )


def random_prompts(vocabulary: int, count: int, tokens: int, header: int, seed: int) -> Prompts:
    """``count`` prompts of ``tokens`` random tokens, the first ``header`` of which are the same in all.

    Raises :class:`UserError` for lengths that do not go together.
    """
    if count < 1 or not 0 <= header < tokens:
        raise UserError(
            f"{count} prompts of {tokens} tokens, {header} of them shared: use 1 prompt or more and a longer prompt"
        )
    pick = random.Random(seed)
    shared = [pick.randrange(vocabulary) for _ in range(header)]
    made = [tuple(shared + [pick.randrange(vocabulary) for _ in range(tokens - header)]) for _ in range(count)]
    return Prompts(tuple(made), ("",) * count, ())
