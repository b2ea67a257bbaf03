"""Attention of a step's rows over the tree of KV pages.

The work is given as a plan, made once a step for all layers. On CPUs an ``AttentionPlan`` (built in
``rftfast.engine.plan``): rows stand in depth-first order of the tree; *tiles* are runs of rows; a *segment* is a run of
pages that a run of rows in one tile shares. Each shared page is read once for all its rows in a tile, then each row goes
on through its own pages from the partial result. On GPUs a ``WorkPlan`` (from ``rftfast.engine.work_list``): two launches
for the rows being decoded, described by a work list in device memory, and one for those of prompt chunks.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from rftfast.ops import native as _n
from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.work import DecodeWork


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


@dataclass(frozen=True)
class WorkPlan:
    """``rows`` leading rows of the step are those of ``work``'s list, or idle where it has fewer. ``chunk_tiles`` [*, 4]
    int32 on the device, or None: first row of the step, rows (``work.shape.tile_rows`` at most), the first one's position,
    page table; as ``rftfast.engine.work_list.chunk_tiles`` cuts them."""

    work: DecodeWork
    rows: int
    chunk_tiles: torch.Tensor | None = None


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
    assert q.dtype == out.dtype == pool.data.dtype and pool.layout == "pairs"
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


def triton(q: torch.Tensor, pool: KVPool, layer: int, plan: WorkPlan, scale: float, out: torch.Tensor) -> torch.Tensor:
    """As ``reference``, for the rows of ``plan``; other rows of ``out`` stay as they are. Two launches for rows being
    decoded, whatever the tree, and one for chunks; nothing is read back, so all may be captured in a graph."""
    from rftfast.kernels.online_softmax import tile_options
    from rftfast.kernels.prefill_attention import prefill_attention
    from rftfast.kernels.prefix_attention import prefix_attention, programs_per_sm
    from rftfast.kernels.suffix_attention import suffix_attention, suffix_options

    heads, d = q.shape[1:]
    kv_heads = pool.data.shape[2]
    shape, arrays = plan.work.shape, plan.work.arrays
    assert q.stride(2) == 1 and q.stride(1) == d and out.is_contiguous() and out.shape == (len(q), heads * d)
    assert q.dtype == out.dtype and pool.layout == "rows"
    assert pool.in_float8 or (q.dtype == pool.data.dtype and pool.scales is None)
    assert d == pool.head_dim and d % 16 == 0 and heads == kv_heads * shape.group and scale > 0
    assert plan.rows <= shape.max_rows and plan.work.partial.shape[2:] == (heads, d)
    arch, processors = _device(q.device)
    kv, scales = pool.data[layer], pool.scales[layer] if pool.scales is not None else plan.work.stats
    fixed = {
        "q_stride": q.stride(0),
        "scale2": scale * math.log2(math.e),
        "KV_HEADS": kv_heads,
        "GROUP": shape.group,
        "HEAD_DIM": d,
        "D_BLOCK": 1 << (d - 1).bit_length(),
        "PRECISION": "ieee",
        "FLOAT8": pool.in_float8,
        "enable_fp_fusion": True,
    }
    tile_launch = fixed | tile_options(d, q.element_size(), arch, shape.tile_m)
    partials = {"partial": plan.work.partial, "stats": plan.work.stats, "max_rows": shape.max_rows}
    if plan.rows:
        prefix_attention[(processors * programs_per_sm(d, q.element_size()),)](
            q,
            kv,
            scales,
            arrays.counts,
            arrays.tiles,
            arrays.tile_heads,
            arrays.split_pages,
            SPLIT_PAGES=shape.split_pages,
            **partials,
            **tile_launch,
        )
        suffix_attention[(plan.rows * kv_heads,)](
            q,
            kv,
            scales,
            out,
            arrays.counts,
            arrays.rows,
            arrays.tables,
            table_width=shape.table_width,
            SPLIT_PAGES=shape.split_pages,
            **partials,
            **fixed,
            **suffix_options(d, q.element_size(), pool.in_float8),
        )
    if plan.chunk_tiles is not None and len(plan.chunk_tiles):
        prefill_attention[(len(plan.chunk_tiles) * kv_heads,)](
            q, kv, scales, out, plan.chunk_tiles, arrays.tables, table_width=shape.table_width, **tile_launch
        )
    return out


@functools.cache
def _device(device: torch.device) -> tuple[int, int]:
    """Compute capability times ten, and multiprocessors; of an H200 with few of them in Triton's interpreter."""
    if device.type == "cpu":
        return 90, 1
    found = torch.cuda.get_device_properties(device)
    return found.major * 10 + found.minor, found.multi_processor_count
