"""Early stop: the verifier's online form, which the engine calls while a path is being drawn.

A path ends where it can no longer be accepted: at the token that closes a false ``<<…>>`` or, where the policy wants marks
closed, behind the line or the single ``>`` that leaves one open. It also ends at the end of the line that holds its final
answer (nothing after it is wanted). What the stops saved is estimated from the lengths of the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rftfast.data.records import Verdict
from rftfast.engine.monitor import DrawnPath
from rftfast.verify import Policy
from rftfast.verify.answers import extract_answer
from rftfast.verify.equations import check_equation, has_lost_mark
from rftfast.verify.math import final_answer

FALSE_EQUATION = "false_equation"
ANSWERED = "answered"


class OnlineVerifier:
    """A monitor (``rftfast.engine.monitor``) that judges by ``policy``; a function of the path's text alone.

    The equation it stops at is false by the policy's own check, so the verifier would refuse the whole path, too. A mark that
    is left open counts as one: either nothing closes it, or what it would hold is no equation. It is seen when the next
    trigger comes. The line it stops after holds an answer by the policy's markers; text behind it, a second answer included, is never drawn.
    """

    triggers = b">\n"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answer: Callable[..., object] = final_answer if policy.math else extract_answer

    def __call__(self, path: DrawnPath) -> str | None:
        return self.word(path.text, path.newest)

    def word(self, text: str, newest: int) -> str | None:
        """Why a path ends that has come to ``text``, the last token of which brought ``newest`` bytes; None to go on."""
        calculating = self._policy.calculating(text)
        if self._policy.equations != "off" and self._closes_false(calculating, len(text) - newest - 1):
            return FALSE_EQUATION
        if self._policy.equations == "strict" and has_lost_mark(calculating):
            return FALSE_EQUATION
        return ANSWERED if self._ends_answer(text, len(text) - newest) else None

    def _closes_false(self, text: str, since: int) -> bool:
        """Whether a ``>>`` at ``since`` or later closes an equation that is false."""
        end = text.find(">>", max(0, since))
        while end >= 0:
            inside = text[text.rfind(">", 0, end) + 1 : end]
            opened = inside.find("<<")
            if opened >= 0 and not check_equation(inside[opened + 2 :], self._policy.equations):
                return True
            end = text.find(">>", end + 2)
        return False

    def _ends_answer(self, text: str, since: int) -> bool:
        """Whether a line with an answer ends at ``since`` or later."""
        start = text.rfind("\n", 0, max(0, since)) + 1
        return self._answer_end(text, start) >= 0

    def _answer_end(self, text: str, start: int = 0) -> int:
        """Where the first line from ``start`` on that holds an answer ends; -1 if none does."""
        while (end := text.find("\n", start)) >= 0:
            if self._answer(text[start:end], self._policy.marker, self._policy.markers) is not None:
                return end
            start = end + 1
        return -1

    def cut(self, text: str) -> str:
        """A path ended as ``answered``, without what its last token brought beyond the line of the answer."""
        end = self._answer_end(text)
        return text if end < 0 else text[:end]


def judged(verdict: Verdict, finish_reason: str) -> Verdict:
    """The verdict on a path's text, told how it ended: no answer is missed behind the equation it was stopped at."""
    if finish_reason == FALSE_EQUATION and verdict.answer is None:
        return Verdict("wrong_equation", None, verdict.equations)
    return verdict


class SavedTokens:
    """Estimates the tokens that paths stopped at a false equation would still have drawn.

    Such a path is a lifetime seen up to its stop. Lengths are estimated from all paths of the run with those as censored
    (Kaplan and Meier), and a path stopped at t counts as many tokens as lifetimes beyond t last further on average. A path
    that ended behind its answer counts as ended there: how long it would have gone on is not claimed as saved.
    """

    def __init__(self, longest: int) -> None:
        self._ended = np.zeros(longest + 1)
        self._stopped = np.zeros(longest + 1)

    def add(self, tokens: int, finish_reason: str) -> None:
        counts = self._stopped if finish_reason == FALSE_EQUATION else self._ended
        counts[min(tokens, len(counts) - 1)] += 1

    @property
    def paths(self) -> int:
        """Paths that were stopped at a false equation."""
        return int(self._stopped.sum())

    def estimate(self) -> float:
        """Tokens saved; 0 while no path has ended by itself."""
        if not self._ended.any():
            return 0.0
        at_risk = np.cumsum((self._ended + self._stopped)[::-1])[::-1]  # lengths of t or more
        alive = np.cumprod(1 - self._ended / np.maximum(at_risk, 1))  # probability of lasting beyond t
        alive[np.flatnonzero(at_risk).max() :] = 0  # none was seen beyond: nothing is claimed there
        beyond = np.cumsum(alive[::-1])[::-1]  # sum of alive over t, t + 1, ...
        left = np.divide(beyond, alive, out=np.zeros_like(alive), where=alive > 0)
        return float((self._stopped * left).sum())
