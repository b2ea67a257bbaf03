"""Parts of a run: files of whole questions, each a question's row followed by the rows of all its samples.

A part is JSONL. A question's row: ``{"kind": "question", "question_id", "prompt", "begin", "gold", "samples"}``, the last
being how many rows follow that belong to it, and ``"answer_only": true`` where ``gold`` is no solution. A sample's row: ``{"kind": "sample", "question_id", "sample_index",
"completion", "verdict", "answer", "equations", "kept", "tokens", "logprob", "finish_reason"}`` and, where the run stores
them, ``"token_ids"``. So a part alone tells all there is to know of its questions, and shows if anything is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.data.records import Completion, Question, Verdict
from rftfast.errors import UserError

_MEND = "remove that file and run the same command again: its questions are sampled once more"


@dataclass(frozen=True)
class StoredQuestion:
    """A finished question: how it was put, its gold solution and all its samples' rows, by sample index.

    ``answer_only``: ``gold`` is a bare answer without a solution, which nobody should train on.
    """

    id: str
    prompt: str
    begin: str
    gold: str
    samples: tuple[dict[str, Any], ...]
    answer_only: bool = False

    def part_rows(self) -> bytes:
        """The question's lines in a part."""
        head = {
            "kind": "question",
            "question_id": self.id,
            "prompt": self.prompt,
            "begin": self.begin,
            "gold": self.gold,
            "samples": len(self.samples),
            **({"answer_only": True} if self.answer_only else {}),
        }
        return b"".join(json_line(row) for row in (head, *self.samples))

    def rft_rows(self) -> bytes:
        """The question's lines in ``rft.jsonl``: the gold solution, if it is one, then every kept path by sample index.

        ``prompt + completion`` is the text to train on, without the EOS token. ``begin`` is set before each completion in
        place of whatever white space the model began with, so that gold and sampled solutions look alike.
        """

        def row(text: str, **more: Any) -> bytes:
            fields = {"prompt": self.prompt, "completion": self.begin + text.lstrip(), "question_id": self.id}
            return json_line({**fields, **more})

        kept = [sample for sample in self.samples if sample["kept"]]
        return (b"" if self.answer_only else row(self.gold, source="gold")) + b"".join(
            row(sample["completion"], source="sample", sample_index=sample["sample_index"]) for sample in kept
        )


def finished_question(
    question: Question,
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    kept: Sequence[int],
    *,
    prompt: str,
    begin: str = "",
    token_ids: bool = False,
    answer_only: bool = False,
) -> StoredQuestion:
    """The record of a question whose samples are all drawn and judged.

    ``verdicts[i]`` judges ``completions[i]``; ``kept`` are the sample indices of the selected paths; ``answer_only`` says that
    ``question.answer`` is no solution.
    """
    assert len(completions) == len(verdicts), (len(completions), len(verdicts))
    assert all(completion.question_id == question.id for completion in completions), question.id
    indices = {completion.sample_index for completion in completions}
    assert len(indices) == len(completions), f"{question.id}: a sample index stands there twice"
    chosen = set(kept)
    assert chosen <= indices, f"{question.id}: kept samples that do not exist: {chosen - indices}"
    rows = []
    for completion, verdict in sorted(zip(completions, verdicts, strict=True), key=lambda pair: pair[0].sample_index):
        row: dict[str, Any] = {
            "kind": "sample",
            "question_id": question.id,
            "sample_index": completion.sample_index,
            "completion": completion.text,
            "verdict": verdict.verdict,
            "answer": verdict.answer,
            "equations": list(verdict.equations),
            "kept": completion.sample_index in chosen,
            "tokens": len(completion.token_ids),
            "logprob": completion.logprob,
            "finish_reason": completion.finish_reason,
        }
        if token_ids:
            row["token_ids"] = list(completion.token_ids)
        rows.append(row)
    return StoredQuestion(question.id, prompt, begin, question.answer, tuple(rows), answer_only)


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.jsonl"


def part_paths(folder: Path) -> list[Path]:
    """The parts in ``folder``, in the order they were written; what has another name is passed over."""
    found = [path for path in folder.glob("part-*.jsonl") if path.stem.removeprefix("part-").isdecimal()]
    return sorted(found, key=part_number)


def part_number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def read_part(path: Path) -> Iterator[StoredQuestion]:
    """The questions of a part, in its order.

    Raises:
        UserError: the part is not whole (no final line break, fewer samples than announced) or not readable. Questions
            before the damage may have been yielded by then.
    """
    try:
        with path.open("rb") as file:
            yield from questions_in(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the disk and its rights") from error


def questions_in(path: Path, lines: Iterable[bytes], first: int = 1) -> Iterator[StoredQuestion]:
    """The questions in ``lines`` of the part ``path``, the first of them its line ``first``. Raises as :func:`read_part`."""
    head: dict[str, Any] | None = None
    samples: list[dict[str, Any]] = []
    number = first - 1
    for number, line in enumerate(lines, start=first):
        if not line.endswith(b"\n"):
            raise UserError(f"{path}, line {number}: cut short; {_MEND}")
        row = part_row(path, number, line)
        if row["kind"] == "question":
            if head is not None:
                yield _whole(path, number, head, samples)
            head, samples = row, []
        elif head is None or row["question_id"] != head["question_id"]:
            raise UserError(f"{path}, line {number}: a sample that does not follow its question; {_MEND}")
        else:
            samples.append(row)
    if head is None:
        raise UserError(f"{path}: empty; {_MEND}")
    yield _whole(path, number, head, samples)


def _whole(path: Path, number: int, head: dict[str, Any], samples: list[dict[str, Any]]) -> StoredQuestion:
    if len(samples) != head["samples"]:
        raise UserError(
            f"{path}, before line {number + 1}: question {head['question_id']!r} has {len(samples)} samples"
            f" where {head['samples']} were written; {_MEND}"
        )
    name, prompt, begin, gold = (head[column] for column in ("question_id", "prompt", "begin", "gold"))
    return StoredQuestion(name, prompt, begin, gold, tuple(samples), head.get("answer_only") is True)


_TEXT, _COUNT = (str,), (int,)
_COLUMNS: dict[Any, dict[str, tuple[type, ...]]] = {
    "question": {"question_id": _TEXT, "prompt": _TEXT, "begin": _TEXT, "gold": _TEXT, "samples": _COUNT},
    "sample": {
        "question_id": _TEXT,
        "sample_index": _COUNT,
        "completion": _TEXT,
        "verdict": _TEXT,
        "equations": (list,),
        "kept": (bool,),
        "tokens": _COUNT,
    },
}


def part_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """One line of a part, its columns checked. Raises UserError, naming the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: invalid JSON; {_MEND}") from error
    kind = row.get("kind") if isinstance(row, dict) else None
    columns = _COLUMNS.get(kind) if isinstance(kind, str) else None
    if columns is None or not all(isinstance(row.get(name), types) for name, types in columns.items()):
        raise UserError(f"{path}, line {number}: not a row of a part; {_MEND}")
    return row


def json_line(row: dict[str, Any]) -> bytes:
    """One JSONL line, readable as UTF-8; a text that is no valid Unicode is written in escapes instead."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, allow_nan=False).encode() + b"\n"
