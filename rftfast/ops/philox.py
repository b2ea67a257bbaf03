"""The noise of a sample, in numpy: the same bits as ``csrc/philox.h``.

Philox4x32-10 after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The float32 steps are
additions and multiplications each rounded to nearest, in the order of the C++ source, so that every backend agrees
to the last bit. Whoever changes one of the two changes every sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_U32 = np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

_LOG1P = tuple(
    np.float32(c)
    for c in (
        -7.868663222e-02,
        1.288073063e-01,
        -1.312469095e-01,
        1.418111920e-01,
        -1.662500799e-01,
        2.000230104e-01,
        -2.500079572e-01,
        3.333331645e-01,
    )
)
_LN2_LO, _LN2_HI = np.float32(1.428606820e-06), np.float32(6.931457520e-01)
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)


def philox4x32(counter: npt.NDArray[np.uint32], key: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of counters ``uint32[..., 4]`` under a 64-bit key (low word first): ``uint32[..., 4]``."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c2 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _U32, p0 & _U32
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(key: int, t: int, sample: int, stream: int, n: int) -> npt.NDArray[np.uint32]:
    """The random words ``uint32[n]`` of tokens 0..n-1: word i % 4 of counter (i // 4, t, sample, stream)."""
    counter = np.empty((-(-n // 4), 4), np.uint32)
    counter[:, 0] = np.arange(len(counter), dtype=np.uint32)
    counter[:, 1:] = (t, sample, stream)
    return philox4x32(counter, key).reshape(-1)[:n]


def _log_split(k: npt.NDArray[np.int32], f: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """log(2^k (1 + f))."""
    f2, kf = f * f, k.astype(np.float32)
    p = np.full_like(f, _LOG1P[0])
    for c in _LOG1P[1:]:
        p = p * f + c
    r = p * f * f2
    r = r + kf * _LN2_LO
    r = r + f2 * -_HALF
    r = r + f
    return r + kf * _LN2_HI


def _split(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Positive normal x as (k, f) with x = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2))."""
    bits = x.view(np.int32)
    k = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    return k, (bits - (k << np.int32(23))).view(np.float32) - _ONE


def gumbel_of_words(u: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Gumbel noise -log(-log1p(-v)), v = (u + 1/2) / 2^32, of words ``uint32[n]``: ``float32[n]``."""
    upper = (u >> np.uint32(31)) != 0
    nearer = np.where(upper, ~u, u).astype(np.int32)
    # The distance of v from its nearer end, 0 or 1, so that neither end is lost to rounding.
    x = (nearer.astype(np.float32) + _HALF) * np.float32(2.3283064365386963e-10)
    k_upper, f_upper = _split(x)
    past = x > np.float32(0.292893229)
    k = np.where(upper, k_upper, np.where(past, np.int32(-1), np.int32(0)))
    f = np.where(upper, f_upper, np.where(past, _ONE - _TWO * x, -x))
    return -_log_split(*_split(-_log_split(k, f)))


def gumbel(key: int, t: int, sample: int, stream: int, n_vocab: int) -> npt.NDArray[np.float32]:
    """Gumbel noise ``float32[n_vocab]`` of every token.

    Args:
        key: 64 bits, see ``rftfast.engine.rng.sample_key``.
        t: number of the generated token, from 0; 32 bits.
        sample: sample index of the question; 32 bits.
        stream: which of several independent draws at the same step; 32 bits.
        n_vocab: number of tokens.
    """
    return gumbel_of_words(words(key, t, sample, stream, n_vocab))
