"""What a teacher is asked and what it answers; whoever it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Message = dict[str, str]


@dataclass(frozen=True)
class Ask:
    """``n`` texts wanted for one prompt. ``name`` is the ask's own; ``messages`` are a chat's, ``plain`` says the same to a
    model without a chat template, which ``stop`` keeps from going on to something of its own."""

    name: str
    messages: tuple[Message, ...]
    plain: str
    stop: tuple[str, ...]
    n: int
    max_tokens: int
    temperature: float


@dataclass(frozen=True)
class Usage:
    """Tokens of finished requests; ``unknown`` counts the requests whose answer did not say."""

    requests: int = 0
    input: int = 0
    output: int = 0
    unknown: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input + other.input,
            self.output + other.output,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in any currency."""

    input: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        return (usage.input * self.input + usage.output * self.output) / 1e6


@dataclass(frozen=True)
class Text:
    """One answer. ``cut``: it ended because its length did."""

    text: str
    cut: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of an ask: its texts; or ``refused``, the teacher's words if it will not answer this one; or ``failed``, the
    last error where it might answer another time."""

    ask: Ask
    texts: tuple[Text, ...] = ()
    usage: Usage = field(default_factory=Usage)
    refused: str | None = None
    failed: str | None = None


class Teacher(Protocol):
    """Answers asks as they come, in any order. A source that waits for answers gives None: "nothing now"."""

    def stream(self, asks: Iterable[Ask | None]) -> Iterator[Answer]: ...


def shorten(text: str, most: int = 200) -> str:
    """One line of a message, for people."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def scrub(text: str, secrets: Sequence[str]) -> str:
    """``text`` without the secrets (an endpoint may echo the key it was given)."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text
