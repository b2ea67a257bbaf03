"""Chunks of prompts: causal, behind whatever was computed before, and the same to the bit wherever they are cut."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.engine.work_list import WorkList, chunk_tiles
from rftfast.ops import attention
from rftfast.ops.attention import WorkPlan
from rftfast.ops.work import DecodeWork
from tests.kernels.attention_cases import LAYER, Case, Path, shape_for
from tests.triton_device import DEVICE

SHAPES = [(16, 2, 1), (64, 1, 3), (64, 1, 8), (80, 1, 2), (96, 1, 1), (128, 1, 7)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


RUNS = {  # pages of the path, position of the first token, tokens
    "a whole prompt": [((5, 2, 9), 0, 40)],
    "one token": [((1,), 0, 1)],
    "behind a shared header": [((4, 8, 1, 6), 35, 20), ((4, 8, 3, 7), 32, 32), ((4, 8, 2), 40, 1)],
    "on page borders": [((0, 1, 2), 16, 16), ((3, 4), 15, 2), ((5, 6, 7, 8, 9), 64, 16)],
}


def chunk_case(runs, shape, dtype, seed=0):
    """A row for each token of ``runs``."""
    paths = [Path(pages, position + i + 1, 0) for pages, position, tokens in runs for i in range(tokens)]
    return Case.random(paths, *shape, dtype, seed)


def attend(case, runs, *, cut=1000, tile_m=16):
    """Results of the case's rows, each run in chunks of ``cut`` tokens."""
    chunks, first = [], 0
    shape = shape_for(case, tile_m=tile_m)
    work = WorkList(shape)
    for table, (pages, position, tokens) in enumerate(runs):
        work.set_pages(table, 0, pages)
        for done in range(0, tokens, cut):
            chunks.append((first + done, min(cut, tokens - done), position + done, table))
        first += tokens
    q, pool = case.on_device()
    device = DecodeWork.allocate(shape, q.shape[1], q.shape[2], DEVICE)
    device.apply(torch.from_numpy(work.take_delta()).to(DEVICE))
    tiles = torch.from_numpy(chunk_tiles(chunks, shape.tile_rows)).to(DEVICE)
    out = torch.full((len(q), q.shape[1] * q.shape[2]), torch.nan, dtype=q.dtype, device=DEVICE)
    return attention.triton(q, pool, LAYER, WorkPlan(device, 0, tiles), case.scale, out)


@pytest.mark.parametrize(("shape", "dtype"), [(s, DTYPES[i % 3]) for i, s in enumerate(SHAPES)], ids=str)
def test_chunks_are_the_reference(shape, dtype):
    runs = list(RUNS.values())[SHAPES.index(shape) % len(RUNS)]
    case = chunk_case(runs, shape, dtype)
    case.check(attend(case, runs))


@pytest.mark.parametrize(("name", "dtype"), list(zip(RUNS, [*DTYPES, torch.bfloat16], strict=True)), ids=str)
def test_float8_is_its_numbers_in_the_queries_type(name, dtype):
    """As when decoding."""
    case = chunk_case(RUNS[name], SHAPES[1], dtype).in_float8()
    found = attend(case, RUNS[name])
    case.widened().check(found)
    if dtype != torch.bfloat16:
        assert torch.equal(found, attend(case.widened(), RUNS[name]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tiles_of_real_runs(dtype):
    runs = RUNS["behind a shared header"]
    case = chunk_case(runs, (64, 1, 3), dtype)
    case.check(attend(case, runs, tile_m=64))


@pytest.mark.parametrize("name", RUNS)
def test_where_chunks_are_cut_changes_not_a_bit(name):
    """Other chunks are other tiles: rows stand elsewhere in them, beside others."""
    case = chunk_case(RUNS[name], (64, 1, 3), torch.bfloat16)
    whole = attend(case, RUNS[name])
    for cut in (1, 3, 7):
        assert torch.equal(attend(case, RUNS[name], cut=cut), whole)


def test_what_comes_later_is_not_seen():
    """Keys behind a row are those of its own chunk, of an earlier and longer one, or garbage."""
    runs = RUNS["a whole prompt"]
    results = []
    for garbage in (0.0, 60_000.0):
        case = chunk_case(runs, (64, 1, 2), torch.float16)
        case.pool.data[LAYER, 9].view(1, 2, 16, 64)[:, :, 8:] = garbage
        case.pool.data[LAYER, 0] = garbage
        results.append(attend(case, runs))
    assert results[0].isfinite().all() and torch.equal(*results)


def test_rows_of_no_chunk_stay_as_they_are():
    runs = RUNS["behind a shared header"]
    case = chunk_case(runs, (64, 1, 2), torch.float32)
    out = attend(case, runs[:2])
    assert out[52:].isnan().all() and out[:52].isfinite().all()


def test_chunk_tiles():
    """Cut at the tile's height; those with most keys come first, so that none of them starts last."""
    tiles = chunk_tiles([(0, 7, 10, 3), (7, 2, 100, 5), (9, 3, 0, 4)], tile_rows=3)
    assert tiles.dtype == np.int32
    assert tiles.tolist() == [[7, 2, 100, 5], [6, 1, 16, 3], [3, 3, 13, 3], [0, 3, 10, 3], [9, 3, 0, 4]]
    assert chunk_tiles([], tile_rows=3).shape == (0, 4)
