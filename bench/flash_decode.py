"""Plain flash decode over KV pages, the rival of shared-prefix attention: every row reads all of its own keys.

Rows of a prompt stand side by side, so that what they share comes from the L2 cache for all but the first. The inner loop
is that of the second launch of ours (``rftfast.kernels.suffix_attention``), begun with no prefix, with a few block sizes
to choose from; flash-attn and FlashInfer, with and without its cascade, take part where they are installed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.work import COUNT_ROWS, ROW_PREFIX, DecodeWork

OPTIONS = {2: ((32, 2, 3), (64, 4, 3), (128, 4, 2)), 4: ((32, 4, 2),)}
"""By bytes of an element: keys of a block, warps, stages."""
FLASH_PAGE = 256  # flash-attn's pages are multiples of it


@dataclass(frozen=True)
class DecodeBatch:
    """``groups`` prompts of ``prefix`` tokens, ``k`` rows each: row r sees its prompt's pages, then its own.

    ``shared`` [groups, pages] and ``own`` [rows][pages] are page ids, ``own_keys`` [rows] the keys behind the prefix; ``q``
    [rows, H, D], ``out`` [rows, H * D]. ``work`` lists them.
    """

    q: torch.Tensor
    pool: KVPool
    out: torch.Tensor
    work: DecodeWork
    shared: np.ndarray
    own: list[np.ndarray]
    own_keys: np.ndarray
    scale: float

    @property
    def k(self) -> int:
        return len(self.own) // len(self.shared)

    def pages(self, row: int) -> np.ndarray:
        return np.concatenate([self.shared[row // self.k], self.own[row]])

    @property
    def keys(self) -> np.ndarray:
        """[rows]: all that a row sees."""
        return self.shared.shape[1] * PAGE + self.own_keys


def plain(batch: DecodeBatch, block: int, warps: int, stages: int) -> Callable[[], torch.Tensor]:
    from rftfast.kernels.suffix_attention import suffix_attention

    arrays, work = batch.work.arrays, batch.work
    heads, d = batch.q.shape[1:]
    kv_heads = batch.pool.data.shape[2]
    rows = arrays.rows.clone()
    rows[:, ROW_PREFIX] = 0
    count = torch.zeros_like(arrays.counts)
    count[COUNT_ROWS] = len(batch.q)

    def run() -> torch.Tensor:
        suffix_attention[(len(batch.q) * kv_heads,)](
            batch.q,
            batch.pool.data[0],
            work.stats if batch.pool.scales is None else batch.pool.scales[0],
            batch.out,
            count,
            rows,
            arrays.tables,
            work.partial,
            work.stats,
            batch.q.stride(0),
            work.shape.max_rows,
            work.shape.table_width,
            batch.scale * math.log2(math.e),
            KV_HEADS=kv_heads,
            GROUP=heads // kv_heads,
            HEAD_DIM=d,
            D_BLOCK=1 << (d - 1).bit_length(),
            M_BLOCK=16,
            BLOCK_N=block,
            SPLIT_PAGES=work.shape.split_pages,
            PRECISION="ieee",
            FLOAT8=batch.pool.in_float8,
            num_warps=warps,
            num_stages=stages,
        )
        return batch.out

    return run


def libraries(batch: DecodeBatch) -> tuple[dict[str, Callable[[], torch.Tensor]], dict[str, str]]:
    """Those that are installed, ready to run, and why the others are not."""
    makers: dict[str, tuple[str, Callable[[DecodeBatch], Callable[[], torch.Tensor]]]] = {
        "flash-attn": ("flash_attn", flash_attn),
        "FlashInfer": ("flashinfer", flashinfer),
        "FlashInfer cascade": ("flashinfer", flashinfer_cascade),
    }
    ready, skipped = {}, {}
    for name, (module, make) in makers.items():
        if batch.pool.in_float8:
            skipped[name] = "is measured in bfloat16"
            continue
        if batch.q.device.type != "cuda" or importlib.util.find_spec(module) is None:
            skipped[name] = "not installed" if batch.q.device.type == "cuda" else "runs on GPUs"
            continue
        try:
            ready[name] = make(batch)
        except Exception as failure:  # whatever it fails with, the others go on
            skipped[name] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    return ready, skipped


def flash_attn(batch: DecodeBatch) -> Callable[[], torch.Tensor]:
    from flash_attn import flash_attn_with_kvcache  # type: ignore[import-not-found]

    keys, values, table = repaged(batch)
    lens = torch.from_numpy(batch.keys.astype(np.int32)).to(batch.q.device)
    q = batch.q.unsqueeze(1).contiguous()

    def run() -> torch.Tensor:
        found = flash_attn_with_kvcache(
            q, keys, values, cache_seqlens=lens, block_table=table, softmax_scale=batch.scale, causal=True
        )
        return found.flatten(1)

    return run


def repaged(batch: DecodeBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values [blocks, 256, K, D] and each row's blocks [rows, most] int32: whole blocks of a prefix are shared, the
    rest of it and the row's own keys are the row's."""
    device, d = batch.q.device, batch.pool.head_dim
    pages_each = FLASH_PAGE // PAGE
    common = batch.shared.shape[1] // pages_each
    blocks: list[np.ndarray] = []  # page ids of each

    def add(pages: np.ndarray) -> list[int]:
        first = len(blocks)
        for at in range(0, len(pages), pages_each):
            blocks.append(np.resize(pages[at : at + pages_each], pages_each))  # the last is filled up with anything
        return list(range(first, len(blocks)))

    shared = [add(pages[: common * pages_each]) for pages in batch.shared]
    tables = [shared[row // batch.k] + add(batch.pages(row)[common * pages_each :]) for row in range(len(batch.own))]
    table = torch.zeros(len(tables), max(map(len, tables)), dtype=torch.int32)
    for row, found in enumerate(tables):
        table[row, : len(found)] = torch.tensor(found, dtype=torch.int32)
    ids = torch.from_numpy(np.concatenate(blocks)).to(device)
    taken = batch.pool.data[0, ids].view(len(blocks), pages_each, -1, 2, PAGE, d)
    keys, values = (taken[:, :, :, i].transpose(2, 3).reshape(len(blocks), FLASH_PAGE, -1, d) for i in (0, 1))
    return keys, values, table.to(device)


def flashinfer(batch: DecodeBatch) -> Callable[[], torch.Tensor]:
    import flashinfer as library  # type: ignore[import-not-found]

    rows, heads, d = batch.q.shape
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(_workspace(batch), "HND", use_tensor_cores=True)
    indptr, indices, last = _ragged([batch.pages(row) for row in range(rows)], batch.own_keys, batch.q.device)
    kinds = {"q_data_type": batch.q.dtype, "kv_data_type": batch.q.dtype, "sm_scale": batch.scale}
    wrapper.plan(indptr, indices, last, heads, batch.pool.data.shape[2], d, PAGE, **kinds)
    return _run(wrapper, batch)


def flashinfer_cascade(batch: DecodeBatch) -> Callable[[], torch.Tensor]:
    """Two levels: each prompt's pages for its rows together, then each row's own; merged by a third launch."""
    import flashinfer as library

    rows, heads, d = batch.q.shape
    if not batch.shared.shape[1]:
        raise ValueError("there is no prefix to share")
    device = batch.q.device
    wrapper = library.MultiLevelCascadeAttentionWrapper(2, _workspace(batch), "HND")
    whole = np.full(len(batch.shared), PAGE)
    levels = [_ragged(list(batch.shared), whole, device), _ragged(batch.own, batch.own_keys, device)]
    of_rows = [torch.arange(0, rows + 1, step, dtype=torch.int32, device=device) for step in (batch.k, 1)]
    wrapper.plan(
        of_rows,
        [level[0] for level in levels],
        [level[1] for level in levels],
        [level[2] for level in levels],
        heads,
        batch.pool.data.shape[2],
        d,
        PAGE,
        sm_scale=batch.scale,
        q_data_type=batch.q.dtype,
    )
    return _run(wrapper, batch)


def _run(wrapper: object, batch: DecodeBatch) -> Callable[[], torch.Tensor]:
    pages = batch.pool.data[0].view(batch.pool.pages, -1, 2, PAGE, batch.pool.head_dim)
    cache = pages.transpose(1, 2).contiguous()  # [P, 2, K, 16, D]
    q = batch.q.contiguous()
    return lambda: wrapper.run(q, cache).flatten(1)  # type: ignore[attr-defined]


def _workspace(batch: DecodeBatch) -> torch.Tensor:
    return torch.zeros(256 << 20, dtype=torch.uint8, device=batch.q.device)


def _ragged(
    pages: list[np.ndarray], keys: np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First place of each list of pages, all lists, keys in each one's last page (of ``keys`` behind any whole pages)."""
    indptr = np.cumsum([0, *map(len, pages)])
    parts = (indptr, np.concatenate(pages), (keys - 1) % PAGE + 1)
    first, second, third = (torch.from_numpy(part.astype(np.int32)).to(device) for part in parts)
    return first, second, third
