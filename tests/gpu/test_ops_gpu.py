"""The operations on a real GPU: against the CPU's bits, against float64, again and again, and inside a CUDA graph.

The Triton kernels' own tests (``tests/kernels``) run on the GPU too where there is one.
"""

import numpy as np
import pytest
import torch

from rftfast.ops import copy_pages, cuda, philox, sample, select, stops
from rftfast.ops import native as native_ops
from rftfast.ops.kv import PAGE, KVPool
from tests.ops.sampler_inputs import LOGPROB, peaked, requests

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
if cuda.available():
    pytest.skip(str(cuda.available()), allow_module_level=True)

GPU = torch.device("cuda", torch.cuda.current_device())
needs_native = pytest.mark.skipif(native_ops.available() is not None, reason=str(native_ops.available()))


def on_gpu(tensors):
    return [t.to(GPU) for t in tensors]


def test_noise_has_the_cpus_bits():
    for key, t, index, stream, n in (
        (0, 0, 0, 0, 1),
        (2**64 - 1, 2**32 - 1, 5, 1, 4099),
        (0xDEADBEEF12345678, 9, 7, 2, 10**6),
    ):
        got = sample.cuda_noise(key, t, index, stream, n, GPU).cpu().numpy()
        assert np.array_equal(got.view(np.uint32), philox.gumbel(key, t, index, stream, n).view(np.uint32))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [1, 37, 65, 5003, 8192, 8200, 32_001, 49_152, 128_256, 151_936])
def test_the_cpus_tokens(vocab, dtype):
    rng = np.random.default_rng(vocab)
    rows, n = 24, 200
    x = peaked(rng, rows, vocab)
    x[0], x[1] = 0, np.round(x[1])
    x[2, rng.random(vocab) < 0.7] = -np.inf
    x[3, rng.integers(vocab)] = np.nan
    x[4] = -np.inf
    x[5, rng.integers(vocab)] = np.inf
    x[6] *= 1e30
    logits = torch.from_numpy(x).to(dtype)
    args = requests(rng, n, rows)
    want, want_logprob = sample.native(logits, *args, stream=7)
    token, logprob = sample.cuda(logits.to(GPU), *on_gpu(args), stream=7)
    assert torch.equal(token.cpu(), want), (token.cpu() != want).nonzero().flatten().tolist()
    torch.testing.assert_close(logprob.cpu(), want_logprob, rtol=0, atol=LOGPROB, equal_nan=True)


@pytest.mark.parametrize("filters", [{"top_k": 0, "top_p": 1.0, "min_p": 0.0}, {}], ids=["plain", "filtered"])
def test_again_and_again(filters):
    """A race would show as a run that differs: 20 runs, in batches of many sizes, to the bit."""
    rng = np.random.default_rng(1)
    rows, vocab, n = 512, 49_152, 1024
    logits = torch.from_numpy(peaked(rng, rows, vocab)).to(torch.bfloat16).to(GPU)
    args = on_gpu(requests(rng, n, rows, **filters))
    token, logprob = sample.cuda(logits, *args)
    for trial in range(20):
        order = (
            torch.from_numpy(rng.permutation(n)[: int(rng.integers(1, n + 1))]).to(GPU) if trial % 2 else slice(0, n)
        )
        t, p = sample.cuda(logits, *(a[order].contiguous() for a in args))
        assert torch.equal(t, token[order]), trial
        assert torch.equal(p, logprob[order]), trial


@needs_native
def test_inside_a_graph():
    """Captured once; counters, parameters and empty places change in device memory between replays."""
    rng = np.random.default_rng(2)
    rows, vocab = 64, 5003
    logits = torch.from_numpy(peaked(rng, rows, vocab)).to(torch.bfloat16)
    args = requests(rng, rows, rows, row=np.arange(rows), step=0)
    held, x = on_gpu(args), logits.to(GPU)
    tables = torch.from_numpy(rng.integers(0, 4, (2, vocab), dtype=np.uint8)).to(GPU)
    limit = torch.full((rows,), 3, dtype=torch.int32, device=GPU)
    table = torch.arange(rows, dtype=torch.int32, device=GPU) % 2
    flags = torch.zeros(rows, dtype=torch.uint8, device=GPU)

    def step():
        token, logprob = sample.cuda(x, *held)
        stops.cuda(token, held[2], limit, tables, table, flags)
        return token, logprob

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    held[2].zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token, _ = step()
    held[2].zero_()
    for t in range(4):
        if t == 2:  # others take some of the places, and one is empty
            args[1][5:9], args[4][7], args[0][11] = 99, 0.0, -1
            for now, then in zip(held, args, strict=True):
                if now is not held[2]:
                    now.copy_(then)
        before = held[2].clone()
        graph.replay()
        there = args[0] >= 0
        args[2].copy_(before.cpu())
        want, _ = sample.native(logits, *(a[there] for a in args))
        assert torch.equal(token.cpu()[there], want), t
        assert (token.cpu()[~there] == -1).all()
        has = (token >= 0).to(torch.int32)
        assert torch.equal(held[2], before + has)
        want_flags = torch.zeros_like(flags)
        stops.reference(token, before, limit, tables, table, want_flags)
        assert torch.equal(flags, want_flags)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pages_are_copied_in_order(dtype):
    rng = np.random.default_rng(3)
    pages = 400
    for few, n in ((400, 100), (6, 50), (400, 0)):
        pool = KVPool.allocate(2, pages, 8, 64, dtype, GPU)
        pool.data.copy_(torch.randn(pool.data.shape))
        pairs = [rng.permutation(few)[:2].tolist() for _ in range(n)]
        copies = torch.tensor([(*p, int(rng.integers(PAGE + 1))) for p in pairs], dtype=torch.int32).reshape(-1, 3)
        copies = torch.cat([copies, torch.tensor([[-1, 0, 0], [0, 1, 16]], dtype=torch.int32)])
        want = KVPool(pool.data.clone(), 64, pool.layout)
        copy_pages.reference(want, 1, copies)
        copy_pages.cuda(pool, 1, copies.to(GPU))
        assert torch.equal(pool.data, want.data)


def test_auto_takes_them():
    backends = select(GPU, head_dim=64).backends
    assert {backends[op][0] for op in ("sample", "check_stops", "copy_pages")} == {"cuda"}
    if cuda.triton_available() is None:
        assert {backends[op][0] for op in ("attention", "rms_norm", "rope_write_kv", "swiglu")} == {"triton"}


def test_an_error_of_a_launch_is_raised():
    with pytest.raises(RuntimeError, match="copy_pages"):
        cuda.load().copy_pages(10_000, 0, 0, 0, 1, 1, 16, 2)  # there is no such device
