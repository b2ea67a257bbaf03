"""Attention cases: random trees of paths over a random pool, and what is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from rftfast.engine.work_list import WorkList
from rftfast.ops import attention
from rftfast.ops.attention import AttentionPlan, WorkPlan
from rftfast.ops.kv import FLOAT8, PAGE, KVPool
from rftfast.ops.work import DecodeWork, WorkShape
from tests.triton_device import DEVICE

HALF_ULP = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
LAYER = 1  # of two


@dataclass(frozen=True)
class Path:
    """A row: its page table, the keys it sees, and the full pages of its prompt."""

    pages: tuple[int, ...]
    keys: int
    prefix_pages: int


def random_paths(rng: np.random.Generator, leaves: int, depth: int, longest: int = 40) -> list[Path]:
    """Rows of a random tree of ``depth`` levels (more than one, for more than one leaf), as the engine's tree lays them out: whole pages are shared, a path that
    forks inside a page has one of its own there. Prompts end anywhere above the leaf; some nodes have one child."""
    fresh = iter(rng.permutation(10_000).tolist())
    paths: list[Path] = []

    def grow(pages: list[int], length: int, level: int, budget: int) -> None:
        length += int(rng.integers(1, longest + 1))
        own = [next(fresh) for _ in range(-(-length // PAGE) - len(pages))]
        pages = pages + own
        if level == depth or (budget == 1 and rng.random() < 0.5):
            prompt = int(rng.integers(0, length))  # tokens before the one that was fed first
            paths.append(Path(tuple(pages), length, prompt // PAGE))
            return
        while budget:
            take = 1 if level == depth - 1 else int(rng.integers(1, budget + 1))
            grow(pages[: length // PAGE], length, level + 1, take)
            budget -= take

    grow([], 0, 1, leaves)
    names = {page: i for i, page in enumerate({p for path in paths for p in path.pages})}
    return [Path(tuple(names[p] for p in path.pages), path.keys, path.prefix_pages) for path in paths]


@dataclass(frozen=True)
class Case:
    """Queries [R, H, D] of ``paths`` over ``pool``."""

    q: torch.Tensor
    pool: KVPool
    paths: list[Path]
    scale: float

    @staticmethod
    def random(paths: list[Path], head_dim: int, kv_heads: int, group: int, dtype: torch.dtype, seed: int = 0) -> Case:
        made = torch.Generator().manual_seed(seed)
        pages = max(p for path in paths for p in path.pages) + 1
        pool = KVPool.allocate(LAYER + 1, pages, kv_heads, head_dim, dtype, layout="rows")
        pool.data.copy_(torch.randn(pool.data.shape, generator=made))
        wide = torch.randn(len(paths), (kv_heads * group + 2) * head_dim, generator=made)  # rows as qkv's
        q = wide.to(dtype)[:, : kv_heads * group * head_dim].unflatten(1, (kv_heads * group, head_dim))
        return Case(q, pool, paths, 1.5 * head_dim**-0.5)

    def on_device(self) -> tuple[torch.Tensor, KVPool]:
        rows = self.q.shape[0]
        wide = torch.zeros(rows, self.q.stride(0) if rows > 1 else self.q[0].numel(), dtype=self.q.dtype, device=DEVICE)
        q = wide[:, : self.q[0].numel()].unflatten(1, self.q.shape[1:])
        q.copy_(self.q)
        p = self.pool
        scales = None if p.scales is None else p.scales.to(DEVICE)
        return q, KVPool(p.raw.to(DEVICE).view(p.data.dtype), p.head_dim, "rows", scales)

    def in_float8(self) -> Case:
        """The same with keys and values in float8, and scales of all sizes."""
        layers, kv_heads = self.pool.data.shape[0], self.pool.data.shape[2]
        exponents = torch.randint(-9, 6, (layers, kv_heads, 2), generator=torch.Generator().manual_seed(kv_heads))
        scales = torch.ldexp(torch.ones(exponents.shape), exponents)
        return replace(self, pool=KVPool(self.pool.data.to(FLOAT8), self.pool.head_dim, "rows", scales))

    def widened(self) -> Case:
        """Of a case in float8: the same numbers in the queries' type."""
        assert self.pool.scales is not None
        wide = self.pool.data.float() * self.pool.scales[:, None, :, :, None]
        assert torch.equal(wide.to(self.q.dtype).float(), wide)
        return replace(self, pool=KVPool(wide.to(self.q.dtype), self.pool.head_dim, "rows"))

    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The result [R, H*D] in float64 and a bound on the error of the kernels' arithmetic before the last rounding.

        With A the average of |v| under the same probabilities, a relative error e of each probability changes the result
        by at most 2 e A. e comes from the scores: float32 sums of terms that add up to ``largest``, times 2^-24 and the
        square root of their number; and from the probabilities' rounding to the storage type, in the numerator.
        """
        rows, heads, d = self.q.shape
        width = max(len(path.pages) for path in self.paths)
        tables = torch.tensor([[*path.pages, *[0] * (width - len(path.pages))] for path in self.paths])
        lens = torch.tensor([path.keys for path in self.paths])
        plan = AttentionPlan(tables, torch.arange(rows), lens, None, None)  # type: ignore[arg-type]
        exact = torch.empty(rows, heads * d, dtype=torch.float64)
        attention.reference(self.q, self.pool, LAYER, plan, self.scale, exact)
        absolute = KVPool(self.pool.data.clone(), d, "rows")
        absolute.data[:, :, :, 1] = absolute.data[:, :, :, 1].abs()
        average = torch.empty_like(exact)
        attention.reference(self.q, absolute, LAYER, plan, self.scale, average)
        keys = self.pool.data[LAYER, :, :, 0].double().view(self.pool.pages, -1, PAGE, d).abs().amax((0, 2))
        largest = float((self.q.double().abs().unflatten(1, (len(keys), -1)) * keys[:, None]).sum(-1).max())
        rounding = HALF_ULP[self.q.dtype] if self.q.dtype != torch.float32 else 0.0
        return exact, (2.0**-24 * math.sqrt(d) * largest * self.scale + 2.0**-20 + rounding) * average

    def check(self, out: torch.Tensor, rows: list[int] | None = None) -> None:
        """``out`` [*, H*D]: the exact results, rounded to the storage type."""
        exact, slack = self.exact()
        if rows is not None:
            exact, slack = exact[rows], slack[rows]
        assert out.shape == exact.shape and not out.isnan().any()
        bound = HALF_ULP[out.dtype] * (1 + 2.0**-7) * exact.abs() + slack
        excess = (out.cpu().double() - exact).abs() - bound
        assert excess.max() <= 0, f"{int((excess > 0).sum())} values off, the worst by {excess.max():.3e} too much"


def shape_for(case: Case, *, tile_m: int = 16, split_pages: int = 4, spare: int = 2) -> WorkShape:
    """A list for the case's rows and a few more; small tiles and splits, so that short paths have several."""
    group = case.q.shape[1] // case.pool.data.shape[2]
    rows = len(case.paths) + spare
    return WorkShape(rows, rows + 1, max(len(p.pages) for p in case.paths), group, tile_m, split_pages)


def listed(case: Case, shape: WorkShape, order: list[int] | None = None) -> WorkList:
    work = WorkList(shape)
    for key in range(len(case.paths)) if order is None else order:
        path = case.paths[key]
        work.join(key, key, path.pages, path.keys, path.prefix_pages)
    return work


def attend(case: Case, work: WorkList, *, q_order: list[int] | None = None) -> torch.Tensor:
    """Results [R, H*D] of the list's rows in their order, as the device computes them from the list's first delta on.

    ``q_order``: the case's row that stands in each of the list's; taken from the keys if None.
    """
    q, pool = case.on_device()
    keys = q_order or [row.key for row in work._rows]
    capacity, heads, d = work.shape.max_rows, q.shape[1], q.shape[2]
    wide = torch.full((capacity, heads, d), 3.0, dtype=q.dtype, device=DEVICE)
    wide[: len(keys)] = q[keys]
    device = DecodeWork.allocate(work.shape, heads, d, DEVICE)
    device.partial.fill_(torch.nan)
    device.stats.fill_(torch.nan)
    device.buffer.copy_(torch.from_numpy(work.buffer))
    work.begin_step()
    places = (
        torch.empty(capacity, dtype=torch.int32, device=DEVICE),
        torch.empty(capacity, dtype=torch.int64, device=DEVICE),
    )
    device.begin_step(*places, idle_slot=7)
    assert (device.buffer.cpu().numpy() == work.buffer).all()
    out = torch.full((capacity, heads * d), torch.nan, dtype=q.dtype, device=DEVICE)
    assert attention.triton(wide, pool, LAYER, WorkPlan(device, capacity), case.scale, out) is out
    assert out[len(keys) :].isnan().all(), "an idle row was written"
    return out[: len(keys)]
