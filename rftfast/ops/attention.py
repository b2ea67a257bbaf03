"""Attention of a step's rows over the tree of KV pages.

The work is given as a plan (built in ``rftfast.engine.plan``): rows stand in depth-first order of the tree; *tiles* are
runs of rows; a *segment* is a run of pages that a run of rows in one tile shares. Each shared page is read once for all
its rows in a tile, then each row goes on through its own pages from the partial result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rftfast.ops import native as _n
from rftfast.ops.kv import PAGE, KVPool


@dataclass(frozen=True)
class AttentionPlan:
    """``tables`` [T, S] int32 page ids; ``row_table`` [R] int32, each row's table; ``lens`` [R] int32, the keys each
    row sees (its own included); ``tiles`` [*, 4] int32: row0, row1, segment0, segment1; ``segments`` [*, 4] int32:
    row0, row1, page0, page1, with page1 = -1 for "to the row's end". For every row its segments cover its pages once,
    in ascending order."""

    tables: torch.Tensor
    row_table: torch.Tensor
    lens: torch.Tensor
    tiles: torch.Tensor
    segments: torch.Tensor


def reference(
    q: torch.Tensor, pool: KVPool, layer: int, plan: AttentionPlan, scale: float, out: torch.Tensor
) -> torch.Tensor:
    """``q`` [R, H, D] (rows may be strided) -> ``out`` [R, H*D] = softmax(scale * q k^T) v, row by row in float64."""
    rows, heads, d = q.shape
    for r in range(rows):
        length = int(plan.lens[r])
        table = plan.tables[int(plan.row_table[r])][: -(-length // PAGE)]
        keys, values = (t.double() for t in pool.keys_values(layer, table, length))
        group = heads // keys.shape[1]
        scores = torch.einsum("hd,lhd->hl", q[r].double(), keys.repeat_interleave(group, 1)) * scale
        result = torch.einsum("hl,lhd->hd", scores.softmax(-1), values.repeat_interleave(group, 1))
        out[r] = result.reshape(heads * d)
    return out


def native(
    q: torch.Tensor, pool: KVPool, layer: int, plan: AttentionPlan, scale: float, out: torch.Tensor
) -> torch.Tensor:
    rows, heads, d = q.shape
    assert q.stride(2) == 1 and q.stride(1) == d and out.is_contiguous() and out.shape == (rows, heads * d)
    assert q.dtype == out.dtype == pool.data.dtype
    assert d == pool.head_dim and d % 16 == 0, "head_dim must be a multiple of 16"
    assert plan.lens.shape == plan.row_table.shape == (rows,)
    kv_heads = pool.data.shape[2]
    _n.load().attention(
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        pool.data[layer].data_ptr(),
        plan.tables.data_ptr(),
        plan.row_table.data_ptr(),
        plan.lens.data_ptr(),
        plan.tiles.data_ptr(),
        plan.segments.data_ptr(),
        plan.tables.stride(0),
        plan.tiles.shape[0],
        heads,
        kv_heads,
        d,
        scale,
        _n.DTYPE_CODES[q.dtype],
    )
    return out
