"""Coverage-guided fuzzing of the verifier: no crash, no slow text, no difference between native and Python paths.

    pip install atheris
    python tests/verify/fuzz_verify.py -max_total_time=600

Takes libFuzzer's options. A finding ends the run with the text that caused it; put it into tests/verify/test_native.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rftfast.verify import Policy, answers, arithmetic, equations, judge, native, numbers, verifier
from rftfast.verify.judge import verify_in_python
from rftfast.verify.native import CheckedBatch

# One by one: atheris' import hook sees nothing through the loader of an editable install ("corp: 1/1b" for ever).
for module in (answers, arithmetic, equations, numbers, judge, verifier):
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
            atheris.instrument_func(value)

POLICIES = (Policy(), Policy.reference(), Policy(bare=True), Policy(marker="first", equations="off"))
# Beside what the fuzzer finds on its own: the words it would take long to spell.
WORDS = ["<<", ">>", "####", "\\boxed{", "The answer is ", "\nA: ", "1,000", "−", "×", "\\frac{1}{2}", "x 10^", "9**9", "\ud800", "#### 18", "=18>>", "<<9*2="]  # fmt: skip


def text_of(data: bytes) -> str:
    provider = atheris.FuzzedDataProvider(data)
    parts = []
    while provider.remaining_bytes():
        choice = provider.ConsumeIntInRange(0, 2 * len(WORDS))
        parts.append(WORDS[choice] if choice < len(WORDS) else provider.ConsumeUnicode(8))
    return "".join(parts)


def check(data: bytes) -> None:
    text = text_of(data)
    for policy in POLICIES:
        began = time.process_time()
        batch = CheckedBatch([text], ["18"], policy)
        verdict = verify_in_python(text, "18", policy)
        took = time.process_time() - began
        assert batch[0] == verdict == batch.verdicts()[0], (policy, text)
        assert batch.keys() == ["|".join(verdict.equations).replace(" ", "")], (policy, text)
        assert took < 0.5, (took, policy, text)


if __name__ == "__main__":
    if native.available() is not None:
        sys.exit(str(native.available()))
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
