"""The words put to a teacher, and what is read out of its answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from rftfast.data.records import Question
from rftfast.synth.teacher import Ask, Message

_HEAD = "### New problem"
_PROBLEM = (
    "Above are problems of one kind. Write one new problem of the same kind and difficulty, in the same style. It has to "
    "stand on its own and have exactly one answer, of the same form as theirs. Its story, its numbers and the calculation "
    "that it takes have to differ from those above. Write the text of the problem alone, without a title and without a "
    "solution."
)
_SOLVE = "Solve the last problem step by step, in just the form of the solutions before it; end as they end."
# A word is a title where it stands as one: behind #, or before a colon, bold type's end or the line's. "Solution A is 20 %
# acid" and "Questions of a test" are problems' own words.
_STANDS = r"(?:\s*\d+)?\s*(?::|\*\*|\n|$)"
_CUT = re.compile(
    rf"\n\s*(?:#{{2,4}}\s*(?:\*\*)?(?:Solution|Answer|Explanation|Problem \d+)\b"
    rf"|(?:\*\*)?(?:Solution|Answer|Explanation|Problem(?= \d)){_STANDS}).*",
    re.DOTALL | re.IGNORECASE,
)
_LABEL = re.compile(
    rf"^\s*(?:#{{2,4}}\s*)?(?:\*\*)?(?:New problem|Problem|Question){_STANDS}\s*(?:\*\*)?\s*:?\s*", re.IGNORECASE
)
_LEAST, _MOST = 20, 2000


def problem_ask(name: str, shown: Sequence[Question], max_tokens: int, temperature: float) -> Ask:
    """For one new problem in the style of ``shown``."""
    blocks = "".join(f"### Problem {i}\n{q.question}\n\n" for i, q in enumerate(shown, start=1))
    message: Message = {"role": "user", "content": f"{blocks}{_PROBLEM}"}
    plain = "".join(f"Question: {q.question}\n\n" for q in shown) + "Question:"
    return Ask(name, (message,), plain, ("\n\n", "\nQuestion:", "\nAnswer:"), 1, max_tokens, temperature)


def solution_ask(
    name: str, problem: str, shown: Sequence[Question], n: int, max_tokens: int, temperature: float
) -> Ask:
    """For ``n`` solutions of ``problem`` in the form of those of ``shown``."""
    messages: list[Message] = []
    for q in shown:
        messages.append({"role": "user", "content": q.question})
        messages.append({"role": "assistant", "content": q.answer})
    messages.append({"role": "user", "content": f"{problem}\n\n({_SOLVE})"})
    plain = "".join(f"Question: {q.question}\nAnswer: {q.answer}\n\n" for q in shown)
    plain += f"Question: {problem}\nAnswer:"
    return Ask(name, tuple(messages), plain, ("\n\n", "\nQuestion:"), n, max_tokens, temperature)


def read_problem(text: str) -> str | None:
    """The problem in a teacher's answer, without title and without what follows it; None if there is none of use."""
    text = text.split(_HEAD)[-1]
    text = _CUT.sub("", "\n" + _LABEL.sub("", text.strip())).strip()
    return text if _LEAST <= len(text) <= _MOST else None


def fingerprint() -> str:
    """Hash of the words: other words are another job."""
    return hashlib.blake2b(
        f"{_PROBLEM}\n{_SOLVE}\n{_CUT.pattern}\n{_LABEL.pattern}".encode(), digest_size=8
    ).hexdigest()
