"""Prefix and suffix launches: right on random trees, and a row's bits its own affair."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from tests.kernels.attention_cases import Case, Path, attend, listed, random_paths, shape_for

# head_dim, key/value heads, query heads of each
SHAPES = [(16, 1, 1), (64, 2, 3), (64, 1, 4), (64, 1, 8), (80, 1, 2), (96, 2, 1), (128, 1, 7), (128, 1, 5), (32, 1, 6)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(("shape", "dtype"), [(s, DTYPES[i % 3]) for i, s in enumerate(SHAPES)], ids=str)
def test_decode_is_the_reference(shape, dtype):
    rng = np.random.default_rng(shape)
    case = Case.random(random_paths(rng, leaves=7, depth=2 + SHAPES.index(shape) % 3), *shape, dtype)
    work = listed(case, shape_for(case))
    work.check()
    case.check(attend(case, work))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_sizes_of_real_runs(dtype):
    """Tiles of 64 queries, splits of 512 keys: a long header, two questions, a fork in the middle of a path."""
    header, question, path = list(range(34)), [40, 41], [50, 51, 52]
    paths = [Path((*header, 60 + i), 34 * 16 + 3 + i, 34) for i in range(3)]
    paths += [Path((*header, *question, 70 + i), 36 * 16 + 1, 36) for i in range(12)]
    paths += [Path((*header, *question, *path, 90 + i), 39 * 16 + 9, 38 + i) for i in range(2)]
    case = Case.random(paths, 64, 1, 3, dtype)
    work = listed(case, shape_for(case, tile_m=64, split_pages=32))
    assert len(work._tiles) == 1 + 4  # the header's first 512 keys once for all, then by what differs
    case.check(attend(case, work))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[4], SHAPES[6]], ids=str)
def test_float8_is_its_numbers_in_the_queries_type(shape, dtype):
    """To the bit where that is what they are multiplied in: scales are powers of two, so that nothing is rounded when they are
    multiplied with sums rather than numbers."""
    rng = np.random.default_rng(shape)
    case = Case.random(random_paths(rng, leaves=7, depth=3), *shape, dtype).in_float8()
    wide, lists = case.widened(), shape_for(case)
    found = attend(case, listed(case, lists))
    wide.check(found)
    if dtype != torch.bfloat16:
        assert torch.equal(found, attend(wide, listed(wide, lists)))


@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 32, 33, 64, 65])
def test_a_single_row_of_any_length(keys):
    """With the longest prefix it can have, and with none."""
    pages = tuple(range(-(-keys // 16)))
    case = Case.random([Path(pages, keys, (keys - 1) // 16), Path(pages, keys, 0)], 64, 1, 2, torch.float32)
    case.check(attend(case, listed(case, shape_for(case))))


def test_an_empty_list_writes_nothing():
    case = Case.random([Path((0,), 5, 0)], 64, 1, 2, torch.float32)
    assert len(attend(case, listed(case, shape_for(case), order=[]), q_order=[])) == 0


SCORES = {
    "growing": lambda t: t * 4.0,
    "falling": lambda t: -t * 4.0,
    "a saw": lambda t: (t * 37 % 64) * 2.0 - 50,
    "a late peak": lambda t: (t == 90) * 300.0,
    "all alike and hugely negative": lambda t: 0 * t - 2.0**15,
    "all but one hugely negative": lambda t: (t != 70) * -(2.0**15),
}


@pytest.mark.parametrize("name", SCORES)
def test_awkward_scores(name):
    """One channel carries the score, exact in float16, in both signs; the maximum moves in prefix and suffix."""
    case = Case.random([Path(tuple(range(7)), 100, n) for n in (0, 3, 5)], 32, 1, 2, torch.float16)
    scores = SCORES[name](torch.arange(112)).half()
    keys = case.pool.data[1, :, 0, 0].view(7, 16, 32)
    keys.zero_()
    keys[:, :, 5] = scores.view(7, 16)
    case.q.zero_()
    case.q[:, 0, 5], case.q[:, 1, 5] = 1.0, -1.0
    exact, slack = case.exact()
    out = attend(case, listed(case, shape_for(case))).cpu().double()
    # Scores are single products, exact; what is lost is lost in the differences' exponentials.
    assert ((out - exact).abs() <= 2.0**-11 * exact.abs() + slack.clamp(max=0.02)).all()


@pytest.mark.parametrize("garbage", [60_000.0, -60_000.0])
def test_what_lies_beyond_a_rows_end_is_not_seen(garbage):
    """The last page's unused places, page 0 (which stands in for pages that are not there) and other paths' pages."""
    paths = [Path((1, 2, 3, 4, 5), 70, 3), Path((1, 2, 3, 6, 7), 65, 4), Path((1, 2, 3, 6), 50, 1), Path((8,), 1, 0)]
    results = []
    for fill in (0.0, garbage):
        case = Case.random(paths, 64, 1, 3, torch.float16)
        case.pool.data[1, 0] = fill
        for page, used in ((5, 6), (7, 1), (8, 1)):
            case.pool.data[1, page].view(1, 2, 16, 64)[:, :, used:] = fill
        results.append(attend(case, listed(case, shape_for(case))))
    assert results[0].isfinite().all()
    assert torch.equal(*results)


# -- a row's bits are its own affair ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_company_and_order_change_not_a_bit(dtype):
    rng = np.random.default_rng(5)
    case = Case.random(random_paths(rng, leaves=9, depth=3), 64, 1, 3, dtype)
    shape = shape_for(case)
    expected = attend(case, listed(case, shape))
    for order in ([3], [8, 0], rng.permutation(9).tolist()):
        assert torch.equal(attend(case, listed(case, shape, order)), expected[order])
    changed = listed(case, shape)
    for key in (2, 0, 7, 5, 8):
        changed.leave(key)
    for key in (7, 2):
        changed.join(key, key, case.paths[key].pages, case.paths[key].keys, case.paths[key].prefix_pages)
    rows = [row.key for row in changed._rows]
    assert sorted(rows) == [1, 2, 3, 4, 6, 7]
    assert torch.equal(attend(case, changed), expected[rows])


def test_the_same_path_many_times_gives_the_same_bits():
    """Twelve samples of a prompt at the same place: three tiles, every place in them."""
    case = Case.random([Path((0, 1, 2, 3, 4), 75, 4)] * 12, 64, 1, 3, torch.bfloat16)
    case.q[:] = case.q[:1].clone()
    out = attend(case, listed(case, shape_for(case)))
    assert torch.equal(out, out[:1].expand_as(out))
