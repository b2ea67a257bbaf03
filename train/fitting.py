"""Whether documents are such as a run can take: no longer than was asked for, no longer than the model takes, tokens that it has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, TypeVar

from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.documents import Document
from rftfast.train.model import Base

_log = logging.getLogger(__name__)
_NAMED = 5  # documents named in a message


class Named(Protocol):
    """What has an id and so many tokens."""

    @property
    def id(self) -> str: ...
    def __len__(self) -> int: ...


T = TypeVar("T", bound=Named)


def short_enough(found: Sequence[T], config: TrainConfig, unit: str = "example") -> list[T]:
    """Without what is longer than ``--max-length``, where that is allowed. UserError names and counts it."""
    long = [item for item in found if len(item) > config.max_length]
    if not long:
        return list(found)
    names = ", ".join(f"{item.id} ({len(item)})" for item in long[:_NAMED]) + ", …" * (len(long) > _NAMED)
    said = f"{len(long)} of {len(found)} {unit}s are longer than --max-length {config.max_length} tokens: {names}"
    if not config.drop_long:
        raise UserError(f"{said}; raise it, or leave them out with --drop-long")
    if len(long) == len(found):
        raise UserError(f"{said}; no {unit} is left, so raise it")
    _log.warning("%s; they are left out", said)
    return [item for item in found if len(item) <= config.max_length]


def check_fits(kept: Sequence[Document], base: Base, config: TrainConfig) -> None:
    """Refuse documents with tokens that the model has not, or longer than it takes."""
    text = base.config.get_text_config()
    most, longest = max(int(d.tokens.max()) for d in kept), max(len(d) for d in kept)
    if most >= text.vocab_size:
        raise UserError(
            f"{base.folder}: its tokenizer gives token {most}, but its vocabulary has {text.vocab_size}; they do not belong"
            " together: download the model again"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise UserError(
            f"{base.folder}: takes {positions} tokens, the longest example has {longest}; lower --max-length"
        )


def repeated(found: Sequence[Document]) -> list[str]:
    """Examples that are in the data twice count twice, which may be meant (all samples, not one for each equation list)."""
    again = len(found) - len({(d.prompt_length, d.tokens.tobytes()) for d in found})
    return [f"{again:,} of {len(found):,} examples are in the data before, word for word, and count again"] * bool(
        again
    )
