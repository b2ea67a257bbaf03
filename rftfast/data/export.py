"""Training rows in the formats trainers read: the columns of TRL's SFT and DPO trainers, JSONL or Parquet.

Half a Unicode pair in a text becomes ``?``: the datasets library refuses a whole file for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from rftfast.data.jsonl import open_output, whole_file
from rftfast.data.parts import json_line
from rftfast.errors import UserError

FORMATS = ("prompt-completion", "messages", "preference", "parquet")
_GROUP = 4096  # rows of a Parquet row group, and what is in memory at a time


def prompt_completion_row(prompt: str, completion: str) -> dict[str, Any]:
    """``{"prompt", "completion"}``: joined they are the text to train on, without the EOS token."""
    return {"prompt": _whole(prompt), "completion": _whole(completion)}


def messages_row(user: str, completion: str, system: str = "") -> dict[str, Any]:
    """``{"messages": [user, assistant]}``, the system's before them if there is one; the trainer's chat template sets what
    stands around them."""
    turns = [("system", system)] if system else []
    turns += [("user", user), ("assistant", completion.strip())]
    return {"messages": [{"role": role, "content": _whole(text)} for role, text in turns]}


def preference_row(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """``{"prompt", "chosen", "rejected"}``, all texts; chosen and rejected each go on from the prompt."""
    return {"prompt": _whole(prompt), "chosen": _whole(chosen), "rejected": _whole(rejected)}


def write_jsonl(target: str | Path | None, rows: Iterable[dict[str, Any]]) -> int:
    """Write ``rows`` one a line into ``target`` (None and ``-``: standard output), whole or not at all.

    Returns how many. Raises UserError if the disk refuses, or what reading ``rows`` raises.
    """
    count = 0
    with open_output(target) as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def write_parquet(target: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write training rows as Parquet, whole or not at all, in row groups of 4,096.

    Columns: ``prompt``, ``completion``, ``question_id``, ``source``, ``model`` (texts) and ``sample_index`` (int64); what
    a row lacks is null. Returns how many rows.

    Raises:
        UserError: pyarrow is not installed, or the disk refuses.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("writing Parquet needs pyarrow; run: pip install 'rftfast[parquet]'") from error
    columns = ("prompt", "completion", "question_id", "source", "model")
    schema = pyarrow.schema([*((name, pyarrow.string()) for name in columns), ("sample_index", pyarrow.int64())])
    count = 0
    remaining = iter(rows)
    with whole_file(Path(target)) as temporary:
        try:
            with parquet.ParquetWriter(temporary, schema) as writer:
                while group := [_writable(row) for row in islice(remaining, _GROUP)]:
                    writer.write_table(pyarrow.Table.from_pylist(group, schema))
                    count += len(group)
        except OSError as error:
            raise UserError(f"cannot write {target} ({error.strerror or error}); choose another place") from error
    return count


def _writable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: _whole(v) if isinstance(v, str) else v for k, v in row.items()}


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
