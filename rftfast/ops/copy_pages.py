"""The copy in copy-on-write: the first places of a page go to another page, within one layer."""

from __future__ import annotations

import torch

from rftfast.ops import native as _n
from rftfast.ops.kv import PAGE, KVPool, pair_width


def reference(pool: KVPool, layer: int, copies: torch.Tensor) -> None:
    """``copies`` [N, 3] int32 (source page, target page, places), made in order: a target may be a later source."""
    d, w = pool.head_dim, pair_width(pool.data.dtype)
    kv_heads = pool.data.shape[2]
    keys = pool.data[layer, :, :, 0].view(pool.pages, kv_heads, d // w, PAGE, w)
    values = pool.data[layer, :, :, 1].view(pool.pages, kv_heads, PAGE // w, d, w)
    for source, target, places in copies.tolist():
        keys[target, :, :, :places] = keys[source, :, :, :places]
        for place in range(places):
            values[target, :, place // w, :, place % w] = values[source, :, place // w, :, place % w]


def native(pool: KVPool, layer: int, copies: torch.Tensor) -> None:
    assert copies.dtype == torch.int32 and copies.is_contiguous() and copies.shape[1] == 3
    _n.load().copy_pages(
        pool.data[layer].data_ptr(),
        copies.data_ptr(),
        copies.shape[0],
        pool.data.shape[2],
        pool.head_dim,
        _n.DTYPE_CODES[pool.data.dtype],
    )
