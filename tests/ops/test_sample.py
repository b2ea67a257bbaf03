"""The sampler against its float64 reference and against the exact distribution, at every instruction set."""

import math

import numpy as np
import pytest
import torch

from rftfast.ops import native as native_ops
from rftfast.ops import philox, sample

if native_ops.available():
    pytest.skip(native_ops.available(), allow_module_level=True)

NATIVE = native_ops.load()
ISAS = NATIVE.isa_names()


@pytest.fixture(params=ISAS)
def isa(request):
    before = NATIVE.isa()
    NATIVE.set_isa(request.param)
    yield request.param
    NATIVE.set_isa(before)


def requests(n, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, row=0, key=99, step=3, index=None):
    """The arguments after ``logits``; numbers are repeated n times, sample indices count up."""

    def column(value, dtype):
        return torch.as_tensor(value, dtype=dtype).expand(n).contiguous()

    return (
        column(row, torch.int64),
        column(key, torch.int64),
        column(step, torch.int32),
        column(torch.arange(n) if index is None else index, torch.int32),
        column(temperature, torch.float32),
        column(top_k, torch.int32),
        column(top_p, torch.float32),
        column(min_p, torch.float32),
    )


def peaked(n, vocab, seed, dtype=torch.float32):
    """Rows like a language model's: a broad mass and, on most rows, a few tokens far above it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, (n, vocab)).astype(np.float32)
    for i in range(n):
        places = rng.integers(0, vocab, min(5, vocab))
        x[i, places] += rng.uniform(0, 25) * rng.uniform(0.5, 1, len(places))
    return torch.from_numpy(x).to(dtype)


def assert_as_reference(logits, args):
    """Tokens equal, or as good to 1e-5 and allowed by the filters; log-probabilities equal to 1e-5."""
    token, logprob = sample.native(logits, *args)
    want, want_logprob = sample.reference(logits, *args)
    same = token == want
    row, key, step, index, temperature, top_k, top_p, min_p = (a.tolist() for a in args)
    for i in (~same).nonzero().flatten().tolist():
        x = logits[row[i]].double().numpy()
        assert temperature[i] > 0, i
        assert token[i] >= 0, i
        score = x / temperature[i] + philox.gumbel(key[i] % 2**64, step[i], index[i], 0, len(x))
        assert sample.kept(x, temperature[i], top_k[i], top_p[i], min_p[i])[token[i]], i
        assert abs(score[token[i]] - score[want[i]]) < 1e-5, i
    torch.testing.assert_close(logprob[same], want_logprob[same], rtol=0, atol=1e-5, equal_nan=True)
    return token


def chi_square_is_plausible(counts, probabilities):
    """Pearson's statistic lies below the point that a right sampler passes once in 30,000 times."""
    n = counts.sum()
    order = np.argsort(-probabilities)
    counts, expected = counts[order], probabilities[order] * n
    big = int((expected >= 5).sum())
    if big < len(expected):  # pool the rare ones
        counts = np.append(counts[:big], counts[big:].sum())
        expected = np.append(expected[:big], expected[big:].sum())
    assert not counts[expected == 0].any()
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    if freedom == 0:
        return True
    statistic = ((counts - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)  # Wilson and Hilferty's cube-root approximation
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread) < 4


def exact(x, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    x = x.double().numpy()
    keep = sample.kept(x, temperature, top_k, top_p, min_p)
    p = np.where(keep, np.exp((x - x.max()) / temperature), 0)
    return p / p.sum()


OPTIONS = [
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 3.0},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.2, "top_k": 9, "top_p": 0.97, "min_p": 0.02},
]


def test_noise_has_the_same_bits_in_numpy_and_at_every_instruction_set(isa):
    for key, t, index, stream, n in (
        (0, 0, 0, 0, 1),
        (2**64 - 1, 2**32 - 1, 5, 1, 4099),
        (0xDEADBEEF12345678, 9, 7, 2, 300),
    ):
        got = sample.native_noise(key, t, index, stream, n).numpy()
        assert np.array_equal(got.view(np.uint32), philox.gumbel(key, t, index, stream, n).view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 5, 37, 64, 65, 1000, 5003])
def test_as_reference(isa, vocab, dtype):
    rng = np.random.default_rng(vocab)
    n, rows = 60, 8
    args = requests(
        n,
        row=rng.integers(0, rows, n),
        key=rng.integers(-(2**63), 2**63, n),
        step=rng.integers(0, 300, n),
        temperature=rng.choice(np.float32([0, 0.2, 0.7, 1, 2.5]), n),
        top_k=rng.choice([0, 0, 1, 2, 40, 700, 10**6], n),
        top_p=rng.choice(np.float32([1, 1, 1e-6, 0.5, 0.93, 0.9999]), n),
        min_p=rng.choice(np.float32([0, 0, 0.03, 1]), n),
    )
    assert_as_reference(peaked(rows, vocab, vocab, dtype), args)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 5.0])
def test_what_is_skipped_could_not_have_won(isa, temperature):
    logits = peaked(40, 20_011, 5, torch.bfloat16)
    tokens = assert_as_reference(logits, requests(40, row=np.arange(40), temperature=temperature))
    assert len(set(tokens.tolist())) > 20


def test_same_tokens_at_every_instruction_set():
    logits = peaked(200, 3001, 8)
    top_p = np.random.default_rng(8).choice(np.float32([1, 0.3, 0.8, 0.95, 0.999, 0.99999]), 200)
    args = requests(200, row=np.arange(200), temperature=1.3, top_k=np.arange(200) % 60, top_p=top_p, min_p=0.001)
    seen = []
    for name in ISAS:
        NATIVE.set_isa(name)
        seen.append(sample.native(logits, *args))
    NATIVE.set_isa(ISAS[0])
    for token, logprob in seen[1:]:
        assert torch.equal(token, seen[0][0])
        torch.testing.assert_close(logprob, seen[0][1], rtol=0, atol=2e-6)


def test_weights_are_whole_and_the_same_at_every_instruction_set(isa):
    """What top-p adds up: whole numbers of 2^-34, so that no sum depends on its order."""
    d = -torch.from_numpy(np.random.default_rng(0).exponential(8, 4001).astype(np.float32))
    d = torch.cat([d, torch.tensor([0.0, -8.3, -8.4, -math.inf, -25.0])])
    got = sample.native_weights(d)
    assert torch.equal(got, got.round())
    assert got[-1] == got[-2] == 0
    assert got[-5] == 2.0**34
    torch.testing.assert_close(got, torch.exp(d.double()) * 2**34, rtol=4e-6, atol=0.5)
    before = NATIVE.isa()
    NATIVE.set_isa(ISAS[-1])
    assert torch.equal(got, sample.native_weights(d))
    NATIVE.set_isa(before)


@pytest.mark.parametrize("spread", [0.01, 4, 12])
def test_top_p_counts_each_tokens_weight(isa, spread):
    """The threshold is where the exact sum of whole weights reaches the share, however flat or steep the row is."""
    rng = np.random.default_rng(int(spread * 10))
    x = rng.normal(0, spread, 9000).astype(np.float32)
    s = np.sort(x)[::-1]
    weights = sample.native_weights(torch.from_numpy(s - s[0])).numpy()
    for p in np.float32([1e-6, 0.2, 0.5, 0.9, 0.99, 0.9999]):
        threshold = s[np.searchsorted(np.cumsum(weights), float(p) * weights.sum())]
        token, _ = sample.native(torch.from_numpy(x)[None], *requests(60, top_p=float(p)))
        best = [
            int(np.argmax(np.where(x >= threshold, x + philox.gumbel(99, 3, i, 0, len(x)), -np.inf))) for i in range(60)
        ]
        assert token.tolist() == best


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_frequencies_follow_the_exact_distribution(isa, options):
    x = torch.from_numpy(np.random.default_rng(1).normal(0, 1.5, 37).astype(np.float32))
    token, logprob = sample.native(x[None], *requests(20_000, **options))
    assert chi_square_is_plausible(np.bincount(token, minlength=37), exact(x, **options))
    torch.testing.assert_close(logprob, torch.log_softmax(x.double(), -1).float()[token], rtol=0, atol=1e-5)


def test_frequencies_over_a_large_vocabulary():
    x = peaked(1, 5000, 3)[0] / 2
    for options in ({"temperature": 1.0}, {"temperature": 2.0, "top_p": 0.9}, {"temperature": 3.0, "top_k": 900}):
        token, _ = sample.native(x[None], *requests(20_000, **options))
        p = exact(x, **options)
        bins = np.argsort(np.argsort(-p)) % 50  # likely and unlikely tokens in each
        counts = np.bincount(bins[token], minlength=50)
        assert chi_square_is_plausible(counts, np.bincount(bins, weights=p))


def test_chi_square_would_notice_a_wrong_sampler():
    p = np.full(37, 1 / 37)
    q = p * np.where(np.arange(37) % 2, 1.08, 0.92)
    counts = np.random.default_rng(0).multinomial(20_000, q / q.sum())
    assert not chi_square_is_plausible(counts, p)


def test_steps_streams_and_keys_draw_independently(isa):
    x = torch.zeros(1, 8)
    by_step, _ = sample.native(x, *requests(20_000, step=np.arange(20_000), index=0))
    by_key, _ = sample.native(x, *requests(20_000, key=np.arange(20_000), index=0))
    first, _ = sample.native(x, *requests(20_000), stream=0)
    second, _ = sample.native(x, *requests(20_000), stream=1)
    for tokens in (by_step, by_key, first):
        assert chi_square_is_plausible(np.bincount(tokens, minlength=8), np.full(8, 1 / 8))
    pairs = np.bincount(first * 8 + second, minlength=64)
    assert chi_square_is_plausible(pairs, np.full(64, 1 / 64))


def test_greedy_takes_the_lowest_of_equals(isa):
    x = torch.zeros(3, 200)
    x[1, 130] = x[1, 70] = 2
    x[2, 199] = 1
    token, logprob = sample.native(x, *requests(3, row=[0, 1, 2], temperature=0.0))
    assert token.tolist() == [0, 70, 199]
    assert logprob.tolist() == pytest.approx(
        [-math.log(200), 2 - math.log(198 + 2 * math.e**2), 1 - math.log(199 + math.e)]
    )


def test_a_vanishing_temperature_is_greedy(isa):
    x = peaked(4, 300, 2)
    x[3] = -x[3].abs() - 1  # nothing above 0
    for temperature in (1e-6, 1e-30, 1e-38, 1e-45):
        token, _ = sample.native(x, *requests(4, row=np.arange(4), temperature=temperature))
        assert torch.equal(token, x.argmax(-1))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}], ids=str)
def test_equals_at_the_border_are_all_kept(isa, options):
    x = torch.full((1, 100), -1.0)
    best = [3, 64, 99]
    x[0, best] = 1.0
    token, _ = sample.native(x, *requests(6000, **options))
    counts = np.bincount(token, minlength=100)
    assert counts.sum() == counts[best].sum()
    assert chi_square_is_plausible(counts[best], np.full(3, 1 / 3))


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 50}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.01}, {"top_k": 5, "top_p": 0.5}], ids=str
)
def test_masked_tokens_are_never_drawn(isa, options):
    x = peaked(1, 333, 4)
    allowed = [0, 5, 6, 63, 64, 200, 332]
    for mask in (-math.inf, torch.finfo(torch.float32).min):
        masked = torch.full_like(x, mask)
        masked[0, allowed] = x[0, allowed] / 10
        args = requests(2000, temperature=0.8, **options)
        token = assert_as_reference(masked, args) if mask == -math.inf else sample.native(masked, *args)[0]
        assert set(token.tolist()) <= set(allowed)
        if not options:
            assert set(token.tolist()) == set(allowed)


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 64, 128, 129])
def test_a_row_that_is_no_distribution_gives_no_token(isa, bad, place):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(2, 130, dtype=dtype)
        x[0, 40] = 50
        x[0, place] = bad
        n = len(OPTIONS) + 1
        columns = {
            k: [0.0 if k == "temperature" else d] + [o.get(k, d) for o in OPTIONS]
            for k, d in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0), ("min_p", 0.0))
        }
        token, logprob = sample.native(x, *requests(n, **columns))
        assert (token == -1).all()
        assert logprob.isnan().all()
        assert (sample.reference(x, *requests(n, **columns))[0] == -1).all()
        assert (sample.native(x, *requests(n, row=1, **columns))[0] >= 0).all()  # its neighbour is well


def test_nothing_but_minus_infinity_gives_no_token(isa):
    x = torch.full((1, 70), -math.inf)
    for options in ({"temperature": 0.0}, *OPTIONS):
        token, logprob = sample.native(x, *requests(1, **options))
        assert token.item() == -1
        assert logprob.isnan().all()


def test_a_result_depends_on_its_own_row_and_request_alone(isa):
    n, rows, vocab = 120, 10, 777
    rng = np.random.default_rng(6)
    logits = peaked(rows, vocab, 6, torch.bfloat16)
    args = requests(
        n,
        row=rng.integers(0, rows, n),
        temperature=rng.choice(np.float32([0, 0.7, 1.5]), n),
        top_k=rng.choice([0, 30, 500], n),
        top_p=rng.choice(np.float32([1, 0.9]), n),
    )
    token, logprob = sample.native(logits, *args)
    order = torch.from_numpy(rng.permutation(n))
    wide = torch.full((2 * rows, vocab + 19), 7.0, dtype=logits.dtype)  # other places, other neighbours
    wide[rows:, :vocab] = logits
    moved = [a[order] for a in args]
    moved[0] = moved[0] + rows
    for part in (slice(0, 1), slice(1, 50), slice(50, n)):
        t, p = sample.native(wide[:, :vocab], *(a[part].contiguous() for a in moved))
        assert torch.equal(t, token[order][part])
        assert torch.equal(p, logprob[order][part])
    threads = NATIVE.threads()
    NATIVE.set_threads(1)
    alone = sample.native(logits, *args)
    NATIVE.set_threads(threads)
    assert torch.equal(alone[0], token)
    assert torch.equal(alone[1], logprob)


def test_log_probability_over_a_flat_vocabulary(isa):
    x = torch.linspace(-1e-3, 1e-3, 151_936)[None]
    token, logprob = sample.native(x, *requests(3, temperature=[0.0, 1.0, 9.0], top_p=[1.0, 1.0, 0.999]))
    want = torch.log_softmax(x.double(), -1)[0, token].float()
    torch.testing.assert_close(logprob, want, rtol=0, atol=2e-6)


def test_filters_keep_what_transformers_keeps():
    process = pytest.importorskip("transformers.generation.logits_process", reason="transformers is not installed")
    rng = np.random.default_rng(0)
    for trial in range(40):
        x = rng.normal(0, 2, 500)
        t, k, p, m = (
            rng.choice([0.7, 1, 2]),
            int(rng.choice([0, 7, 100])),
            rng.choice([1, 0.6, 0.95]),
            rng.choice([0, 0.02, 0.3]),
        )
        scores = torch.from_numpy(x)[None] / t
        if k:
            scores = process.TopKLogitsWarper(k)(None, scores)
        if p < 1:
            scores = process.TopPLogitsWarper(p)(None, scores)
        if m:
            scores = process.MinPLogitsWarper(m)(None, scores)
        assert np.array_equal(scores[0].isfinite().numpy(), sample.kept(x, t, k, p, m)), (trial, t, k, p, m)


def test_wrong_shapes_and_types_are_refused():
    x = torch.zeros(2, 10)
    good = requests(3)
    sample.native(x, *good)
    for position, wrong in (
        (0, good[0].int()),
        (1, good[1][:2]),
        (4, good[4].double()),
        (0, good[0] + 2),
        (0, good[0] - 1),
    ):
        bad = list(good)
        bad[position] = wrong
        with pytest.raises(AssertionError):
            sample.native(x, *bad)
    with pytest.raises(AssertionError):
        sample.native(x.t(), *good)
    token, logprob = sample.native(x, *requests(0))
    assert token.shape == logprob.shape == (0,)
