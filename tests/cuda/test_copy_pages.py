"""Copy-on-write in the emulator against plain torch, for the GPU's page layout."""

from dataclasses import replace

import pytest
import torch

from rftfast.ops import copy_pages
from rftfast.ops.kv import FLOAT8, PAGE, KVPool

PAGES = 40
CASES = {
    "odd": [(0, 1, 1), (2, 3, 7), (4, 5, 15)],
    "no place and whole page": [(0, 1, 0), (2, 3, 16)],
    "none": [],
    "one source, many targets": [(0, t, 1 + t % 16) for t in range(1, 40)],
    "a target is the next source": [(t, t + 1, 16 - t % 3) for t in range(20)],
    "a target is a source eight copies later": [(t, t + 8, 13) for t in range(24)],
    "a source is overwritten later": [(0, 1, 9), (2, 0, 16), (3, 2, 16)],
    "a target twice": [(0, 5, 9), (1, 5, 4)],
    "the list ends early": [(0, 1, 9), (2, 3, 9), (-1, 0, 0), (4, 5, 9)],
    "the list ends at once": [(-1, 0, 0)] * 9,
}


def filled(kv_heads, head_dim, dtype):
    scales = torch.ones(2, kv_heads, 2) if dtype == FLOAT8 else None
    pool = KVPool.allocate(2, PAGES, kv_heads, head_dim, dtype, layout="rows", scales=scales)
    made = torch.randn(pool.data.shape, generator=torch.Generator().manual_seed(0))
    pool.raw.copy_(made.to(dtype).view(pool.raw.dtype))
    return pool


def after(pool, copies, backend):
    pool = replace(pool, data=pool.data.clone())
    backend(pool, 1, torch.tensor(copies, dtype=torch.int32).reshape(-1, 3))
    return pool.raw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FLOAT8], ids=["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("name", CASES)
def test_as_reference(on_emulator, dtype, name):
    pool = filled(3, 48 if dtype == FLOAT8 else 24, dtype)
    got, want = (after(pool, CASES[name], backend) for backend in (copy_pages.cuda, copy_pages.reference))
    assert torch.equal(got, want)
    assert torch.equal(got[0], pool.raw[0])  # the other layer
    live = [c for c in CASES[name] if c[0] >= 0]
    assert torch.equal(want, pool.raw) == (not live)


def test_random_lists(on_emulator):
    g = torch.Generator().manual_seed(7)
    pool = filled(2, 16, torch.bfloat16)
    for few in (6, PAGES):  # few pages: many chains
        for _ in range(5):
            pairs = [torch.randperm(few, generator=g)[:2].tolist() for _ in range(21)]
            copies = [(*p, int(torch.randint(PAGE + 1, (), generator=g))) for p in pairs]
            assert torch.equal(after(pool, copies, copy_pages.cuda), after(pool, copies, copy_pages.reference))


def test_only_the_gpus_layout(on_emulator):
    pool = KVPool.allocate(1, 2, 1, 16, torch.bfloat16)
    with pytest.raises(AssertionError):
        copy_pages.cuda(pool, 0, torch.zeros(1, 3, dtype=torch.int32))
