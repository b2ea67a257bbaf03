"""Responses in steps: where each ends in the text, and after which token.

A step is a line (as GSM8K's solutions are written) or a sentence (arXiv 2406.14532 takes sentences). Joined, the steps
are the text, character for character. A step's tokens are the ones that were drawn: a border that falls inside a token
moves over white space to one end of that token; where the token holds words of both steps, the two are one step.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rftfast.errors import UserError

KINDS = ("auto", "lines", "sentences")
_LINE = re.compile(r"(?:[^\S\n]*\n)+")
# A sentence's last mark with closing quotes and brackets; then white space, or a mark that needs none.
_SENTENCE = re.compile(r"""[.!?]+["'”’)\]*]*(?=\s)|[。！？]+["'”’)\]]*|(?:[^\S\n]*\n)+""")
# Nothing is split inside a calculation or displayed mathematics.
_WHOLE = re.compile(r"<<.*?>>|\\\[.*?\\\]|\\\(.*?\\\)|\$\$.*?\$\$", re.DOTALL)
_SHORT_FORM = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|Fig|Eq|approx|e\.g|i\.e|etc)|\b[A-Z]|^\s*\d+)\.$", re.M
)


@dataclass(frozen=True)
class StepPolicy:
    """How texts are split; recorded with the rollouts.

    ``kind``: lines, sentences, or ``auto``: lines where the gold solution is written as GSM8K's (``####`` before its
    answer), else sentences. ``least``: a step with fewer characters is joined to the next one; None is 1 for lines and 20
    for sentences. ``most``: of more steps than this the shortest neighbours are joined; it bounds the cost of a response
    that rambles.
    """

    kind: str = "auto"
    least: int | None = None
    most: int = 20

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"steps: {self.kind!r} is no way to split; choose one of {', '.join(KINDS)}")
        if self.least is not None and self.least < 1:
            raise UserError(f"steps: least is {self.least}; a step has at least 1 character")
        if self.most < 1:
            raise UserError(f"steps: most is {self.most}; ask for at least 1 step")


@dataclass(frozen=True)
class Steps:
    """``ends[i]``: characters of the text up to the end of step i; ``tokens[i]``: drawn tokens up to there.

    ``joined`` counts the borders given up because a token holds words of both sides. The last step ends with the text;
    what was drawn after it (an EOS, a stop string) counts with it.
    """

    ends: tuple[int, ...]
    tokens: tuple[int, ...]
    joined: int = 0

    def texts(self, text: str) -> list[str]:
        return [text[a:b] for a, b in pairwise((0, *self.ends))]


def split(text: str, policy: StepPolicy, gold: str) -> list[int]:
    """Where each step of ``text`` ends, in characters; the last one is ``len(text)``. A blank text has no steps."""
    if not text.strip():
        return []
    by_lines = policy.kind == "lines" or (policy.kind == "auto" and "####" in gold)
    ends = _lines(text) if by_lines else _sentences(text)
    least = policy.least if policy.least is not None else (1 if by_lines else 20)
    return _joined(text, ends, least, policy.most)


def _lines(text: str) -> list[int]:
    return _with_text(text, [m.end() for m in _LINE.finditer(text)])


def _sentences(text: str) -> list[int]:
    whole = [m.span() for m in _WHOLE.finditer(text)]
    ends = []
    for m in _SENTENCE.finditer(text):
        if any(a < m.end() < b for a, b in whole):
            continue
        rest = text[m.end() :].lstrip()
        if not m.group().isspace() and (rest[:1].islower() or _SHORT_FORM.search(text[: m.end()])):
            continue
        ends.append(m.end())
    return _with_text(text, ends)


def _with_text(text: str, ends: list[int]) -> list[int]:
    """``ends`` and the end of the text, without those before which or behind which there is only white space."""
    found: list[int] = []
    for end in ends:
        start = found[-1] if found else 0
        if text[start:end].strip() and text[end:].strip():
            found.append(end)
        elif found and not text[start:end].strip():
            found[-1] = end  # an empty line goes with the step before it
    return [*found, len(text)]


def _joined(text: str, ends: list[int], least: int, most: int) -> list[int]:
    kept: list[int] = []
    for end in ends:
        start = kept[-1] if kept else 0
        if len(text[start:end].strip()) >= least:
            kept.append(end)
    if not kept or kept[-1] != len(text):  # too short an end goes with the step before it
        kept = [*kept[:-1], len(text)]
    while len(kept) > most:
        borders = [0, *kept]
        shortest = min(range(1, len(kept)), key=lambda i: borders[i + 1] - borders[i - 1])
        del kept[shortest - 1]
    return kept


def align(text: str, ends: Sequence[int], pieces: Sequence[bytes]) -> Steps | None:
    """The steps with their tokens. ``pieces`` are the bytes of each token drawn, white space in front of ``text``
    included; None if they do not spell ``text`` (and what may follow it)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    after: list[int | None] = [0]  # characters after so many tokens; None inside a character
    spelled = ""
    for piece in pieces:
        spelled += decoder.decode(piece)
        after.append(None if decoder.getstate()[0] else len(spelled))
    spelled += decoder.decode(b"", final=True)
    lead = len(spelled) - len(spelled.lstrip())
    if not ends or not spelled.startswith(text, lead):
        return None
    found: list[tuple[int, int]] = []
    joined = 0
    for end in ends[:-1]:
        place = _border(spelled, after, lead + end)
        start = found[-1][0] if found else lead
        if place is None or not spelled[start : place[0]].strip() or not spelled[place[0] : lead + len(text)].strip():
            joined += 1
        else:
            found.append(place)
    return Steps(
        (*(at - lead for at, _ in found), len(text)),
        (*(token for _, token in found), len(pieces)),
        joined,
    )


def _border(spelled: str, after: list[int | None], end: int) -> tuple[int, int] | None:
    """(characters, tokens) of the token border at ``end``, or beside it with white space between."""
    above = next(((at, t) for t, at in enumerate(after) if at is not None and at >= end), None)
    if above is not None and not spelled[end : above[0]].strip():
        return above
    below = [(at, t) for t, at in enumerate(after) if at is not None and at <= end]
    at, _ = below[-1]
    if at > 0 and not spelled[at:end].strip():
        return next(place for place in below if place[0] == at)
    return None
