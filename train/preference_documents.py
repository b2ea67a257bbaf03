"""Pairs as tokens: two documents with one prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfast.errors import UserError
from rftfast.models.tokenizer import Tokenizer
from rftfast.train.documents import Document, documents
from rftfast.train.preference import Preference
from rftfast.train.preference_steps import weighted


@dataclass(frozen=True, eq=False)
class Pair:
    """``chosen`` is to become likelier than ``rejected``; both go on from the same prompt and have the same group."""

    id: str
    chosen: Document
    rejected: Document
    weight: float = 1.0

    def __post_init__(self) -> None:
        c, r = self.chosen, self.rejected
        assert c.group == r.group and c.prompt_length == r.prompt_length, self.id
        assert np.array_equal(c.tokens[: c.prompt_length], r.tokens[: r.prompt_length]), self.id

    def __len__(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen), len(self.rejected))

    @property
    def documents(self) -> tuple[Document, Document]:
        return self.chosen, self.rejected

    @property
    def prompt(self) -> bytes:
        """The prompt's tokens, as a key."""
        return self.chosen.prompt


def pair_documents(preferences: Sequence[Preference], tokenizer: Tokenizer, *, eos_id: int | None = None) -> list[Pair]:
    """The tokens of ``preferences``, in their order; arguments as for :func:`rftfast.train.documents.documents`.

    Raises:
        UserError: what :func:`documents` raises, steps that all have weight 0, or a chosen answer with the very tokens of the
            rejected one.
    """
    answers = [answer for p in preferences for answer in (p.chosen, p.rejected)]
    found = documents([answer.example for answer in answers], tokenizer, eos_id=eos_id)
    vocabulary = tokenizer.token_bytes() if any(answer.spans for answer in answers) else []
    done = [
        weighted(d, answer.example.completion, answer.spans, vocabulary, ends=answer.ends)
        for d, answer in zip(found, answers, strict=True)
    ]
    pairs = [Pair(p.id, done[2 * i], done[2 * i + 1], p.weight) for i, p in enumerate(preferences)]
    for pair in pairs:
        if content(pair.chosen) == content(pair.rejected):
            raise UserError(f"{pair.id}: 'chosen' and 'rejected' are the same tokens; remove the pair")
    return pairs


def completions(pairs: Sequence[Pair]) -> tuple[Document, ...]:
    """Both of each pair."""
    return tuple(document for pair in pairs for document in pair.documents)


def content(document: Document) -> bytes:
    """What a document's log-probability depends on, as a key."""
    weights = b"" if document.weights is None else document.weights.astype("<f4").tobytes()
    return document.tokens.astype("<i4").tobytes() + b"/" + weights


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Hash (hex) of ids and weights of the pairs, whatever their order; their documents have a hash of their own."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in sorted(pairs, key=lambda p: p.id):
        digest.update(
            f"{pair.id}\0{pair.chosen.id}\0{pair.rejected.id}\0{pair.weight!r}\n".encode("utf-8", "surrogatepass")
        )
    return digest.hexdigest()
