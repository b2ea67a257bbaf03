"""Attention over the tree of pages: right, and the same to the bit however the pages are divided."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.engine import plan as plans
from rftfast.ops import attention
from rftfast.ops import native as native_ops
from rftfast.ops.attention import AttentionPlan
from rftfast.ops.kv import PAGE, KVPool

# head_dim, key/value heads, query heads of each
SHAPES = [(16, 2, 1), (64, 3, 3), (64, 1, 8), (64, 2, 4), (80, 2, 4), (96, 1, 7), (128, 2, 2), (128, 1, 1)]


def as_plan(tables, row_table, lens, tiles, segments):
    return AttentionPlan(
        *(torch.from_numpy(np.array(a, dtype=np.int32)) for a in (tables, row_table, lens, tiles, segments))
    )


def planned(trees):
    """The engine's own plan of (tables, row_table, lens)."""
    return as_plan(*trees, *plans.build(*trees))


def random_pool(trees, kv_heads, head_dim, dtype, seed):
    pool = KVPool.allocate(2, int(trees[0].max()) + 1, kv_heads, head_dim, dtype)
    pool.data.copy_(torch.randn(pool.data.shape, generator=torch.Generator().manual_seed(seed)))
    return pool


def random_queries(rows, heads, head_dim, dtype, seed):
    """[R, H, D] as the decoder gives them: the front part of wider rows."""
    wide = torch.randn(rows, (heads + 2) * head_dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return wide[:, : heads * head_dim].unflatten(1, (heads, head_dim))


def attend(q, pool, plan, scale=None):
    out = torch.full((q.shape[0], q.shape[1] * q.shape[2]), torch.nan, dtype=q.dtype)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    assert attention.native(q, pool, 1, plan, scale, out) is out
    return out


def exact_and_slack(q, pool, plan, scale, largest=None):
    """The result in float64 and a bound on the error of float32 (or bfloat16) arithmetic before the last rounding.

    With A the average of |v| under the same probabilities: a relative error e of each probability changes the result by
    at most 2 e A. In float32 e comes from the scores: their terms |q k| add up with an error that grows, as rounding
    errors do, with the root of the head's width (11 at most) times 2^-24, and exp2 adds 2e-7. In bfloat16 the
    probabilities themselves are rounded: 2^-8 each, once in the numerator. ``largest``: the largest sum of |q k| * scale,
    found here if not given.
    """
    d, rows = q.shape[2], q.shape[0]
    exact = torch.empty(rows, q.shape[1] * d, dtype=torch.float64)
    attention.reference(q, pool, 1, plan, scale, exact)
    absolute = KVPool(pool.data.clone(), pool.head_dim)
    absolute.data[:, :, :, 1] = absolute.data[:, :, :, 1].abs()
    average = torch.empty_like(exact)
    attention.reference(q, absolute, 1, plan, scale, average)
    if largest is None:
        largest = max(_largest_score(q[r].abs(), pool, plan, r) * scale for r in range(rows))
    error = 2.0**-20 * (4 + largest) + (2.0**-8 if q.dtype == torch.bfloat16 else 0)
    return exact, error * average


def _largest_score(q, pool, plan, row):
    """The largest sum of |q k| of the row's keys, ``q`` [H, D] being absolute already."""
    keys, _ = pool.keys_values(1, plan.tables[int(plan.row_table[row])], int(plan.lens[row]))
    keys = keys.float().abs().repeat_interleave(q.shape[0] // keys.shape[1], 1)
    return float(torch.einsum("hd,lhd->hl", q.float(), keys).max())


# -- against the reference ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_case(forest, random_moves):
    @functools.cache
    def make(shape, rows, dtype):
        """Queries, pool, plan, exact result and slack; the same for every instruction set."""
        head_dim, kv_heads, group = shape
        rng = np.random.default_rng(rows * 1000 + head_dim)
        trees = forest(random_moves(rng, rows), seed=rows)
        pool = random_pool(trees, kv_heads, head_dim, dtype, seed=rows)
        q = random_queries(rows, kv_heads * group, head_dim, dtype, seed=rows + 1)
        plan = planned(trees)
        return q, pool, plan, *exact_and_slack(q, pool, plan, head_dim**-0.5)

    return make


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 13, 70])
def test_native_is_the_reference(isa, dtype, shape, rows, random_case, assert_rounded):
    q, pool, plan, exact, slack = random_case(shape, rows, dtype)
    assert_rounded(attend(q, pool, plan), exact, slack)


def test_the_reference_is_torchs_attention(forest):
    trees = forest([(0, 37, 37)])
    pool = random_pool(trees, 2, 32, torch.float32, 0)
    q = random_queries(37, 6, 32, torch.float32, 1)
    out = torch.empty(37, 6 * 32, dtype=torch.float64)
    attention.reference(q, pool, 1, planned(trees), 0.3, out)
    keys, values = (t.double().transpose(0, 1) for t in pool.keys_values(1, torch.from_numpy(trees[0][0]), 37))
    want = torch.nn.functional.scaled_dot_product_attention(
        q.double().transpose(0, 1), keys, values, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(out, want.transpose(0, 1).flatten(1), rtol=1e-12, atol=1e-14)


def test_both_layouts_hold_the_same_keys_and_values(dtype, forest):
    """The reference over a pool laid out for CPUs and over one for GPUs; the native kernel refuses the latter."""
    trees = tables, _, lens = forest([(0, 37, 1), (2, 50, 3)])
    d, kv_heads, pages = 32, 2, int(tables.max()) + 1
    made = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, pages, kv_heads, PAGE, d, generator=made).to(dtype)  # keys, values
    results = []
    for layout in ("pairs", "rows"):
        pool = KVPool.allocate(2, pages, kv_heads, d, dtype, layout=layout)
        a, b = pool.key_width, pool.value_width
        pool.data[1, :, :, 0].view(pages, kv_heads, d // a, PAGE, a).permute(0, 1, 3, 2, 4).copy_(
            tokens[0].unflatten(-1, (d // a, a))
        )
        pool.data[1, :, :, 1].view(pages, kv_heads, PAGE // b, d, b).permute(0, 1, 2, 4, 3).copy_(
            tokens[1].unflatten(2, (PAGE // b, b))
        )
        found = pool.keys_values(1, torch.from_numpy(tables[0]), 37)
        for got, plane in zip(found, tokens, strict=True):
            assert torch.equal(got, plane[tables[0]].transpose(1, 2).flatten(0, 1)[:37])
        out = torch.empty(len(lens), 6 * d, dtype=torch.float64)
        q = random_queries(len(lens), 6, d, dtype, seed=4)
        results.append(attention.reference(q, pool, 1, planned(trees), 0.2, out))
    assert torch.equal(*results)
    with pytest.raises(AssertionError):
        attention.native(q, pool, 1, planned(trees), 0.2, torch.empty(len(lens), 6 * d, dtype=dtype))


# -- sharing changes not a bit --------------------------------------------------------------------------------------


def by_row(rows):
    """Nothing shared: a tile and a segment for each row."""
    return [(r, r + 1, r, r + 1) for r in range(rows)], [(r, r + 1, 0, -1) for r in range(rows)]


def one_tile_nothing_shared(rows):
    return [(0, rows, 0, rows)], [(r, r + 1, 0, -1) for r in range(rows)]


def page_by_page(trees, tiles, segments):
    """The same sharing in segments of one page each, as far as pages are counted."""
    lens = trees[2]
    cut_tiles, cut = [], []
    for row0, row1, segment0, segment1 in tiles.tolist():
        before = len(cut)
        for r0, r1, page0, page1 in segments[segment0:segment1].tolist():
            last = -(-int(lens[r0:r1].max()) // PAGE) if page1 < 0 else page1
            cut += [(r0, r1, page, page + 1) for page in range(page0, last)]
        cut_tiles.append((row0, row1, before, len(cut)))
    return cut_tiles, cut


def recut(trees, at):
    """The engine's way of sharing in other tiles: cut before each row in ``at``."""
    tables, row_table, lens = trees
    tiles, segments = [], []
    for first, last in zip([0, *at], [*at, len(lens)], strict=True):
        own_tiles, own = plans.build(tables, row_table[first:last], lens[first:last])
        tiles += [
            (r0 + first, r1 + first, s0 + len(segments), s1 + len(segments)) for r0, r1, s0, s1 in own_tiles.tolist()
        ]
        segments += [(r0 + first, r1 + first, p0, p1) for r0, r1, p0, p1 in own.tolist()]
    return tiles, segments


TREES = {
    "all shared": [(6, 97 + i, 1) for i in range(40)],
    "nothing shared": [(0, 30 + 3 * i, 1) for i in range(20)],
    # a root of 5 pages, three branches of 3 more, each with three twigs of 2 more and three leaves
    "three levels": [
        ((0 if a + b + c == 0 else 5 if b + c == 0 else 8 if c == 0 else 10), 161 + a + 2 * b + 5 * c, 1)
        for a in range(3)
        for b in range(3)
        for c in range(3)
    ],
    "a prompt of one chunk": [(0, 70, 70)],
    "two chunks and decodes": [(0, 50, 1), (3, 64, 1), (2, 90, 40), (2, 77, 20), (1, 17, 1)],
    "on page borders": [(9, 16 * n, 1) for n in (1, 2, 2, 3, 3, 3, 4)] + [(4, 16 * n + 1, 1) for n in (4, 4, 2)],
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("shape", [(64, 3, 3), (80, 1, 2)], ids=str)
def test_how_pages_are_divided_changes_not_a_bit(isa, dtype, name, shape, forest):
    head_dim, kv_heads, group = shape
    trees = forest(TREES[name], seed=3)
    rows = len(trees[2])
    pool = random_pool(trees, kv_heads, head_dim, dtype, seed=5)
    q = random_queries(rows, kv_heads * group, head_dim, dtype, seed=6) * 3  # peaked, so that references move
    expected = attend(q, pool, planned(trees))
    assert expected.isfinite().all()
    tiles, segments = plans.build(*trees)
    divisions = {
        "a tile each": by_row(rows),
        "one tile, nothing shared": one_tile_nothing_shared(rows),
        "page by page": page_by_page(trees, tiles, segments),
        "tiles of three": recut(trees, list(range(3, rows, 3))),
        "odd tiles": recut(trees, [r for r in (1, 6, 13, 30, 31) if r < rows]),
    }
    for what, (other_tiles, other_segments) in divisions.items():
        got = attend(q, pool, as_plan(*trees, other_tiles, other_segments))
        assert torch.equal(got, expected), what


def test_order_and_company_of_rows_change_not_a_bit(isa, dtype, forest, random_moves):
    rng = np.random.default_rng(11)
    trees = tables, row_table, lens = forest(random_moves(rng, 50), seed=1)
    pool = random_pool(trees, 2, 64, dtype, seed=5)
    q = random_queries(50, 6, 64, dtype, seed=6)
    expected = attend(q, pool, planned(trees))
    for rows in (np.arange(50)[::-1], rng.permutation(50), np.arange(0, 50, 3), np.array([49]), np.repeat(7, 9)):
        rows = rows.copy()
        # In any order: plans.build finds less to share among neighbours, or nothing.
        chosen = tables, row_table[rows], lens[rows]
        assert torch.equal(attend(q[torch.from_numpy(rows)], pool, planned(chosen)), expected[torch.from_numpy(rows)])


def test_a_chunk_of_a_prompt_equals_its_tokens_one_by_one(isa, dtype, forest):
    """67 rows of one table in one step, in chunks of 7, and each with a table of its own over the same pages."""
    trees = tables, row_table, lens = forest([(0, 67, 67)])
    pool = random_pool(trees, 3, 64, dtype, seed=1)
    q = random_queries(67, 9, 64, dtype, seed=2)
    whole = attend(q, pool, planned(trees))
    for first in range(0, 67, 7):
        part = slice(first, first + 7)
        chunk = planned((tables, row_table[part], lens[part]))
        assert torch.equal(attend(q[part], pool, chunk), whole[part])
    own_tables = planned((np.repeat(tables, 67, axis=0), np.arange(67, dtype=np.int32), lens))
    assert torch.equal(attend(q, pool, own_tables), whole)


def test_threads_change_not_a_bit(isa, dtype, forest, random_moves):
    trees = forest(random_moves(np.random.default_rng(2), 200), seed=2)
    pool = random_pool(trees, 3, 64, dtype, seed=1)
    q = random_queries(200, 9, 64, dtype, seed=2)
    before, library = torch.get_num_threads(), native_ops.load()
    results = []
    try:
        for threads in (1, 2):
            native_ops.set_threads(threads)
            assert library.threads() in (1, threads)  # 1 where torch runs on no OpenMP
            results += [attend(q, pool, planned(trees)) for _ in range(3)]
    finally:
        native_ops.set_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


# -- awkward numbers ------------------------------------------------------------------------------------------------

LENGTHS = [1, 15, 16, 17, 31, 32, 33, 80, 100]
SCORES = {
    # Far above the 8 binary orders for which the reference maximum stays: it moves in every page, or in some.
    "growing": lambda t: t * 4.0,
    "growing slowly": lambda t: t * 0.25,
    "falling": lambda t: -t * 4.0,
    "a saw": lambda t: (t * 37 % 64) * 2.0 - 50,
    "a late peak": lambda t: (t == 79) * 300.0,
    "all alike": lambda t: 0 * t,
    "all alike and huge": lambda t: 0 * t + 2.0**20,
    "all alike and hugely negative": lambda t: 0 * t - 2.0**20,
    "hugely negative": lambda t: -2048 - t * 8.0,
    "all but one hugely negative": lambda t: (t != 0) * -(2.0**20),
}


@pytest.fixture(scope="module")
def awkward_case(forest, write):
    @functools.cache
    def make(name, dtype):
        """One channel carries the score (exact in both storage types): queries, trees, pool, exact result, slack."""
        d, n = 32, max(LENGTHS)
        trees = forest([(99, length, 1) for length in LENGTHS])
        pool = KVPool.allocate(2, int(trees[0].max()) + 1, 1, d, dtype)
        scores = SCORES[name](torch.arange(n)).float()
        keys, values = torch.zeros(n, 1, d), torch.randn(n, 1, d, generator=torch.Generator().manual_seed(4))
        keys[:, 0, 5] = scores
        for table, length in zip(trees[0], trees[2], strict=True):
            write(pool, 1, table, keys[:length], values[:length])
        q = torch.zeros(len(LENGTHS), 2, d, dtype=dtype)
        q[:, 0, 5], q[:, 1, 5] = 1.0, -1.0
        # Where scores differ by 0 or beyond any probability, nothing is lost, large as they are.
        largest = 0.0 if name.startswith("all") else None
        return q, trees, pool, *exact_and_slack(q, pool, planned(trees), 1.0, largest)

    return make


@pytest.mark.parametrize("name", SCORES)
def test_awkward_scores(isa, dtype, name, awkward_case, assert_rounded):
    q, trees, pool, exact, slack = awkward_case(name, dtype)
    out = attend(q, pool, planned(trees), 1.0)
    assert_rounded(out, exact, slack)
    assert torch.equal(attend(q, pool, as_plan(*trees, *by_row(len(LENGTHS))), 1.0), out)


@pytest.mark.parametrize("garbage", [1e4, 1e30, -3e38])
def test_what_lies_beyond_a_rows_end_is_not_seen(isa, dtype, garbage, forest, write):
    """Unused places of last pages, and whole pages beyond the shorter rows of a chunk, may hold anything finite."""
    moves = [(99, length, 1) for length in LENGTHS] + [(2, 75, 60), (1, 41, 20)]
    trees = tables, row_table, lens = forest(moves)
    ends = {int(t): int(lens[row_table == t].max()) for t in row_table}
    generator = torch.Generator().manual_seed(8)
    keys, values = (torch.randn(100, 2, 64, generator=generator) for _ in range(2))
    q = random_queries(len(lens), 6, 64, dtype, seed=9)
    results = []
    for fill in (0.0, garbage):
        pool = KVPool.allocate(2, int(tables.max()) + 1, 2, 64, dtype)
        pool.data.fill_(fill)
        pool.data[:, :, :, 0, ::2] *= -1  # of both signs, so that scores of garbage are NaN or infinite as they like
        for table, end in ends.items():
            write(pool, 1, tables[table], keys[:end], values[:end])
        results.append(attend(q, pool, planned(trees)))
    assert results[0].isfinite().all()
    assert torch.equal(*results)


# -- the plan -------------------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.one_of(st.integers(1, 130), st.sampled_from([15, 16, 17, 32, 33, 48, 64, 128])),
        st.one_of(st.just(1), st.integers(1, 50)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(moves=MOVES, seed=st.integers(0, 9), size=st.sampled_from([8, 16, 32]))
def test_plan_covers_each_rows_pages_once(forest, moves, seed, size):
    tables, row_table, lens = trees = forest(moves, seed)
    rows = len(lens)
    tiles, segments = plans.build(*trees, size)
    assert tiles.dtype == segments.dtype == np.int32
    assert (tiles[:, 1] - tiles[:, 0] <= size).all()
    # Tiles part the rows, in order, and the segments likewise.
    assert [t[0] for t in tiles.tolist()] == [0, *(t[1] for t in tiles[:-1].tolist())]
    assert tiles[-1, 1] == rows and (tiles[:, 1] > tiles[:, 0]).all()
    assert [t[2] for t in tiles.tolist()] == [0, *(t[3] for t in tiles[:-1].tolist())]
    assert tiles[-1, 3] == len(segments)
    seen = [0] * rows  # pages covered so far
    for row0, row1, segment0, segment1 in tiles.tolist():
        for r0, r1, page0, page1 in segments[segment0:segment1].tolist():
            assert row0 <= r0 < r1 <= row1
            last = -(-int(lens[r0:r1].max()) // PAGE) if page1 < 0 else page1
            assert last > page0 or (last == page0 and page1 < 0)  # rows may have nothing of their own
            for r in range(r0, r1):
                assert seen[r] == page0, "a gap, or a page twice"
                # A kernel reads the first row's table; that must be right as far as this row has keys.
                own = -(-int(lens[r]) // PAGE)
                mine, read = (tables[row_table[at]][page0 : min(last, own)] for at in (r, r0))
                assert (mine == read).all()
                seen[r] = last
    assert all(seen[r] * PAGE >= lens[r] for r in range(rows))


@settings(max_examples=50, deadline=None)
@given(moves=MOVES)
def test_plan_shares_all_that_neighbours_have_in_common(forest, moves):
    """Page reads are as few as a tree in depth-first order allows: in a tile, full pages are read once."""
    tables, row_table, lens = trees = forest([(keep, length, 1) for keep, length, _ in moves])
    tiles, segments = plans.build(*trees)
    for row0, row1, segment0, segment1 in tiles.tolist():
        read: list[int] = []
        for r0, r1, page0, page1 in segments[segment0:segment1].tolist():
            last = int(lens[r0]) // PAGE if page1 < 0 else page1
            read += tables[row_table[r0]][page0:last].tolist()
            assert page1 >= 0 or r1 == r0 + 1
        distinct = {int(p) for r in range(row0, row1) for p in tables[row_table[r]][: lens[r] // PAGE]}
        assert set(read) == distinct
        assert len(read) == len(distinct)


def test_tiles_are_large_unless_threads_would_have_nothing_to_do():
    assert plans.tile_rows(100, 3, 2) == plans.TILE_ROWS == 32  # 12 items for 2 threads
    assert plans.tile_rows(100, 3, 6) == 32
    assert plans.tile_rows(100, 3, 7) == 16  # 21
    assert plans.tile_rows(100, 3, 12) == 8  # 39
    assert plans.tile_rows(100, 3, 64) == 8
    assert plans.tile_rows(512, 32, 64) == 32


def test_plan_of_one_shared_prompt():
    """Four paths over a prompt of three pages: the prompt is one segment, then each row goes its own way."""
    tables = np.array([[7, 8, 9, 1, 0], [7, 8, 9, 2, 3], [7, 8, 9, 4, 0], [7, 8, 9, 5, 0]], np.int32)
    tiles, segments = plans.build(tables, np.arange(4, dtype=np.int32), np.array([50, 65, 49, 64], np.int32))
    assert tiles.tolist() == [[0, 4, 0, 5]]
    assert segments.tolist() == [[0, 4, 0, 3], [0, 1, 3, -1], [1, 2, 3, -1], [2, 3, 3, -1], [3, 4, 3, -1]]
