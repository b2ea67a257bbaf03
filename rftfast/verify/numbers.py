"""Numbers as people and models write them, read exactly.

Every number becomes a ``fractions.Fraction``; nothing is compared as a string or as a float. All work is bounded: a
literal with more than ``MAX_DIGITS`` digits before or after its point, or with an exponent beyond ``MAX_EXPONENT``, is
not a number here, so that a million digits cost no more than a few hundred.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400
MAX_EXPONENT = 400

_MINUS = "-−–"
# Thousands in groups of three (or, as in India, of two before the last three), or plain digits.
_INT = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{2,3}}){{0,99}},[0-9]{{3}}(?![0-9])|[0-9]{{1,{MAX_DIGITS}}})"
_DEC = rf"\.[0-9]{{1,{MAX_DIGITS}}}"
# Between a marker and its number: blanks, a colon, markdown stars, the opening of LaTeX mathematics.
_LEAD = re.compile(r"(?:[\s:=~*_]|\\[(\[]|\$(?=[\\\s])){0,16}")
_SIGN = re.compile(rf"([{_MINUS}+]?) ?(?:(?:US|\\)?\$|[€£¥₹])? ?([{_MINUS}]?)")
_LATEX_FRACTION = re.compile(rf"\\[dt]?frac ?\{{ ?(-?)({_INT}) ?\}}\{{ ?({_INT}) ?\}}")
_MIXED = re.compile(rf"({_INT}) ({_INT})/({_INT})")
_FRACTION = re.compile(rf"({_INT}) ?/ ?({_INT})(?!\.?[0-9])")
_DECIMAL = re.compile(
    rf"(?:({_INT})({_DEC})?|({_DEC}))"
    r"(?:[eE]([+-]?[0-9]{1,4})(?![0-9])| ?(?:[x×*]|\\times|\\cdot) ?10(?:\^|\*\*)(?:\{([+-]?[0-9]{1,4})\}|([+-]?[0-9]{1,4})(?![0-9])))?"
)
# What shows that the number read was only the beginning of something else: 3x+1, 12:30, 1,2, 5^2, 2 \pi, 7/x, 20-30.
_GOES_ON = re.compile(
    r"[0-9_(\[{^]|\.[0-9]|[:,] ?[0-9]"
    r"| ?[+^×÷]| ?\*\*? ?[0-9(]| ?\*[A-Za-z]| \* [A-Za-z]| ?[-−–] ?[0-9(]| ?x ?[0-9(]"
    r"| ?/ ?(?:[0-9(]|[A-Za-z](?![A-Za-z]))"
    r"| ?\\(?!text|mathrm|mbox|quad|qquad|%|\)|\]|,|;|!| |\$|\\)"
    r"|(?:pi|sqrt)(?![a-z])|(?![gmhslL])[A-Za-z](?![A-Za-z])"
)
# After a number that should be alone: a period, units in words, closing signs; no further figure on the line.
_UNITS_ONLY = re.compile(r"[^0-9\n=]{0,60}\s*")


def _whole(digits: str) -> int:
    return int(digits.replace(",", ""))


def leading_number(text: str, start: int = 0) -> Fraction | None:
    """The number with which ``text`` goes on at ``start``, or None.

    Read are: sign (also ``−``, and before or after a currency sign), thousands commas, decimals, ``a/b``, ``n a/b``,
    ``\\frac{a}{b}``, ``1.5e3`` and ``1.5 x 10^3``. A percent sign and units behind it are dropped (``20%`` is 20, as
    GSM8K's answers have it). A number that is only the beginning of an expression, a list, a range or a time
    (``3x+1``, ``3, 4``, ``20-30``, ``12:30``) is not an answer: None.
    """
    read = _read(text, start)
    return None if read is None else read[0]


def _read(text: str, start: int) -> tuple[Fraction, int] | None:
    """The number and where it ends."""
    lead = _LEAD.match(text, start)
    assert lead is not None  # it can match nothing
    at = lead.end()
    sign = _SIGN.match(text, at)
    assert sign is not None
    negative = (sign.group(1) in _MINUS if sign.group(1) else False) != bool(sign.group(2))
    at = sign.end()
    value: Fraction
    if text.startswith("\\", at):
        m = _LATEX_FRACTION.match(text, at)
        if m is None or not _whole(m.group(3)):
            return None
        value = Fraction(_whole(m.group(2)), _whole(m.group(3)))
        negative ^= bool(m.group(1))
    elif (m := _MIXED.match(text, at)) is not None:
        if not _whole(m.group(3)):
            return None
        value = _whole(m.group(1)) + Fraction(_whole(m.group(2)), _whole(m.group(3)))
    elif (m := _FRACTION.match(text, at)) is not None:
        if not _whole(m.group(2)):
            return None
        value = Fraction(_whole(m.group(1)), _whole(m.group(2)))
    elif (m := _DECIMAL.match(text, at)) is not None:
        whole, decimals, bare_decimals, *exponents = m.groups()
        value = Fraction(_whole(whole)) if whole else Fraction(0)
        tail = decimals or bare_decimals
        if tail:
            value += Fraction(int(tail[1:]), 10 ** (len(tail) - 1))
        exponent = int(next((e for e in exponents if e), "0"))
        if abs(exponent) > MAX_EXPONENT:
            return None
        value *= Fraction(10) ** exponent
    else:
        return None
    if _GOES_ON.match(text, m.end()):
        return None
    return (-value if negative else value), m.end()


def parse_number(text: str) -> Fraction | None:
    """The number that ``text`` is, with nothing but units, punctuation and blanks around it; else None.

    ``parse_number("$1,080.50 dollars.") == Fraction(2161, 2)``; ``parse_number("x = 5")`` and
    ``parse_number("5 or 6")`` are None.
    """
    if len(text) > 4 * MAX_DIGITS:
        return None
    text = text.strip()
    read = _read(text, 0)
    return read[0] if read is not None and _UNITS_ONLY.fullmatch(text, read[1]) else None


def canonical(value: Fraction) -> str:
    """One spelling for each number: an integer, else a decimal if it ends within 12 places, else ``a/b``."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**12
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(scaled.numerator)).rjust(13, "0")
    text = f"{digits[:-12]}.{digits[-12:].rstrip('0')}"
    return "-" + text if value < 0 else text
