"""From a sample's name to its random key.

A sample is named (run seed, question id, sample index). Its t-th token is drawn with Gumbel noise from Philox4x32-10
(``rftfast.ops.philox``) under key ``sample_key(run_seed, question_id)`` and counter (vocabulary block, t, sample index,
stream): nothing else has a say, neither batch nor order nor machine. Imports no torch.
"""

from __future__ import annotations

import hashlib

__all__ = ["sample_key", "signed64"]


def sample_key(run_seed: int, question_id: str) -> int:
    """The Philox key of a question: an integer in [0, 2^64).

    It is BLAKE2b with 8 bytes of digest, read as a little-endian integer, over the decimal digits of the seed (with
    "-" before a negative one), one zero byte, and the UTF-8 bytes of the question id. Digits hold no zero byte, so no
    two names share an encoding. A lone surrogate, which a JSON file may hold, is encoded like any other code point.
    """
    name = b"%d\0" % run_seed + question_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def signed64(key: int) -> int:
    """The key's 64 bits as a signed integer, which is how an int64 tensor holds it."""
    assert 0 <= key < 1 << 64, key
    return key - (1 << 64) if key >> 63 else key
