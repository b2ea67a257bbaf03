"""The GPU's sampler in the emulator: the CPU's tokens to the bit, its log-probabilities to rounding."""

import ctypes
import math

import numpy as np
import pytest
import torch

from rftfast.ops import native as native_ops
from rftfast.ops import philox, sample
from tests.ops.sampler_inputs import LOGPROB, peaked, requests

if native_ops.available():
    pytest.skip(native_ops.available(), allow_module_level=True)

SLICE = 8192  # tokens a block takes: sampler.cu


def assert_as_native(logits, args, stream=0):
    want, want_logprob = sample.native(logits, *args, stream=stream)
    token, logprob = sample.cuda(logits, *args, stream=stream)
    assert torch.equal(token, want), (token != want).nonzero().flatten().tolist()
    torch.testing.assert_close(logprob, want_logprob, rtol=0, atol=LOGPROB, equal_nan=True)
    return token, logprob


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("vocab", [1, 5, 37, 64, 65, 1000, 5003, SLICE, SLICE + 8, 20_011])
def test_the_cpus_tokens(on_emulator, vocab, dtype):
    rng = np.random.default_rng(vocab)
    rows = 6
    logits = torch.from_numpy(peaked(rng, rows, vocab)).to(dtype)
    token, _ = assert_as_native(logits, requests(rng, 24, rows), stream=7)
    assert (token >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_rows_that_are_awkward(on_emulator, dtype):
    rng = np.random.default_rng(3)
    vocab = SLICE + 300
    x = peaked(rng, 12, vocab)
    x[0] = 0  # all equal
    x[1] = np.round(x[1])  # many equal, -0 and 0 among them
    x[2, rng.random(vocab) < 0.7] = -np.inf
    x[3] = -np.inf
    x[4, SLICE + 5] = np.nan  # alone in its slice's part of the row
    x[5, :] = -np.inf
    x[5, 17] = np.nan
    x[6, SLICE + 299] = np.inf
    x[7] *= 1e30  # scaled logits overflow, some upwards and some downwards
    x[8] = -3e38
    x[9, :SLICE] = -np.inf  # a whole slice masked
    x[10] = np.finfo(np.float32).min
    x[10, [3, SLICE + 200]] = 1
    x[11] = rng.choice(np.float32([0.0, -0.0]), vocab)
    logits = torch.from_numpy(x).to(dtype)
    n = 72
    token, logprob = assert_as_native(logits, requests(rng, n, 12, row=np.arange(n) % 12))
    for r in (3, 4, 5, 6):
        assert (token[r::12] == -1).all()
        assert logprob[r::12].isnan().all()


def test_greedy_takes_the_lowest_of_equals_across_slices(on_emulator):
    x = torch.zeros(3, 2 * SLICE)
    x[1, [SLICE + 70, SLICE + 30, 2 * SLICE - 1]] = 2
    x[2, -1] = 1
    rng = np.random.default_rng(0)
    args = requests(rng, 3, 3, row=[0, 1, 2], temperature=0.0)
    token, logprob = sample.cuda(x, *args)
    assert token.tolist() == [0, SLICE + 30, 2 * SLICE - 1]
    assert logprob[0].item() == pytest.approx(-math.log(2 * SLICE), abs=1e-6)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}], ids=str)
def test_equals_at_the_border_are_all_kept(on_emulator, options):
    """The border of each filter runs through a value that several tokens have."""
    x = torch.full((1, 300), -1.0)
    best = [3, 64, 299]
    x[0, best] = 1.0
    fixed = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 0.8} | options
    token, _ = assert_as_native(x, requests(np.random.default_rng(1), 40, 1, **fixed))
    assert set(token.tolist()) == set(best)


def test_shares_at_the_very_border(on_emulator):
    """top_p equal to the share that the first j tokens have exactly: one unit more or less moves the threshold."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.normal(0, 2, 400).astype(np.float32))[::-1].copy()
    weights = sample.native_weights(torch.from_numpy(x - x[0])).numpy()
    share = (np.cumsum(weights) / weights.sum()).astype(np.float32)
    logits = torch.from_numpy(x)[None]
    nearby = [np.nextafter(share[j], side, dtype=np.float32) for j in range(0, 60, 3) for side in (0, share[j], 1)]
    fixed = {"temperature": 1.0, "top_k": 0, "min_p": 0.0, "top_p": nearby}
    assert_as_native(logits, requests(rng, len(nearby), 1, **fixed))


def test_a_result_depends_on_its_own_row_and_request_alone(on_emulator):
    rng = np.random.default_rng(6)
    rows, vocab, n = 5, SLICE + 777, 20
    logits = torch.from_numpy(peaked(rng, rows, vocab)).to(torch.bfloat16)
    args = requests(rng, n, rows)
    token, logprob = sample.cuda(logits, *args)
    order = torch.from_numpy(rng.permutation(n))
    wide = torch.full((2 * rows, vocab + 19), 7.0, dtype=logits.dtype)  # other places, not aligned, other neighbours
    wide[rows:, :vocab] = logits
    moved = [a[order] for a in args]
    moved[0] = moved[0] + rows
    for part in (slice(0, 1), slice(1, 8), slice(8, n)):
        t, p = sample.cuda(wide[:, :vocab], *(a[part].contiguous() for a in moved))
        assert torch.equal(t, token[order][part])
        assert torch.equal(p, logprob[order][part])  # to the bit: slices are cut and added up by the vocabulary alone


def test_empty_places_of_a_batch(on_emulator):
    rng = np.random.default_rng(2)
    logits = torch.from_numpy(peaked(rng, 3, 100))
    args = requests(rng, 6, 3, row=[-1, 0, 3, 1, 2**40, 2])
    token, logprob = sample.cuda(logits, *args)
    there = torch.tensor([1, 3, 5])
    want, _ = sample.native(logits, *(a[there] for a in args))
    assert torch.equal(token[there], want)
    gone = torch.tensor([0, 2, 4])
    assert (token[gone] == -1).all()
    assert logprob[gone].isnan().all()
    assert sample.cuda(logits, *(a[:0] for a in args))[0].shape == (0,)


def test_log_probability_over_a_flat_vocabulary(on_emulator):
    x = torch.linspace(-1e-3, 1e-3, 151_936)[None]
    rng = np.random.default_rng(0)
    token, logprob = assert_as_native(
        x, requests(rng, 3, 1, temperature=[0.0, 1.0, 9.0], top_p=[1.0, 1.0, 0.999], top_k=0, min_p=0.0)
    )
    torch.testing.assert_close(logprob, torch.log_softmax(x.double(), -1)[0, token].float(), rtol=0, atol=LOGPROB)


def test_noise_has_the_cpus_bits(on_emulator):
    for key, t, index, stream, n in (
        (0, 0, 0, 0, 1),
        (2**64 - 1, 2**32 - 1, 5, 1, 4099),
        (0xDEADBEEF12345678, 9, 7, 2, 300),
    ):
        got = sample.cuda_noise(key, t, index, stream, n, torch.device("cpu")).numpy()
        assert np.array_equal(got.view(np.uint32), philox.gumbel(key, t, index, stream, n).view(np.uint32))


def test_weights_have_the_cpus_bits(on_emulator):
    d = -torch.from_numpy(np.random.default_rng(0).exponential(8, 20_000).astype(np.float32))
    d = torch.cat([d, torch.tensor([0.0, -0.0, -math.inf, -1e30, -24.2, -24.3, -25.0])])
    out = torch.empty(len(d), dtype=torch.float64)
    on_emulator.library.scalar_weights(ctypes.c_void_p(d.data_ptr()), len(d), ctypes.c_void_p(out.data_ptr()))
    assert torch.equal(out, sample.native_weights(d))
    assert out[-7:].tolist() == [2.0**34, 2.0**34, 0, 0, 1, 0, 0]  # from -25 on, where the passes stop, nothing
    torch.testing.assert_close(out, torch.exp(d.double()) * 2**34, rtol=4e-6, atol=0.5)


def test_wrong_shapes_and_types_are_refused(on_emulator):
    x, good = torch.zeros(2, 10), requests(np.random.default_rng(0), 3, 2)
    sample.cuda(x, *good)
    for position, wrong in ((0, good[0].int()), (1, good[1][:2]), (4, good[4].double())):
        bad = list(good)
        bad[position] = wrong
        with pytest.raises(AssertionError):
            sample.cuda(x, *bad)
    with pytest.raises(AssertionError):
        sample.cuda(x.t(), *good)
