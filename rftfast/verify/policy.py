"""How completions are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rftfast.errors import UserError
from rftfast.verify.answers import MARKERS


@dataclass(frozen=True)
class Policy:
    """How completions are judged; recorded with a run.

    ``marker``: ``last`` or ``first`` of the answer markers counts. ``markers``: which are known, of ``####``, ``A:``,
    ``The answer is`` and ``\\boxed``. ``equations``: ``strict`` (every part of a chain agrees), ``reference`` (as the
    paper's released code does it) or ``off`` (found, but not checked). ``bare``: where a completion has no ``<<…>>``
    at all, the calculations of its ordinary text are taken instead. ``math``: answers that are no plain number
    (``\\frac{\\sqrt{3}}{2}``) are compared as LaTeX, see ``rftfast.verify.math``.
    """

    marker: str = "last"
    markers: tuple[str, ...] = MARKERS
    equations: str = "strict"
    bare: bool = False
    math: bool = False

    def __post_init__(self) -> None:
        _one_of("marker", self.marker, ("last", "first"))
        _one_of("equations", self.equations, ("strict", "reference", "off"))
        object.__setattr__(self, "markers", tuple(self.markers))
        for name in self.markers:
            _one_of("markers", name, MARKERS)
        if not self.markers:
            raise UserError("policy: markers is empty; name at least one of " + ", ".join(MARKERS))

    def calculating(self, text: str) -> str:
        """What of a completion is searched for equations. The released code cuts at NUL for the answer only; the other policies
        see one text throughout."""
        return text if self.equations == "reference" else text.split("\0", 1)[0]

    @classmethod
    def of_run(cls, config: Mapping[str, Any]) -> Policy:
        """The policy of a run directory's ``config``; what it does not say, as older ones do not say all, is the default."""
        stored = config.get("verify")
        if not isinstance(stored, Mapping):
            return cls()
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    @classmethod
    def reference(cls) -> Policy:
        """The released code's way: the first ``#### ``, and its equation check."""
        return cls(marker="first", markers=("####",), equations="reference")


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"policy: {field} is {value!r}; choose one of {', '.join(allowed)}")
