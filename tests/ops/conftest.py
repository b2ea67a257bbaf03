"""What the tests of the operations share: instruction sets, rounding bounds, and random trees of page tables."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from rftfast.ops import native as native_ops
from rftfast.ops import rope
from rftfast.ops.kv import PAGE, KVPool

MISSING = native_ops.available()
ISAS = native_ops.load().isa_names() if MISSING is None else ["native"]
DTYPES = [torch.float32, torch.bfloat16]
# Largest relative error of rounding to nearest: 24 and 8 significant bits.
HALF_ULP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> Iterator[None]:
    """Two threads at most, so that a crowded machine is not made worse, and loops are still shared out."""
    before = torch.get_num_threads()
    set_threads = torch.set_num_threads if MISSING else native_ops.set_threads
    set_threads(min(2, before))
    yield
    set_threads(before)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that runs here, one test each; the one in use before comes back afterwards."""
    if MISSING:
        pytest.skip(MISSING)
    library = native_ops.load()
    before = library.isa()
    library.set_isa(request.param)
    yield request.param
    library.set_isa(before)


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="session")
def assert_rounded() -> Callable[..., None]:
    """``assert_rounded(actual, exact, slack)``: every value is the exact one rounded to its storage type, but for the
    error ``slack`` (a number or a tensor) of the arithmetic before the rounding."""

    def check(actual: torch.Tensor, exact: torch.Tensor, slack: float | torch.Tensor) -> None:
        assert actual.shape == exact.shape
        wide = exact.double()
        # 1 + 2^-7: an error before the rounding may push a value across a power of two, where the half-ulp doubles.
        bound = HALF_ULP[actual.dtype] * (1 + 2.0**-7) * wide.abs() + slack
        excess = (actual.double() - wide).abs() - bound
        assert not excess.isnan().any()
        assert excess.max() <= 0, f"{int((excess > 0).sum())} values off, the worst by {excess.max():.3e} too much"

    return check


def _forest(moves: Sequence[tuple[int, int, int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Page tables of a random tree in depth-first order: (tables [T, S], row_table [R], lens [R]), int32.

    Each move (keep, length, rows) is one path of ``length`` tokens that has its first ``keep`` pages (or as many full
    pages as both have) in common with the path before, and gives ``rows`` rows at its end: one is a decode step, more
    a chunk of a prompt. Page ids are in random order.
    """
    tables: list[list[int]] = []
    row_table: list[int] = []
    lens: list[int] = []
    used = 0
    for keep, length, rows in moves:
        rows = min(rows, length)
        shared = 0
        if tables:
            shared = min(keep, lens[-1] // PAGE, (length - rows + 1) // PAGE)
        table = tables[-1][:shared] if shared else []
        fresh = -(-length // PAGE) - shared
        table = table + list(range(used, used + fresh))
        used += fresh
        row_table += [len(tables)] * rows
        lens += range(length - rows + 1, length + 1)
        tables.append(table)
    names = np.random.default_rng(seed).permutation(used).astype(np.int32)
    padded = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for to, table in zip(padded, tables, strict=True):
        to[: len(table)] = names[table]
    return padded, np.array(row_table, np.int32), np.array(lens, np.int32)


@pytest.fixture(scope="session")
def forest() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return _forest


@pytest.fixture(scope="session")
def random_moves() -> Callable[..., list[tuple[int, int, int]]]:
    """``random_moves(rng, rows, longest)``: moves for ``forest`` that give exactly ``rows`` rows."""

    def draw(rng: np.random.Generator, rows: int, longest: int = 100) -> list[tuple[int, int, int]]:
        moves = []
        left = rows
        while left:
            # Half of the lengths stand at or beside a page border, where the mistakes are.
            length = int(rng.integers(1, longest + 1))
            if rng.random() < 0.5:
                length = max(1, length // PAGE * PAGE + int(rng.integers(-1, 2)))
            chunk = min(left, length, int(rng.choice([1, 1, 1, 2, 5, 20])))
            moves.append((int(rng.integers(0, longest // PAGE + 1)), length, chunk))
            left -= chunk
        return moves

    return draw


@pytest.fixture(scope="session")
def write() -> Callable[..., None]:
    """``write(pool, layer, table, keys, values)``: keys and values [n, K, D] to places 0..n-1 of a page table."""

    def put(pool: KVPool, layer: int, table: Sequence[int], keys: torch.Tensor, values: torch.Tensor) -> None:
        n, _, d = keys.shape
        at = torch.arange(n)
        slots = torch.as_tensor(np.asarray(table), dtype=torch.int64)[at // PAGE] * PAGE + at % PAGE
        qkv = torch.cat([torch.zeros(n, 1, d), keys, values], dim=1).to(pool.data.dtype).reshape(n, -1)
        still = torch.ones(1, d // 2), torch.zeros(1, d // 2)  # no rotation
        rope.reference(qkv, *still, torch.zeros(n, dtype=torch.int32), slots, pool, layer, 1, None, None, 1e-6)

    return put
