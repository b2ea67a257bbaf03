"""Drawing one token for each request from its row of logits.

Definition, for a row x of V logits (finite or -inf) and temperature T:

- ``logprob`` = x[token] - logsumexp(x): of the model's own distribution, whatever the temperature and the filters.
- T = 0: token = argmax x.
- T > 0: s = x / T. Filters keep the tokens at or above a threshold on s, equals of the threshold included, in the order
  of transformers: top-k (the k-th largest s), top-p (the smallest set of highest values whose share of what top-k keeps
  reaches top_p, at least one token), min-p (max s + log min_p). token = argmax of s + g over the kept, g being the
  Gumbel noise of ``rftfast.ops.philox``: a draw from softmax(s) over the kept.
- The lowest id wins among equals. A row with NaN or +inf, or with nothing but -inf, gives token -1 and logprob NaN.

A result is a function of its row and its request alone. ``native`` and ``cuda`` compute s, the noise, the thresholds and
s + g to the same bits (``csrc/sampling.h``), so of the same logits they draw the same tokens; their logprobs agree to
about 1e-6, because exp and the order of its sum differ. ``reference`` is float64: it may differ from both where two
scores, or a value and a threshold, are equal to seven digits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rftfast.ops import cuda as _c
from rftfast.ops import native as _n
from rftfast.ops import philox


def kept(
    x: npt.NDArray[np.float64], temperature: float, top_k: int, top_p: float, min_p: float
) -> npt.NDArray[np.bool_]:
    """Which of the logits ``x`` [V] the filters keep at ``temperature`` > 0: bool [V]."""
    s = x / temperature
    keep = s > -np.inf
    if 0 < top_k < keep.sum():
        keep &= s >= np.sort(s)[-top_k]
    if top_p < 1:
        descending = np.sort(s[keep])[::-1]
        share = np.cumsum(np.exp(descending - descending[0]))
        last = np.searchsorted(share, top_p * share[-1])
        keep &= s >= descending[min(last, len(descending) - 1)]
    if min_p > 0:
        keep &= s >= s.max() + np.log(min_p)
    return keep


def _one(
    x: npt.NDArray[np.float64], noise: npt.NDArray[np.float32], t: float, top_k: int, top_p: float, min_p: float
) -> tuple[int, float]:
    top = x.max()
    if not np.isfinite(top):  # NaN is the maximum of a row that holds one
        return -1, np.nan
    if t == 0:
        token = int(np.argmax(x))
    else:
        token = int(np.argmax(np.where(kept(x, t, top_k, top_p, min_p), x / t + noise, -np.inf)))
    return token, x[token] - top - np.log(np.exp(x - top).sum())


def reference(
    logits: torch.Tensor,
    row: torch.Tensor,
    key: torch.Tensor,
    step: torch.Tensor,
    sample: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    stream: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws n tokens, in float64.

    Args:
        logits: [N, V], float32 or bfloat16, rows contiguous.
        row: int64 [n], which row of ``logits`` a request reads.
        key: int64 [n], the 64 bits of the sample's Philox key.
        step: int32 [n], number of the generated token, from 0.
        sample: int32 [n], sample index.
        temperature: float32 [n], 0 is greedy.
        top_k: int32 [n], 0 is off.
        top_p: float32 [n], 1 is off.
        min_p: float32 [n], 0 is off.
        stream: which of several independent draws at one step.

    Returns:
        token int64 [n] and logprob float32 [n] (natural logarithm).
    """
    n, vocab = len(row), logits.shape[1]
    tokens, logprobs = np.empty(n, np.int64), np.empty(n, np.float32)
    per_request = zip(*(t.tolist() for t in (row, key, step, sample, temperature, top_k, top_p, min_p)), strict=True)
    for i, (r, k, t, s, *options) in enumerate(per_request):
        noise = philox.gumbel(k % (1 << 64), t % (1 << 32), s % (1 << 32), stream, vocab)
        tokens[i], logprobs[i] = _one(logits[r].double().cpu().numpy(), noise, *options)
    return torch.from_numpy(tokens).to(logits.device), torch.from_numpy(logprobs).to(logits.device)


def native(
    logits: torch.Tensor,
    row: torch.Tensor,
    key: torch.Tensor,
    step: torch.Tensor,
    sample: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    stream: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``reference``, in C++ (``csrc/cpu/sampler.h``): s and s + g are float32 there."""
    _check(logits, torch.device("cpu"), (row, key), (step, sample, top_k), (temperature, top_p, min_p), stream)
    n = len(row)
    token, logprob = torch.empty(n, dtype=torch.int64), torch.empty(n, dtype=torch.float32)
    if n == 0:
        return token, logprob
    assert ((row >= 0) & (row < logits.shape[0])).all()
    _n.load().sample(
        logits.data_ptr(),
        logits.stride(0),
        logits.shape[1],
        _n.DTYPE_CODES[logits.dtype],
        n,
        row.data_ptr(),
        key.data_ptr(),
        step.data_ptr(),
        sample.data_ptr(),
        stream,
        temperature.data_ptr(),
        top_k.data_ptr(),
        top_p.data_ptr(),
        min_p.data_ptr(),
        token.data_ptr(),
        logprob.data_ptr(),
    )
    return token, logprob


def cuda(
    logits: torch.Tensor,
    row: torch.Tensor,
    key: torch.Tensor,
    step: torch.Tensor,
    sample: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    stream: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``native``, on a GPU (``csrc/cuda/sampler.cu``). All but ``stream`` is read when the kernel runs.

    A request whose ``row`` is not one of the rows of ``logits`` is none: token -1, logprob NaN (so a batch of fixed size
    can have empty places).
    """
    _check(logits, logits.device, (row, key), (step, sample, top_k), (temperature, top_p, min_p), stream)
    n, device = len(row), logits.device
    token = torch.empty(n, dtype=torch.int64, device=device)
    logprob = torch.empty(n, dtype=torch.float32, device=device)
    if n == 0:
        return token, logprob
    rows, vocab = logits.shape
    workspace = torch.empty(_c.load().sample_workspace(n, vocab), dtype=torch.uint8, device=device)
    inputs = (t.data_ptr() for t in (row, key, step, sample))
    options = (t.data_ptr() for t in (temperature, top_k, top_p, min_p))
    outputs = (t.data_ptr() for t in (token, logprob, workspace))
    of_logits = (logits.data_ptr(), logits.stride(0), rows, vocab, _c.DTYPE_CODES[logits.dtype])
    _c.call("sample", device, *of_logits, n, *inputs, stream, *options, *outputs)
    return token, logprob


def _check(
    logits: torch.Tensor,
    device: torch.device,
    int64: tuple[torch.Tensor, ...],
    int32: tuple[torch.Tensor, ...],
    float32: tuple[torch.Tensor, ...],
    stream: int,
) -> None:
    assert logits.dim() == 2 and logits.device == device
    assert logits.stride(1) == 1
    assert logits.shape[1] >= 1
    n = len(int64[0])
    for dtype, tensors in {torch.int64: int64, torch.int32: int32, torch.float32: float32}.items():
        for tensor in tensors:
            assert (tensor.dtype, tensor.shape, tensor.device) == (dtype, (n,), device)
            assert tensor.is_contiguous()
    assert 0 <= stream < 1 << 32


def native_noise(key: int, t: int, sample: int, stream: int, n_vocab: int) -> torch.Tensor:
    """The Gumbel noise float32 [n_vocab] that ``native`` draws with; arguments as ``philox.gumbel``."""
    out = torch.empty(n_vocab, dtype=torch.float32)
    _n.load().gumbel(key, t, sample, stream, n_vocab, out.data_ptr())
    return out


def native_weights(d: torch.Tensor) -> torch.Tensor:
    """What top-p adds up, float64 [n]: whole units of 2^-34 for scaled logits at distances ``d`` [n] <= 0 from the top."""
    out = torch.empty(len(d), dtype=torch.float64)
    _n.load().weights(d.data_ptr(), len(d), out.data_ptr())
    return out


def cuda_noise(key: int, t: int, sample: int, stream: int, n_vocab: int, device: torch.device) -> torch.Tensor:
    """As ``native_noise``, of ``cuda``."""
    out = torch.empty(n_vocab, dtype=torch.float32, device=device)
    _c.call("gumbel", device, key, t, sample, stream, n_vocab, out.data_ptr())
    return out
