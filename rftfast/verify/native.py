"""Batches of completions judged in C++, off the GIL; what it cannot decide exactly, Python decides.

The native code (``csrc/text``) reads the strings where they lie, with 64-bit rationals for answers and with 64-bit whole
numbers and doubles for equations. Whatever leaves that domain (numbers of more than 18 figures, results beyond 64 bits,
comments and keywords on the left side of a reference equation, …) it does not guess: that completion goes through
``verify_in_python``. So every verdict, answer, equation and key is the Python path's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from rftfast.cores import usable_cores
from rftfast.data.records import VERDICTS, Verdict
from rftfast.verify.judge import verify_in_python
from rftfast.verify.policy import Policy

if TYPE_CHECKING:
    import numpy as np

_MARKER_BITS = {"####": 1, "A:": 2, "The answer is": 4, "\\boxed": 8}
_MODES = {"strict": 0, "reference": 1, "off": 2}


@functools.cache
def _module() -> ModuleType | str:
    """The native module, or why there is none."""
    try:
        from rftfast import _native
    except ImportError as error:
        return f"the native module is not built ({error})"
    if not hasattr(_native, "Checked"):
        return "the native module is older than this package; build it again"
    return _native


def available() -> str | None:
    """Why batches cannot be judged natively here, or None when they can."""
    found = _module()
    return found if isinstance(found, str) else None


class CheckedBatch(Sequence[Verdict]):
    """The verdicts of a batch in compact form, one for each completion; objects are made when asked for.

    ``left_to_python`` counts the completions that the native code did not decide.
    """

    def __init__(
        self,
        completions: Sequence[str],
        golds: Sequence[str],
        policy: Policy = Policy(),
        *,
        truncated: Sequence[bool] | None = None,
        keys: bool = True,
        threads: int | None = None,
    ) -> None:
        """Judge the batch. ``keys``: build the reference keys too. ``threads``: default, as many as there are cores
        for this process; small batches run on the calling thread alone.

        Raises ``UserError`` for a gold that holds no number and ``ImportError`` where the native module is missing.
        """
        module = _module()
        if isinstance(module, str):
            raise ImportError(module)
        if policy.math:
            raise ValueError("CheckedBatch: a policy with math=True is judged by verify_batch")
        if len(golds) != len(completions) or (truncated is not None and len(truncated) != len(completions)):
            raise ValueError("verify_batch: one gold (and one truncated flag) for each completion")
        self._native = module.Checked(
            completions,
            golds,
            truncated,
            policy.marker == "first",
            sum(_MARKER_BITS[name] for name in set(policy.markers)),
            _MODES[policy.equations],
            policy.bare,
            keys,
            usable_cores() if threads is None else threads,
        )
        self._codes: bytes = self._native.codes()
        left = self._native.undecided()
        self._python = {
            i: verify_in_python(
                completions[i], golds[i], policy, truncated=truncated is not None and bool(truncated[i])
            )
            for i in left
        }
        if left:
            codes = bytearray(self._codes)
            for i, verdict in self._python.items():
                codes[i] = VERDICTS.index(verdict.verdict)
            self._codes = bytes(codes)
        self.left_to_python = len(left)

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if at in self._python:
            return self._python[at]
        return Verdict(VERDICTS[self._codes[at]], *self._native.details(at))

    def codes(self) -> np.ndarray:
        """uint8 [n], each an index into ``rftfast.data.records.VERDICTS``; 0 is ``correct``. Read-only."""
        import numpy as np

        return np.frombuffer(self._codes, dtype=np.uint8)

    def verdicts(self) -> list[Verdict]:
        """All verdicts as records."""
        made: list[Verdict] = self._native.verdicts(Verdict, VERDICTS)
        for i, verdict in self._python.items():
            made[i] = verdict
        return made

    def keys(self) -> list[str]:
        """``rftfast.select.equation_key`` (``reference``) of each completion; judged with ``keys`` only."""
        made: list[str] = self._native.keys()
        for i, verdict in self._python.items():
            made[i] = "|".join(verdict.equations).replace(" ", "")
        return made


def verify_codes(
    completions: Sequence[str],
    golds: Sequence[str],
    policy: Policy = Policy(),
    *,
    truncated: Sequence[bool] | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Verdicts alone: uint8 [n], indices into ``rftfast.data.records.VERDICTS``. Errors as ``CheckedBatch``."""
    return CheckedBatch(completions, golds, policy, truncated=truncated, keys=False, threads=threads).codes()
