"""Is this answer right, are these equations right: pure functions of text. Knows nothing of tokens or torch."""

from rftfast.verify.answers import cut, extract_answer, parse_gold
from rftfast.verify.equations import check_equation, find_bare_equations, find_equations, open_marks
from rftfast.verify.policy import Policy
from rftfast.verify.verifier import verify, verify_batch

__all__ = [
    "Policy",
    "check_equation",
    "cut",
    "extract_answer",
    "find_bare_equations",
    "find_equations",
    "open_marks",
    "parse_gold",
    "verify",
    "verify_batch",
]
