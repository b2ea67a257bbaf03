"""Training examples from files: run directories, prompt-completion and messages files, question files.

What a file is shows in its columns. Nothing is tokenised here; see :mod:`rftfast.train.documents`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.data.jsonl import text_in
from rftfast.data.manifest import RUN_FILE, read_manifest
from rftfast.data.prompts import Template, manifest_template
from rftfast.data.questions import COLUMNS, ID_COLUMNS, load_questions
from rftfast.data.readers import Table, read_table
from rftfast.errors import UserError

RFT_FILE = "rft.jsonl"
Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One prompt and the completion to learn.

    Attributes:
        id: names the example in messages; no other of the data set has it.
        prompt: a text, or chat messages (``role``, ``content``) for the model's own chat template.
        completion: the text that goes on from the prompt; for messages, the content of the assistant's turn.
        group: examples of one question have one group.
        rendered: the prompt is a text that a chat template has written, its BOS included.
    """

    id: str
    prompt: str | tuple[Message, ...]
    completion: str
    group: str
    rendered: bool = False


def read_examples(path: str | Path, template: Template | None = None, *, split: str = "train") -> list[Example]:
    """Examples in the order of their source.

    Args:
        path: a run directory (its ``rft.jsonl``), or a JSONL, JSON or Parquet file, or the name of a Hub data set, with
            columns ``prompt`` and ``completion`` (texts, or lists of messages), ``messages`` (the last being the
            assistant's, which alone is learned), or questions and answers as for sampling.
        template: how a question is put; for questions and answers alone. Examples are put without shots.
        split: of a Hub data set, or the key of the list in a JSON object.

    Raises:
        UserError: unknown columns, an empty completion, a row that cannot be used; with source, row and mend.
    """
    source, run_template = _source(path), stored_template(path)
    table = read_table(source, split=split)
    names = dict.fromkeys(name for _, row in table.rows for name in row)
    if "messages" in names:
        found = [_from_messages(table, where, row) for where, row in table.rows]
    elif "prompt" in names and "completion" in names:
        if "steps" in names and "right" in names:
            raise UserError(
                f"{table.source}: holds responses with the values of their steps, wrong ones among them; train on it with"
                " train/rft.py --step-advantages"
            )
        rendered = run_template is not None and run_template.chat
        found = [_from_pair(table, where, row, rendered) for where, row in table.rows]
    elif any(question in names and answer in names for question, answer in COLUMNS):
        return _from_questions(source, template, split)
    else:
        raise UserError(f"{table.source}: {_no_columns(list(names))}")
    return named_apart(found)


def stored_template(path: str | Path) -> Template | None:
    """The template, without shots, of the run that ``path`` (a run directory or its ``rft.jsonl``) is; None for others."""
    folder = Path(path)
    if folder.name == RFT_FILE:
        folder = folder.parent
    if not (folder / RUN_FILE).is_file():
        return None
    prompt = read_manifest(folder)["config"].get("prompt")
    if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str):
        raise UserError(
            f"{folder / RUN_FILE}: does not say which prompt the run had; name the file {RFT_FILE} elsewhere"
        )
    text = prompt["text"] if prompt.get("shot") else prompt["text"].replace("{shots}", "")
    return manifest_template({**prompt, "text": text})


def _source(path: str | Path) -> str | Path:
    try:
        folder = Path(path).expanduser()
        is_folder = folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # no name of a folder; read_table says what is wrong with it
        return path
    if not is_folder:
        return path
    if not (folder / RUN_FILE).is_file():
        raise UserError(f"{folder} is a folder but no run directory (no {RUN_FILE}); name a run directory or a file")
    if not (folder / RFT_FILE).is_file():
        raise UserError(f"{folder}: has no {RFT_FILE}; write it with: rftfast select {folder} -o {folder / RFT_FILE}")
    return folder / RFT_FILE


def _from_questions(source: str | Path, template: Template | None, split: str) -> list[Example]:
    if template is None:
        raise UserError(f"{source}: holds questions and answers; name the template to put them in with --prompt")
    examples = []
    for question in load_questions(source, split=split):
        text = question.question
        prompt = tuple(template.messages(text)) if template.chat else template.render(text)
        examples.append(Example(f"{question.id}/gold", prompt, template.begin + question.answer, question.id))
    return examples


def _from_pair(table: Table, where: str, row: dict[str, Any], rendered: bool) -> Example:
    place = f"{table.source}, {where}"
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        prompt = messages_in(row, "prompt", place)
        turns = messages_in(row, "completion", place)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise UserError(f"{place}: 'completion' is to be one message of the assistant; split the conversation up")
        return example_of(row, prompt, filled(turns[0]["content"], "completion", place))
    completion = filled(text_in(row, ("completion",), place), "completion", place)
    prompt_text = text_in(row, ("prompt",), place)
    check_writable(prompt_text, "prompt", place)
    return example_of(row, prompt_text, completion, rendered)


def _from_messages(table: Table, where: str, row: dict[str, Any]) -> Example:
    place = f"{table.source}, {where}"
    turns = messages_in(row, "messages", place)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise UserError(
            f"{place}: 'messages' is to end with the assistant's answer to another message; add or remove one"
        )
    return example_of(row, turns[:-1], filled(turns[-1]["content"], "messages", place))


def example_of(
    row: dict[str, Any], prompt: str | tuple[Message, ...], completion: str, rendered: bool = False
) -> Example:
    """Ids as far as the row gives any; :func:`named_apart` completes them."""
    group = row.get("question_id")
    if group is None:
        content = prompt if isinstance(prompt, str) else json.dumps(prompt)
        group = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    parts = [str(group)]
    if row.get("source") == "gold":
        parts.append("gold")
    elif row.get("sample_index") is not None:
        parts += [
            str(row[name]) for name in ("model", "sample_index") if row.get(name) != "" and row.get(name) is not None
        ]
    else:
        own = next((row[name] for name in ID_COLUMNS if name != "question_id" and row.get(name) is not None), None)
        parts = [str(own)] if own is not None else parts
    return Example("/".join(parts), prompt, completion, str(group), rendered)


def named_apart(examples: list[Example]) -> list[Example]:
    """The same examples, the second and later ones of an id with their number behind it."""
    seen: Counter[str] = Counter()
    taken = {example.id for example in examples}
    named = []
    for example in examples:
        seen[example.id] += 1
        name, number = example.id, seen[example.id]
        while number > 1 and (name := f"{example.id}#{number}") in taken:
            number += 1
        taken.add(name)
        named.append(
            example
            if name == example.id
            else Example(name, example.prompt, example.completion, example.group, example.rendered)
        )
    return named


def messages_in(row: dict[str, Any], column: str, place: str) -> tuple[Message, ...]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise UserError(f'{place}: {column!r} is no list of messages; write [{{"role": "user", "content": "…"}}, …]')
    for message in value:
        if not (isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))):
            raise UserError(f"{place}: a message in {column!r} lacks a role or a content that is text; write both")
        check_writable(message["content"], column, place)
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def filled(text: str, column: str, place: str) -> str:
    if not text.strip():
        raise UserError(f"{place}: the text to learn in {column!r} is empty; fill it in or remove the row")
    check_writable(text, column, place)
    return text


def check_writable(text: str, column: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: {column!r} holds half a Unicode pair; remove that character") from error


def _no_columns(names: Sequence[str]) -> str:
    found = ", ".join(names[:12]) or "no columns"
    if "chosen" in names:
        return f"holds pairs of answers (found {found}); train on them with train/dpo.py"
    if "kind" in names:
        return "is a part of a run directory; name the run's folder instead"
    pairs = [pair for pair in COLUMNS if pair != ("prompt", "completion")]
    wanted = "prompt/completion, messages, or " + ", ".join("/".join(pair) for pair in pairs)
    return f"no columns to train on (found {found}); use {wanted}"
