"""Attention cases of the kernel benchmark: rows being decoded below shared prefixes, and prompts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from bench import flash_decode
from bench.flash_decode import DecodeBatch
from bench.kernel_case import KernelCase, Planned, Way, relative
from bench.roofline import Work
from rftfast.engine.gpu_runner import step_shapes
from rftfast.engine.work_list import WorkList, chunk_tiles
from rftfast.models.shapes import shape_config
from rftfast.ops import attention, fp8
from rftfast.ops.attention import WorkPlan
from rftfast.ops.kv import FLOAT8, PAGE, KVPool
from rftfast.ops.work import DecodeWork

CHECKED_ROWS = 8
BOUND = {torch.bfloat16: 1e-2, torch.float32: 1e-5}  # of |out - exact| / |exact|
PREFIXES = (64, 128, 256, 512, 1024, 2048, 4096)
GROUPS = ((10, 100), (64, 16), (1, 1024))  # prompts, rows of each
SUFFIXES = (128, 32, 512)
MODELS = ("llama-3.2-1b", "llama-7b", "qwen2.5-1.5b")


@dataclass(frozen=True)
class Heads:
    """What of a model attention sees. ``positions``: its context (longer, where that is too short for the cases), from which
    the engine's page tables and splits have their length."""

    head_dim: int
    kv_heads: int
    group: int
    positions: int

    @staticmethod
    def of(shape: str) -> Heads:
        c = shape_config(shape)
        return Heads(c.head_dim, c.kv_heads, c.heads // c.kv_heads, max(c.max_positions, 8192))


TINY = Heads(16, 2, 3, 160)  # for Triton's interpreter


def planned(device: torch.device, dtype: torch.dtype, *, quick: bool, tiny: bool) -> Iterator[Planned]:
    """The most telling cases first."""
    if tiny:
        shapes = [("tiny", 32, 2, 3, 20), ("tiny", 0, 1, 4, 20), ("tiny", 64, 1, 5, 9)]
        eights = [("tiny", 32, 2, 3, 20)]
        prompts = [("tiny", 2, 37)]
    else:
        shapes = [(MODELS[0], prefix, 10, 100, 128) for prefix in PREFIXES]
        shapes += [(model, 0, 10, 100, suffix) for model in MODELS for suffix in (64, 256)]
        shapes += [(model, prefix, 10, 100, 64) for model in MODELS[1:] for prefix in (64, 1024)]
        shapes += [(MODELS[0], prefix, 64, 16, 128) for prefix in (64, 256, 1024)]
        eights = [(model, prefix, 10, 100, 64) for prefix in ((0,) if quick else (0, 1024)) for model in MODELS[:2]]
        prompts = [(MODELS[0], 1, 2048), (MODELS[0], 16, 128)]
        if not quick:
            grid = [(m, p, *g, s) for g in GROUPS for s in SUFFIXES for m in MODELS for p in PREFIXES]
            shapes += [case for case in grid if case not in shapes]
            prompts += [(model, 2, 1024) for model in MODELS]
    for model, prefix, groups, k, suffix in shapes:
        name = f"{model} {prefix}+{suffix} {groups}x{k}"
        heads = TINY if tiny else Heads.of(model)
        build = functools.partial(decode_case, name, heads, prefix, groups, k, suffix, dtype, device)
        yield Planned("decode attention", name, build)
    if device.type != "cuda" or fp8.missing(device, invariant=False) is None:
        for model, prefix, groups, k, suffix in eights:
            name = f"{model} float8 {prefix}+{suffix} {groups}x{k}"
            heads = TINY if tiny else Heads.of(model)
            build = functools.partial(decode_case, name, heads, prefix, groups, k, suffix, dtype, device, float8=True)
            yield Planned("decode attention", name, build)
    for model, count, length in prompts:
        name = f"{model} {count}x{length}"
        heads = TINY if tiny else Heads.of(model)
        build = functools.partial(prefill_case, name, heads, count, length, dtype, device)
        yield Planned("prefill attention", name, build)


def decode_batch(
    heads: Heads,
    prefix: int,
    groups: int,
    k: int,
    suffix: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    float8: bool = False,
) -> DecodeBatch:
    """Each row has from half to one and a half times ``suffix`` keys behind the prefix (whole pages); pages lie anywhere."""
    assert prefix % PAGE == 0
    rng = np.random.default_rng((prefix, groups, k, suffix))
    rows, full = groups * k, prefix // PAGE
    own_keys = rng.integers(max(1, suffix // 2), suffix + suffix // 2 + 1, rows)
    own_pages = -(-own_keys // PAGE)
    ids = rng.permutation(groups * full + int(own_pages.sum()))
    shared = ids[: groups * full].reshape(groups, full)
    own = np.split(ids[groups * full :], np.cumsum(own_pages)[:-1])
    pool = _pool(heads, len(ids), dtype, device)
    if float8:
        scales = torch.full((1, heads.kv_heads, 2), 0.5, device=device)
        pool = KVPool(pool.data.to(FLOAT8), heads.head_dim, "rows", scales)
    shape, _ = step_shapes(rows, rows, 1 << 30, heads.positions, heads.group)
    listed = WorkList(shape)
    for row in range(rows):
        listed.join(row, row, [*shared[row // k].tolist(), *own[row].tolist()], prefix + int(own_keys[row]), full)
    listed.begin_step()
    h, d = heads.kv_heads * heads.group, heads.head_dim
    work = DecodeWork.allocate(shape, h, d, device)
    work.apply(torch.from_numpy(listed.take_delta()).to(device))
    out = torch.empty(rows, h * d, dtype=dtype, device=device)
    return DecodeBatch(_queries(heads, rows, dtype, device), pool, out, work, shared, own, own_keys, d**-0.5)


def decode_case(
    name: str,
    heads: Heads,
    prefix: int,
    groups: int,
    k: int,
    suffix: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    float8: bool = False,
) -> KernelCase:
    """``float8``: keys and values in it, queries in ``dtype``."""
    batch = decode_batch(heads, prefix, groups, k, suffix, dtype, device, float8=float8)
    rows = len(batch.own)

    def ours() -> torch.Tensor:
        return attention.triton(batch.q, batch.pool, 0, WorkPlan(batch.work, rows), batch.scale, batch.out)

    some = np.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).astype(int).tolist()
    exact = torch.stack([_exact(batch.q[r], batch.pool, batch.pages(r), int(batch.keys[r]), batch.scale) for r in some])
    rivals = {}
    for block, warps, stages in flash_decode.OPTIONS[dtype.itemsize]:
        run = flash_decode.plain(batch, block, warps, stages)
        rivals[f"flash decode, blocks of {block}"] = Way(run, run)
    ready, skipped = flash_decode.libraries(batch)
    return KernelCase(
        "decode attention",
        name,
        _work(
            heads,
            batch.pool.data.dtype,
            dtype,
            rows,
            groups * prefix + int(batch.own_keys.sum()),
            int(batch.keys.sum()),
        ),
        Way(ours, ours),
        lambda found: relative(found[some], exact) if _written(found) else float("nan"),
        BOUND[dtype],
        lambda: batch.out.fill_(float("nan")),
        rivals | {name: Way(run, run) for name, run in ready.items()},
        skipped,
    )


def prefill_case(
    name: str, heads: Heads, count: int, length: int, dtype: torch.dtype, device: torch.device
) -> KernelCase:
    """``count`` prompts of ``length`` tokens from their beginning, in one launch."""
    rows, each, d, h = count * length, -(-length // PAGE), heads.head_dim, heads.kv_heads * heads.group
    ids = np.random.default_rng(rows).permutation(count * each).reshape(count, each)
    pool = _pool(heads, count * each, dtype, device)
    shape, _ = step_shapes(1, count, 1 << 30, heads.positions, heads.group)
    work = DecodeWork.allocate(shape, h, d, device)
    tables = work.arrays.tables
    tables[1 : 1 + count, :each] = torch.from_numpy(ids.astype(np.int32)).to(device)
    cut = [(i * length, length, 0, 1 + i) for i in range(count)]
    plan = WorkPlan(work, 0, torch.from_numpy(chunk_tiles(cut, shape.tile_rows)).to(device))
    q, out = _queries(heads, rows, dtype, device), torch.empty(rows, h * d, dtype=dtype, device=device)
    scale = d**-0.5

    def ours() -> torch.Tensor:
        return attention.triton(q, pool, 0, plan, scale, out)

    dense = [pool.keys_values(0, torch.from_numpy(pages).to(device), length) for pages in ids]
    keys, values = (torch.stack([pair[i] for pair in dense]).transpose(1, 2).contiguous() for i in (0, 1))
    queries = q.reshape(count, length, h, d).transpose(1, 2).contiguous()

    def theirs() -> torch.Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=True)

    some = np.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).astype(int).tolist()
    exact = torch.stack([_exact(q[r], pool, ids[r // length], r % length + 1, scale) for r in some])
    return KernelCase(
        "prefill attention",
        name,
        _work(heads, dtype, dtype, rows, rows, count * length * (length + 1) // 2),
        Way(ours, ours),
        lambda found: relative(found[some], exact) if _written(found) else float("nan"),
        BOUND[dtype],
        lambda: out.fill_(float("nan")),
        {"torch's SDPA": Way(theirs, lambda: theirs().transpose(1, 2).reshape(rows, h * d))},
    )


def _written(out: torch.Tensor) -> bool:
    return not bool(out.isnan().any())


def _pool(heads: Heads, pages: int, dtype: torch.dtype, device: torch.device) -> KVPool:
    pool = KVPool.allocate(1, pages, heads.kv_heads, heads.head_dim, dtype, device, "rows")
    pool.data.normal_()
    return pool


def _queries(heads: Heads, rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[rows, H, D], the front of rows that hold keys and values too, as in a model's step."""
    h, d = heads.kv_heads * heads.group, heads.head_dim
    wide = torch.randn(rows, (h + 2 * heads.kv_heads) * d, device=device).to(dtype)
    return wide[:, : h * d].unflatten(1, (h, d))


def _work(heads: Heads, kept: torch.dtype, dtype: torch.dtype, rows: int, positions: int, pairs: int) -> Work:
    """Keys and values of ``positions``, in ``kept``, read once, queries and results of ``rows``; ``pairs`` of a row and a key
    it sees."""
    width = heads.kv_heads * heads.group * heads.head_dim
    moved = 2 * positions * heads.kv_heads * heads.head_dim * kept.itemsize + 2 * rows * width * dtype.itemsize
    return Work(moved, 4.0 * pairs * width)


def _exact(q_HD: torch.Tensor, pool: KVPool, pages: np.ndarray, keys: int, scale: float) -> torch.Tensor:
    """One row's result [H * D] in float64."""
    table = torch.from_numpy(pages[: -(-keys // PAGE)]).to(q_HD.device)
    group = len(q_HD) // pool.data.shape[2]
    k, v = (t.double().repeat_interleave(group, 1) for t in pool.keys_values(0, table, keys))
    weights = (torch.einsum("hd,lhd->hl", q_HD.double(), k) * scale).softmax(-1)
    return torch.einsum("hl,lhd->hd", weights, v).reshape(-1)
