"""Steps of a completion as spans of characters with weights, and the weights of the tokens that spell it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from rftfast.errors import UserError
from rftfast.train.documents import Document


@dataclass(frozen=True)
class Span:
    """Characters ``start:end`` of a completion, and the weight of the tokens there."""

    start: int
    end: int
    weight: float


def spans_of(row: dict[str, Any], column: str, text: str, shared: int, place: str) -> tuple[Span, ...]:
    """The steps in ``column`` as spans of ``text``: in order, without those that end in the prompt.

    ``shared`` is what their characters are counted from, further left than the text's first.
    """
    steps = row.get(column) or ()
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise UserError(f'{place}: {column!r} is no list of steps; write [{{"start": 0, "end": 10}}, …]')
    found = []
    last = 0
    for number, step in enumerate(steps, start=1):
        what = f"{place}: step {number} in {column!r}"
        bounds = [step.get(name) for name in ("start", "end")] if isinstance(step, dict) else [None]
        if not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds):
            raise UserError(f'{what} lacks its characters; write {{"start": 0, "end": 10}}')
        start, end = (bound - shared for bound in bounds)  # type: ignore[operator]
        if start < -shared or not start < end <= len(text):
            raise UserError(f"{what} is characters {start} to {end} of a text with {len(text)}; mend its bounds")
        weight = weight_in(step, what)
        if end <= 0:
            continue
        if start < last:
            raise UserError(f"{what} begins before the step in front of it ends; put steps in order")
        found.append(Span(max(0, start), end, weight))
        last = end
    return tuple(found)


def weight_in(row: dict[str, Any], place: str) -> float:
    """The column ``weight``, 1 where there is none. UserError for anything but a number from 0 on."""
    value = row.get("weight")
    if value is None:
        return 1.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise UserError(f"{place}: 'weight' is {value!r}; write a number, 0 or more")
    return float(value)


def weighted(
    document: Document, text: str, spans: Sequence[Span], vocabulary: Sequence[bytes], *, ends: bool
) -> Document:
    """``document`` (prompt, ``text``, end token) with the weights of ``spans``; without the end token unless ``ends``.

    A token belongs to the span that its first character other than white space stands in; outside all spans its weight is 1.
    The end token goes with the token before it. What stands behind the last token of a weight above 0 is cut off: nothing
    is learned there.

    Args:
        vocabulary: the bytes of each token.

    Raises:
        UserError: the tokens do not spell the text, or all weights are 0.
    """
    count = len(document) - document.prompt_length - 1
    if not ends:
        document = replace(document, tokens=document.tokens[:-1])
    if not spans:
        return document
    found = np.ones(len(document), np.float32)
    response = document.tokens[document.prompt_length :].tolist()
    found[document.prompt_length :][:count] = _weights(
        document.id, text, spans, [vocabulary[i] for i in response[:count]]
    )
    if ends:
        found[-1] = found[-2]
    above = document.prompt_length + np.flatnonzero(found[document.prompt_length :])
    if not len(above):
        raise UserError(f"{document.id}: all its steps have weight 0; remove it, or weigh a step")
    found = found[: int(above[-1]) + 1]
    return replace(document, tokens=document.tokens[: len(found)], weights=None if (found == 1).all() else found)


def _weights(name: str, text: str, spans: Sequence[Span], pieces: Sequence[bytes]) -> list[float]:
    """Of each of the tokens ``pieces`` that spell ``text``."""
    if b"".join(pieces) != text.encode():
        raise UserError(
            f"{name}: the tokenizer does not give its text back, so its steps cannot be told apart in tokens"
        )
    offsets = [0, *accumulate(len(character.encode()) for character in text)]
    starts = [offsets[span.start] for span in spans]
    found = []
    at = 0
    for piece in pieces:
        first = at + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        number = bisect.bisect_right(starts, first) - 1
        inside = number >= 0 and first < offsets[spans[number].end]
        found.append(spans[number].weight if inside else 1.0)
        at += len(piece)
    return found
