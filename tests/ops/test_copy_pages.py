"""Copy-on-write: the first places of a page, and nothing else, to the bit."""

import pytest
import torch

from rftfast.ops import copy_pages
from rftfast.ops.kv import PAGE, KVPool

PAGES = 12


def filled(kv_heads, head_dim, dtype, seed=0):
    pool = KVPool.allocate(2, PAGES, kv_heads, head_dim, dtype)
    pool.data.copy_(torch.randn(pool.data.shape, generator=torch.Generator().manual_seed(seed)))
    return pool


def after(pool, copies, backend):
    pool = KVPool(pool.data.clone(), pool.head_dim)
    backend(pool, 1, torch.tensor(copies, dtype=torch.int32).reshape(-1, 3))
    return pool


def by_token(pool, copies):
    """What the pages must hold, from the unpacked keys and values [pages, 16, K, D]."""
    planes = [
        t.reshape(PAGES, PAGE, *t.shape[1:]).clone() for t in pool.keys_values(1, torch.arange(PAGES), PAGES * PAGE)
    ]
    for source, target, places in copies:
        if source < 0:
            break
        for plane in planes:
            plane[target, :places] = plane[source, :places]
    return [plane.flatten(0, 1) for plane in planes]


CASES = {
    "odd": [(0, 1, 1), (2, 3, 7), (4, 5, 15)],
    "even": [(0, 1, 2), (2, 3, 8), (4, 5, 14)],
    "whole page": [(0, 1, 16)],
    "no place": [(0, 1, 0)],
    "none": [],
    "one source, many targets": [(0, t, t) for t in range(1, 12)],
    "a target is the next source": [(0, 1, 13), (1, 2, 9), (2, 3, 5), (3, 4, 1)],
    "chain that carries what was there before": [(0, 1, 3), (1, 2, 11), (2, 0, 6)],
    "a target twice": [(0, 5, 9), (1, 5, 4)],
    "the list ends early": [(0, 1, 9), (-1, 0, 0), (4, 5, 9)],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(1, 16), (3, 64), (2, 80)], ids=str)
def test_both_backends_copy_by_token(isa, dtype, name, shape):
    pool = filled(*shape, dtype)
    copies = CASES[name]
    native, reference = (after(pool, copies, backend) for backend in (copy_pages.native, copy_pages.reference))
    assert torch.equal(native.data, reference.data)
    assert torch.equal(native.data[0], pool.data[0])  # the other layer
    for got, want in zip(native.keys_values(1, torch.arange(PAGES), PAGES * PAGE), by_token(pool, copies), strict=True):
        assert torch.equal(got, want)


def test_random_lists(isa, dtype):
    generator = torch.Generator().manual_seed(7)
    for seed in range(10):
        pool = filled(2, 96, dtype, seed)
        copies = []
        for _ in range(12):
            source, target = torch.randperm(PAGES, generator=generator)[:2].tolist()
            copies.append((source, target, int(torch.randint(PAGE + 1, (), generator=generator))))
        assert torch.equal(after(pool, copies, copy_pages.native).data, after(pool, copies, copy_pages.reference).data)
