"""Questions as the page holds them: short records, packed in compressed chunks that the page opens one at a time.

A chunk is the JSON of a list of questions, deflated (zlib) and in base64, so that the page is plain ASCII whatever a model
has written. What a question's record holds is told at :meth:`QuestionPack.add`, what a sample's at ``_sample``; fields
that are empty are left out.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rftfast.data.records import VERDICTS
from rftfast.errors import UserError
from rftfast.report.marks import false_spans
from rftfast.report.why import MAX_TEXT, Reason, explain
from rftfast.select import equation_key
from rftfast.verify import Policy

_CHUNK = 1 << 18  # characters of JSON: a few milliseconds to open


@dataclass(frozen=True)
class Samples:
    """One question of one run. ``rows`` are its stored samples by index; ``also`` names, for the key of an accepted
    equation list, the other runs that found it."""

    id: str
    text: str
    gold: str
    rows: Sequence[Mapping[str, Any]]
    also: Mapping[str, Sequence[int]]


class QuestionPack:
    """The questions of one run, packed one by one. ``add`` each, then ``finish``.

    ``most``: samples of a question whose text is packed; kept paths always are, the others are counted (0: no bound).
    """

    def __init__(self, *, key: str, policy: Policy, most: int) -> None:
        self._key, self._policy, self._most = key, policy, most
        self._index: list[list[Any]] = []
        self._chunks: list[str] = []
        self._waiting: list[str] = []
        self.samples = self.packed = self.kept = 0
        self._verdicts: Counter[str] = Counter()

    def add(self, question: Samples) -> None:
        """Pack a question.

        Its record: ``g`` the gold solution, ``l`` the equation lists of its packed samples, ``s`` these samples, ``r`` the
        rest as ``[place in l or −1, place in VERDICTS, how many]``, ``o`` by place in ``l`` the other runs that found it.
        Its line in the index: id, text, samples, those with the right answer, kept paths, samples by verdict.
        """
        rows = sorted(question.rows, key=lambda row: row["sample_index"])
        keys = [equation_key(row.get("equations") or (), self._key) for row in rows]
        why = self._reasons(rows, keys)
        chosen = self._choose(rows, keys, why)
        lists: dict[str, int] = {}
        shown = []
        for i in chosen:
            place = lists.setdefault(keys[i], len(lists))
            shown.append(self._sample(rows[i], place, why.get(i)))
        by_place = {place: list(rows[i].get("equations") or ()) for i in reversed(chosen) for place in [lists[keys[i]]]}
        rest: Counter[tuple[int, int]] = Counter()
        for i in set(range(len(rows))) - set(chosen):
            rest[lists.get(keys[i], -1), _verdict(rows[i])] += 1
        record = {
            "g": _cut(question.gold),
            "l": [by_place[place] for place in range(len(lists))],
            "s": shown,
            "r": [[place, verdict, count] for (place, verdict), count in sorted(rest.items())],
            "o": {str(lists[key]): list(runs) for key, runs in question.also.items() if key in lists and runs},
        }
        verdicts = Counter(row["verdict"] for row in rows)
        self._verdicts.update(verdicts)
        right = sum(_right(row) for row in rows)
        kept = sum(row["kept"] for row in rows)
        self._index.append(
            [question.id, _cut(question.text), len(rows), right, kept, [verdicts[name] for name in VERDICTS]]
        )
        self._waiting.append(_json(record))
        self._index[-1].append(len(self._chunks))
        self.samples += len(rows)
        self.packed += len(shown)
        self.kept += kept
        if sum(map(len, self._waiting)) >= _CHUNK:
            self._close()

    def finish(self) -> dict[str, Any]:
        """What the page needs: ``index`` (one chunk) and ``chunks``, of which each index line names its own last."""
        if self._waiting:
            self._close()
        return {
            "index": _packed(_json(self._index)),
            "chunks": self._chunks,
            "samples": self.samples,
            "packed": self.packed,
            "kept": self.kept,
            "most": self._most,
            "verdicts": [self._verdicts[name] for name in VERDICTS],
        }

    def _close(self) -> None:
        self._chunks.append(_packed(f"[{','.join(self._waiting)}]"))
        self._waiting = []

    def _reasons(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[int, Reason]:
        """By place in ``rows``, for the accepted; the paths a reason names are sample indices."""
        good = [i for i, row in enumerate(rows) if row["verdict"] == "correct"]
        found = explain([rows[i]["completion"] for i in good], [keys[i] for i in good], [rows[i]["kept"] for i in good])

        def index(place: int | None) -> int | None:
            return None if place is None else rows[good[place]]["sample_index"]

        return {
            i: Reason(r.code, index(r.other), r.own, r.against, index(r.replaced_by))
            for i, r in zip(good, found, strict=True)
        }

    def _choose(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], why: Mapping[int, Reason]) -> list[int]:
        """Which samples are packed: the kept, those with values of steps, those that once stood for their list, the first of
        each list, the others in order, until there are enough. In order."""
        if not self._most or len(rows) <= self._most:
            return list(range(len(rows)))
        first = {key: i for i, key in reversed(list(enumerate(keys)))}

        def rank(i: int) -> tuple[int, int]:
            stood = i in why and why[i].code in ("first", "farther")
            order = (rows[i]["kept"], rows[i].get("steps") is not None, stood, first[keys[i]] == i, True)
            return order.index(True), i

        kept = sum(row["kept"] for row in rows)
        return sorted(sorted(range(len(rows)), key=rank)[: max(self._most, kept)])

    def _sample(self, row: Mapping[str, Any], place: int, reason: Reason | None) -> dict[str, Any]:
        """``i`` sample index, ``l`` place of its equation list, ``v`` place in VERDICTS, ``a`` answer, ``t`` text, ``c`` its
        length where it was cut, ``n`` tokens, ``f`` why it ended, ``p`` log-probability, ``k`` 1 if kept, ``w`` the reason as
        ``[code, other, own, against, replaced by]``, ``x`` the false equations' ``[start, end]``.

        ``e``: the row's ``steps``, a list of ``{"text", "q", "advantage"}`` and perhaps ``mark`` (``pit``, ``spurious``), where
        there are values of steps.
        """
        text = row["completion"]
        values: dict[str, Any] = {
            "i": row["sample_index"],
            "l": place,
            "v": _verdict(row),
            "a": row.get("answer"),
            "t": _cut(text),
            "c": len(text) if len(text) > MAX_TEXT else None,
            "n": row["tokens"],
            "f": row.get("finish_reason"),
            "p": round(row["logprob"], 2) if _number(row.get("logprob")) else None,
            "k": int(row["kept"]),
            "x": [span for span in self._false(row) if span[1] <= MAX_TEXT],
            "e": _steps(row),
        }
        if reason is not None:
            values["w"] = [reason.code, reason.other, reason.own, reason.against, reason.replaced_by]
        return {name: value for name, value in values.items() if value not in (None, [], 0) or name in "ilv"}

    def _false(self, row: Mapping[str, Any]) -> list[tuple[int, int]]:
        # An accepted path has none, by its verdict; the text of all others is looked through.
        if row["verdict"] == "correct":
            return []
        return false_spans(row["completion"], row.get("equations") or (), self._policy)


def _right(row: Mapping[str, Any]) -> bool:
    return row["verdict"] == "correct" or (row["verdict"] == "wrong_equation" and row.get("answer") is not None)


def _verdict(row: Mapping[str, Any]) -> int:
    if row["verdict"] not in VERDICTS:
        raise UserError(
            f"question {row['question_id']!r}, sample {row['sample_index']}: verdict {row['verdict']!r} is unknown; "
            "the run was made by another version"
        )
    return VERDICTS.index(row["verdict"])


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _steps(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    steps = row.get("steps")
    if steps is None:
        return None
    good = isinstance(steps, list) and all(
        isinstance(step, dict)
        and isinstance(step.get("text"), str)
        and all(step.get(name) is None or _number(step[name]) for name in ("q", "advantage"))
        and step.get("mark", "pit") in ("pit", "spurious")
        for step in steps
    )
    if not good:
        raise UserError(
            f"question {row['question_id']!r}, sample {row['sample_index']}: 'steps' is no list of "
            '{"text": text, "q": number, "advantage": number}; mend or remove it'
        )
    return [
        {
            **{name: step.get(name) for name in ("text", "q", "advantage")},
            **{k: step[k] for k in ("mark",) if k in step},
        }
        for step in steps
    ]


def _cut(text: str) -> str:
    return text[:MAX_TEXT]


def _json(value: Any) -> str:
    # ASCII: a lone half of a surrogate pair, which no encoding takes, goes through as an escape.
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode("ascii"), 6)).decode("ascii")
