"""The records that travel between the rooms. Frozen; validated when built; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

VERDICTS = ("correct", "wrong_answer", "wrong_equation", "no_answer", "truncated", "timeout")
FINISH_REASONS = ("eos", "stop", "length", "false_equation", "answered")


@dataclass(frozen=True)
class Question:
    """One question with its gold solution.

    ``id`` is the file's own id column or a hash of the question's text, never a row number, so that order, ``--limit``
    and sharding change nothing. ``answer`` is the gold solution as the file gives it (for GSM8K: reasoning, then
    ``#### 18``).
    """

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Completion:
    """One sampled path of a question, named by (run seed, question id, sample index).

    ``text`` is cut before the stop string; ``token_ids`` are all tokens drawn, the EOS or the tokens of the stop string
    included. ``logprob`` is the sum over ``token_ids`` of the natural-log probability under the model itself
    (temperature 1, nothing cut off). ``finish_reason``: an EOS, a stop string, the most tokens allowed, or early stop,
    which ends a path where an equation has closed that is false, or where the line with the final answer is complete.
    """

    question_id: str
    sample_index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    finish_reason: str = "eos"

    def __post_init__(self) -> None:
        assert self.finish_reason in FINISH_REASONS, self.finish_reason


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one completion: a pure function of (text, gold answer, policy).

    ``answer`` is the parsed final answer in canonical form, or None; ``equations`` the calculations in order, as they
    stand between ``<<`` and ``>>``.
    """

    verdict: str
    answer: str | None = None
    equations: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"
