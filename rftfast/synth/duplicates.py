"""Problems that are there already: the same text, or nearly the same words with other numbers.

Near is a Jaccard similarity of at least ``near`` between the sets of word triples, numbers counting as one word. MinHash
(datasketch) finds who may be near; the similarity itself is then computed, so nothing is dropped by chance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rftfast.errors import UserError

_WORD = re.compile(r"\d[\d.,/:%]*|\w+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TRIPLE = 3
_PERMUTATIONS = 128
_MARGIN = 0.25  # the search looks this much below the threshold, as it overlooks some of those at its own


@dataclass(frozen=True)
class Twin:
    """An earlier problem that another one repeats. ``similarity`` is 1 where the texts are the same."""

    name: str
    similarity: float


class Seen:
    """Problems taken in so far. Raises UserError if datasketch is not installed, or for a threshold outside (0, 1]."""

    def __init__(self, near: float = 0.7) -> None:
        if not 0 < near <= 1:
            raise UserError(f"near is {near}: use a similarity above 0, up to 1 (the same words)")
        try:
            import datasketch
        except ImportError as error:
            raise UserError("finding near duplicates needs datasketch; run: pip install 'rftfast[synth]'") from error
        self._near = near
        self._hash = datasketch.MinHash
        self._index: Any = datasketch.MinHashLSH(threshold=max(0.1, near - _MARGIN), num_perm=_PERMUTATIONS)
        self._names: list[str] = []
        self._triples: list[frozenset[str]] = []
        self._texts: dict[str, str] = {}

    def twin(self, text: str) -> Twin | None:
        """The problem taken in that ``text`` is nearest to, if that is near enough; of several as near, the first."""
        same = self._texts.get(_plain(text))
        if same is not None:
            return Twin(same, 1.0)
        triples = _triples(text)
        near = [(_jaccard(triples, self._triples[i]), -i) for i in self._index.query(self._minhash(triples))]
        similarity, first = max(near, default=(0.0, 0))
        return Twin(self._names[-first], similarity) if similarity >= self._near else None

    def add(self, name: str, text: str) -> None:
        """Take a problem in; of two with the same text the first one keeps its name. Names need not differ: a given problem
        may be called as a new one is."""
        if _plain(text) in self._texts:
            return
        self._texts[_plain(text)] = name
        self._index.insert(len(self._names), self._minhash(triples := _triples(text)))
        self._names.append(name)
        self._triples.append(triples)

    def _minhash(self, triples: frozenset[str]) -> Any:
        found = self._hash(num_perm=_PERMUTATIONS)
        found.update_batch([triple.encode() for triple in sorted(triples)])
        return found


def words(text: str, *, numbers: bool = True) -> list[str]:
    """Lower-case words, numbers without commas between thousands; without ``numbers``, each of them is the word ``0``."""
    found = [word.strip(".,:") for word in _WORD.findall(_THOUSANDS.sub("", text.casefold()))]
    return found if numbers else ["0" if word[:1].isdigit() else word for word in found]


def _plain(text: str) -> str:
    return " ".join(words(text))


def _triples(text: str) -> frozenset[str]:
    found = words(text, numbers=False)
    return frozenset(" ".join(found[i : i + _TRIPLE]) for i in range(max(1, len(found) - _TRIPLE + 1)))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)
