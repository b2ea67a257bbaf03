"""The verdict on a completion: a pure function of its text, the gold answer and the policy."""

from __future__ import annotations

from collections.abc import Sequence

from rftfast.data.records import Verdict
from rftfast.verify.judge import LONG, verify_in_python
from rftfast.verify.policy import Policy


def verify(completion: str, gold: str, policy: Policy = Policy(), *, truncated: bool = False) -> Verdict:
    """Judge one completion, already cut at its stop.

    ``gold`` is a whole solution with its marker (``… #### 18``) or the bare number. ``truncated`` says that the
    completion ended because its length did. The answer is judged first: ``no_answer`` (``truncated`` if its length
    ended it), then ``wrong_answer``, then ``wrong_equation``, else ``correct``; ``timeout`` if the equations are more
    than any solution has (``MAX_WORK``; with ``bare``, if the whole text is longer). Raises ``UserError`` for a gold that holds no number.
    """
    if policy.math:
        from rftfast.verify import math

        return math.verify_batch([completion], [gold], policy, [truncated])[0]
    if len(completion) > LONG:
        from rftfast.verify import native

        if native.available() is None:
            batch = native.CheckedBatch([completion], [gold], policy, truncated=[truncated], keys=False, threads=1)
            return batch[0]
    return verify_in_python(completion, gold, policy, truncated=truncated)


def verify_batch(
    completions: Sequence[str],
    golds: Sequence[str],
    policy: Policy = Policy(),
    *,
    truncated: Sequence[bool] | None = None,
) -> list[Verdict]:
    """``verify`` for each completion with the gold of the same place; natively where the native module is built."""
    if len(golds) != len(completions) or (truncated is not None and len(truncated) != len(completions)):
        raise ValueError("verify_batch: one gold (and one truncated flag) for each completion")
    from rftfast.verify import math, native

    ended = truncated if truncated is not None else [False] * len(completions)
    if policy.math:
        return math.verify_batch(completions, golds, policy, ended)
    if native.available() is None:
        return native.CheckedBatch(completions, golds, policy, truncated=truncated, keys=False).verdicts()
    return [verify(c, g, policy, truncated=t) for c, g, t in zip(completions, golds, ended, strict=True)]
