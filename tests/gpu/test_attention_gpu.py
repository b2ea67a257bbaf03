"""Attention kernels on a real GPU at the sizes of real models, against float64; ``tests/kernels`` has the small cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rftfast.engine.work_list import WorkList, chunk_tiles
from rftfast.ops import attention, cuda
from rftfast.ops.attention import WorkPlan
from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.work import DecodeWork, WorkShape

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
if cuda.triton_available():
    pytest.skip(str(cuda.triton_available()), allow_module_level=True)

GPU = torch.device("cuda", torch.cuda.current_device())
MODELS = {"llama-3.2-1b": (64, 8, 4), "qwen2.5-1.5b": (128, 2, 6), "llama-7b": (128, 32, 1), "smollm2-135m": (64, 3, 3)}


class Batch:
    """``groups`` prompts of ``prompt`` tokens with ``k`` rows each, whose own tokens number up to ``suffix``."""

    def __init__(self, model: str, dtype: torch.dtype, groups: int, k: int, prompt: int, suffix: int) -> None:
        self.head_dim, self.kv_heads, self.group = MODELS[model]
        rng = np.random.default_rng(prompt)
        full, rows = (prompt - 1) // PAGE, groups * k
        self.keys = prompt + rng.integers(0, suffix, rows)
        own = [-(-int(n) // PAGE) - full for n in self.keys]
        pages = rng.permutation(groups * full + sum(own)).tolist()
        shared = [[pages.pop() for _ in range(full)] for _ in range(groups)]
        self.paths = [shared[row // k] + [pages.pop() for _ in range(own[row])] for row in range(rows)]
        self.full = full
        count = groups * full + sum(own)
        self.pool = KVPool.allocate(1, count, self.kv_heads, self.head_dim, dtype, GPU)
        torch.manual_seed(prompt)
        self.pool.data.normal_()
        heads = self.kv_heads * self.group
        wide = torch.randn(rows, (heads + 2 * self.kv_heads) * self.head_dim, device=GPU).to(dtype)
        self.q = wide[:, : heads * self.head_dim].unflatten(1, (heads, self.head_dim))

    def work(self, padded: int) -> DecodeWork:
        rows = len(self.paths)
        shape = WorkShape.plan(padded, padded + 1, max(map(len, self.paths)), self.group)
        made = WorkList(shape)
        for row, (pages, keys) in enumerate(zip(self.paths, self.keys.tolist(), strict=True)):
            made.join(row, row, pages, keys, self.full)
        made.check()
        work = DecodeWork.allocate(shape, self.q.shape[1], self.head_dim, GPU)
        work.apply(torch.from_numpy(made.take_delta()).to(GPU))
        positions = torch.zeros(padded, dtype=torch.int32, device=GPU)
        places = torch.zeros(padded, dtype=torch.int64, device=GPU)
        work.begin_step(positions, places, -1)
        assert positions[:rows].tolist() == (self.keys - 1).tolist()
        assert (places[rows:] == -1).all()
        return work

    def exact(self, row: int, keys: int | None = None) -> torch.Tensor:
        keys = int(self.keys[row]) if keys is None else keys
        table = torch.tensor(self.paths[row][: -(-keys // PAGE)], device=GPU)
        k, v = (t.double().repeat_interleave(self.group, 1) for t in self.pool.keys_values(0, table, keys))
        scores = torch.einsum("hd,lhd->hl", self.q[row].double(), k) / math.sqrt(self.head_dim)
        return torch.einsum("hl,lhd->hd", scores.softmax(-1), v).reshape(-1)

    def attend(self, plan: WorkPlan, rows: int) -> torch.Tensor:
        q = self.q
        if rows > len(q):
            q = torch.cat([q, q.new_full((rows - len(q), *q.shape[1:]), torch.nan)])
        out = torch.full((rows, self.q[0].numel()), torch.nan, dtype=self.q.dtype, device=GPU)
        return attention.triton(q, self.pool, 0, plan, self.head_dim**-0.5, out)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("groups", "k", "prompt", "suffix"), [(1, 100, 901, 200), (10, 100, 67, 130), (70, 7, 1400, 60)]
)
def test_decode_is_exact(model: str, dtype: torch.dtype, groups: int, k: int, prompt: int, suffix: int) -> None:
    batch = Batch(model, dtype, groups, k, prompt, suffix)
    rows = len(batch.paths)
    padded = -(-rows // 128) * 128
    out = batch.attend(WorkPlan(batch.work(padded), padded), padded)
    assert not out[:rows].isnan().any() and out[rows:].isnan().all(), "a row not written, or an idle one written"
    bound = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for row in np.random.default_rng(0).choice(rows, 12, replace=False).tolist():
        exact = batch.exact(row)
        assert float((out[row].double() - exact).norm() / exact.norm()) < bound, row


def test_a_graph_serves_another_tree() -> None:
    """Captured on one work list, replayed on another, in the same memory."""
    first, second = (Batch("llama-3.2-1b", torch.bfloat16, g, k, p, 90) for g, k, p in ((3, 40, 300), (9, 11, 77)))
    shape = WorkShape.plan(128, 129, 40, 4)
    work = DecodeWork.allocate(shape, 32, 64, GPU)
    pool = KVPool.allocate(1, 1000, 8, 64, torch.bfloat16, GPU)
    q = torch.zeros(128, 32, 64, dtype=torch.bfloat16, device=GPU)
    out = torch.zeros(128, 32 * 64, dtype=torch.bfloat16, device=GPU)
    positions = torch.zeros(128, dtype=torch.int32, device=GPU)
    places = torch.zeros(128, dtype=torch.int64, device=GPU)

    def step() -> None:
        work.begin_step(positions, places, -1)
        attention.triton(q, pool, 0, WorkPlan(work, 128), 0.125, out)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for batch in (first, second, first):
        rows = len(batch.paths)
        made = WorkList(shape)
        for row, (pages, keys) in enumerate(zip(batch.paths, batch.keys.tolist(), strict=True)):
            made.join(row, row, pages, keys, batch.full)
        work.buffer.copy_(torch.from_numpy(made.buffer))
        pool.data[0, : batch.pool.pages].copy_(batch.pool.data[0])
        q[:rows].copy_(batch.q)
        out.fill_(torch.nan)
        graph.replay()
        for row in (0, rows // 2, rows - 1):
            exact = batch.exact(row)
            assert float((out[row].double() - exact).norm() / exact.norm()) < 1e-2
        assert out[rows:].isnan().all()


@pytest.mark.parametrize("model", MODELS)
def test_chunks_are_exact(model: str) -> None:
    """Every row of a prompt's chunk, at its beginning and in its middle."""
    batch = Batch(model, torch.bfloat16, 1, 700, 1301, 1)  # 700 rows, all with the same keys
    work = batch.work(700)
    width = work.shape.table_width
    work.arrays.tables[700, :width].copy_(torch.tensor(batch.paths[0][:width], dtype=torch.int32))
    cut = [(0, 333, 0, 700), (333, 367, 401, 700)]
    tiles = torch.from_numpy(chunk_tiles(cut, work.shape.tile_rows)).to(GPU)
    out = batch.attend(WorkPlan(work, 0, tiles), 700)
    assert not out.isnan().any()
    path = batch.paths[0]
    for row in (0, 1, 15, 16, 100, 332, 333, 500, 699):
        keys = row + 1 if row < 333 else 401 + row - 333 + 1
        batch.paths[row] = path
        exact = batch.exact(row, keys)
        assert float((out[row].double() - exact).norm() / exact.norm()) < 1e-2, row


def test_offsets_beyond_two_to_the_31() -> None:
    """Pages whose elements have 64-bit offsets are read and written where they lie."""
    page = 2 * 16 * 32 * 128
    pages = (1 << 31) // page + 200
    if torch.cuda.mem_get_info()[0] < 3 * 2 * pages * page:
        pytest.skip("not enough memory for a layer of that size")
    batch = Batch("llama-7b", torch.bfloat16, 2, 20, 40, 30)
    small = batch.pool
    far = KVPool.allocate(1, pages, 32, 128, torch.bfloat16, GPU)
    shift = pages - small.pages
    far.data[0, shift:].copy_(small.data[0])
    near = batch.attend(WorkPlan(batch.work(40), 40), 40)
    batch.paths = [[page + shift for page in path] for path in batch.paths]
    batch.pool = far
    assert torch.equal(batch.attend(WorkPlan(batch.work(40), 40), 40), near)
