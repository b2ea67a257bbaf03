"""Preference data: prompts with a completion to prefer and one to avoid, in the columns of TRL's preference format.

Beside ``prompt``, ``chosen`` and ``rejected`` (texts, or lists of messages) a row may say

- ``chosen_ends``, ``rejected_ends``: whether the answer ends there; false for one that was cut after a step, which then
  takes no end token (true by default);
- ``weight``: of the pair's loss, above 0 (1 by default);
- ``steps``: of the rejected completion, ``start`` and ``end`` in characters; ``chosen_steps``: of the chosen one. A step's
  ``weight`` (0 or more, 1 by default) is that of its tokens' log-probabilities. ``shared``: how many of the characters that
  ``start`` and ``end`` count stand in the prompt already.

``rftfast pairs`` writes such rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.jsonl import text_in
from rftfast.data.readers import Table, read_table
from rftfast.errors import UserError
from rftfast.train.examples import Example, Message, check_writable, example_of, filled, messages_in, named_apart
from rftfast.train.preference_steps import Span, spans_of, weight_in


@dataclass(frozen=True)
class Answer:
    """One side of a pair. ``ends``: the answer ends with it, so that an end token follows."""

    example: Example
    ends: bool = True
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Preference:
    """A pair of completions of one prompt. ``id`` is unlike that of any other pair of the data."""

    id: str
    chosen: Answer
    rejected: Answer
    weight: float = 1.0


def read_preferences(path: str | Path, *, split: str = "train", rendered: bool = False) -> list[Preference]:
    """Pairs in the order of their source: a JSONL, JSON or Parquet file, or the name of a Hub data set.

    Args:
        rendered: prompts that are texts were written by a chat template, their BOS included.

    Raises:
        UserError: unknown columns, an empty completion, two that are the same, a weight or a step that is none; with
            source, row and mend.
    """
    if str(path) and Path(path).expanduser().is_dir():
        raise UserError(f"{path} is a folder; name the file of its pairs (write one with: rftfast pairs {path})")
    table = read_table(path, split=split)
    names = dict.fromkeys(name for _, row in table.rows for name in row)
    if not {"chosen", "rejected"} <= set(names):
        shown = ", ".join(list(names)[:12]) or "no columns"
        raise UserError(f"{table.source}: no preference pairs (found {shown}); use prompt, chosen and rejected")
    found = [_pair(table, where, row, rendered) for where, row in table.rows]
    named = named_apart([pair.chosen.example for pair in found])
    return [_named(pair, example.id) for pair, example in zip(found, named, strict=True)]


def _pair(table: Table, where: str, row: dict[str, Any], rendered: bool) -> Preference:
    place = f"{table.source}, {where}"
    prompt, chosen, rejected = _texts(row, place)
    if chosen == rejected:
        raise UserError(f"{place}: 'chosen' and 'rejected' are the same text; remove the row")
    example = example_of(row, prompt, chosen, rendered and isinstance(prompt, str))
    shared = row.get("shared") or 0
    if not isinstance(shared, int) or isinstance(shared, bool) or shared < 0:
        raise UserError(f"{place}: 'shared' is {shared!r}; write the number of characters, 0 or more")
    sides = []
    for column, steps, text in (("chosen", "chosen_steps", chosen), ("rejected", "steps", rejected)):
        side = replace(example, completion=text)
        sides.append(Answer(side, _ends(row, f"{column}_ends", place), spans_of(row, steps, text, shared, place)))
    weight = weight_in(row, place)
    if weight == 0:
        raise UserError(f"{place}: 'weight' is 0; remove the row, or give it a weight above 0")
    return Preference(example.id, sides[0], sides[1], weight)


def _named(pair: Preference, name: str) -> Preference:
    sides = {
        side: replace(answer, example=replace(answer.example, id=f"{name}/{side}"))
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
    return replace(pair, id=name, **sides)  # type: ignore[arg-type]


def _texts(row: dict[str, Any], place: str) -> tuple[str | tuple[Message, ...], str, str]:
    """Prompt, chosen and rejected. Lists of messages may hold the prompt's turns themselves."""
    if not isinstance(row.get("chosen"), list) and not isinstance(row.get("rejected"), list):
        if "prompt" not in row:
            raise UserError(f"{place}: no column 'prompt'; add it, and leave it out of 'chosen' and 'rejected'")
        completions = [filled(text_in(row, (column,), place), column, place) for column in ("chosen", "rejected")]
        if isinstance(row["prompt"], list):
            return messages_in(row, "prompt", place), completions[0], completions[1]
        prompt = text_in(row, ("prompt",), place)
        check_writable(prompt, "prompt", place)
        return prompt, completions[0], completions[1]
    leading, answers = [], []
    for column in ("chosen", "rejected"):
        turns = messages_in(row, column, place)
        if turns[-1]["role"] != "assistant":
            raise UserError(f"{place}: {column!r} is to end with a message of the assistant; mend or remove the row")
        leading.append(turns[:-1])
        answers.append(filled(turns[-1]["content"], column, place))
    if leading[0] != leading[1]:
        raise UserError(f"{place}: 'chosen' and 'rejected' answer different messages; give both the same prompt")
    before = messages_in(row, "prompt", place) if isinstance(row.get("prompt"), list) else ()
    if before and leading[0] and leading[0] != before:
        raise UserError(
            f"{place}: 'chosen' holds other messages than 'prompt' before its answer; keep them in 'prompt'"
        )
    prompt_turns = before or leading[0]
    if not prompt_turns:
        raise UserError(f"{place}: no message before the answers; write the prompt as a list of messages, too")
    return prompt_turns, answers[0], answers[1]


def _ends(row: dict[str, Any], column: str, place: str) -> bool:
    value = row.get(column)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{place}: {column!r} is {value!r}; write true or false")
    return value is not False
