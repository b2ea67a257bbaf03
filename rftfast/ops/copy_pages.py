"""The copy in copy-on-write: the first places of a page go to another page, within one layer."""

from __future__ import annotations

import torch

from rftfast.ops import cuda as _c
from rftfast.ops import native as _n
from rftfast.ops.kv import KVPool


def reference(pool: KVPool, layer: int, copies: torch.Tensor) -> None:
    """``copies`` [N, 3] int32 (source page, target page, places), made in order: a target may be a later source.

    A negative source ends the list before its end, so that a list of fixed size can hold fewer copies.
    """
    keys, values = pool.planes(layer)
    b = pool.value_width
    for source, target, places in copies.tolist():
        if source < 0:
            break
        keys[target, :, :, :places] = keys[source, :, :, :places]
        for place in range(places):
            values[target, :, place // b, :, place % b] = values[source, :, place // b, :, place % b]


def native(pool: KVPool, layer: int, copies: torch.Tensor) -> None:
    assert pool.layout == "pairs"
    assert copies.dtype == torch.int32 and copies.is_contiguous() and copies.shape[1] == 3
    _n.load().copy_pages(
        pool.data[layer].data_ptr(),
        copies.data_ptr(),
        copies.shape[0],
        pool.data.shape[2],
        pool.head_dim,
        _n.DTYPE_CODES[pool.data.dtype],
    )


def cuda(pool: KVPool, layer: int, copies: torch.Tensor) -> None:
    """As ``reference``, for layout "rows" (``csrc/cuda/copy_pages.cu``)."""
    assert pool.layout == "rows"
    assert copies.dtype == torch.int32 and copies.is_contiguous() and copies.shape[1] == 3
    assert copies.device == pool.data.device
    bytes_each = pool.data.element_size()
    assert pool.head_dim * bytes_each % 16 == 0, "a token's channels must be whole 16-byte words"
    pages, kv_heads = pool.data[layer], pool.data.shape[2]
    _c.call(
        "copy_pages",
        copies.device,
        pages.data_ptr(),
        copies.data_ptr(),
        copies.shape[0],
        kv_heads,
        pool.head_dim,
        bytes_each,
    )
