"""Head norms, rotary positions and the write into the KV pool, against float64."""

import pytest
import torch

from rftfast.ops import native, rope
from rftfast.ops.kv import PAGE, KVPool

EPS = 1e-6
LAYERS, PAGES, POSITIONS = 2, 9, 300
SHAPES = [(16, 1, 1), (64, 9, 3), (80, 8, 2), (96, 7, 1), (128, 8, 1), (2, 2, 1)]  # head_dim, heads, kv_heads


def case(head_dim, heads, kv_heads, rows, dtype, normed, seed=0):
    g = torch.Generator().manual_seed(seed)
    angles = torch.rand(POSITIONS, head_dim // 2, generator=g) * 6.3
    pool = KVPool.allocate(LAYERS, PAGES, kv_heads, head_dim, dtype)
    pool.data.copy_(torch.randn(pool.data.shape, generator=g))
    return {
        "qkv": torch.randn(rows, (heads + 2 * kv_heads) * head_dim, generator=g).to(dtype),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "positions": torch.randint(POSITIONS, (rows,), generator=g, dtype=torch.int32),
        "slots": torch.randperm(PAGES * PAGE, generator=g)[:rows],
        "pool": pool,
        "layer": 1,
        "heads": heads,
        "q_norm": (torch.rand(head_dim, generator=g) + 0.5).to(dtype) if normed else None,
        "k_norm": (torch.rand(head_dim, generator=g) + 0.5).to(dtype) if normed else None,
        "eps": EPS,
    }


def copied(args):
    return {**args, "qkv": args["qkv"].clone(), "pool": KVPool(args["pool"].data.clone(), args["pool"].head_dim)}


def in_float32(args):
    """The same numbers stored as float32, for a reference that is exact to 2^-24 whatever the storage type."""
    pool = args["pool"]
    wide = KVPool.allocate(LAYERS, PAGES, pool.data.shape[2], pool.head_dim, torch.float32)
    norms = {n: None if args[n] is None else args[n].float() for n in ("q_norm", "k_norm")}
    return {**args, "qkv": args["qkv"].float(), "pool": wide, **norms}


def unpacked(pool, slots):
    """Keys and values [n, K, D] at ``slots``."""
    keys, values = pool.keys_values(1, torch.arange(PAGES), PAGES * PAGE)
    return keys[slots], values[slots]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 9, 70])
@pytest.mark.parametrize("normed", [False, True])
def test_native_is_the_reference(isa, dtype, shape, rows, normed, assert_rounded):
    head_dim, heads, _ = shape
    args = case(*shape, rows, dtype, normed, seed=rows)
    got, want = copied(args), in_float32(args)
    rope.native(**got)
    rope.reference(**want)
    # Values below about 5, each from two products and, normalised, a scale with a relative error of head_dim * 2^-24.
    slack = 8 * 2.0**-23 + (8 * head_dim * 2.0**-24 if normed else 0)
    q = slice(0, heads * head_dim)
    assert_rounded(got["qkv"][:, q], want["qkv"][:, q], slack)
    assert torch.equal(got["qkv"][:, q.stop :], args["qkv"][:, q.stop :])  # k and v are only read
    (keys, values), (want_keys, want_values) = (unpacked(a["pool"], a["slots"]) for a in (got, want))
    assert_rounded(keys, want_keys, slack)
    assert torch.equal(values.float(), want_values)  # a copy has one right answer
    if rows > 1:
        assert not torch.equal(keys, unpacked(args["pool"], args["slots"])[0])


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_only_the_named_places_are_written(isa, dtype, backend):
    args = case(64, 3, 3, 21, dtype, False)
    got = copied(args)
    getattr(rope, backend)(**got)
    others = torch.ones(PAGES * PAGE, dtype=torch.bool)
    others[args["slots"]] = False
    for now, before in zip(unpacked(got["pool"], others), unpacked(args["pool"], others), strict=True):
        assert torch.equal(now, before)
    assert torch.equal(got["pool"].data[0], args["pool"].data[0])  # the other layer


def test_the_reference_is_a_rotation_of_pairs(dtype):
    """Channel d turns with d + D/2: as complex numbers, times e^(i angle)."""
    args = in_float32(case(16, 2, 1, 5, dtype, False))
    before = args["qkv"].clone().double().view(5, 4, 16)
    rope.reference(**args)
    at = args["positions"].long()
    turn = torch.complex(args["cos"][at].double(), args["sin"][at].double())[:, None]
    turned = torch.complex(before[..., :8], before[..., 8:]) * turn
    exact = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(args["qkv"].double().view(5, 4, 16)[:, :2], exact[:, :2], rtol=1e-6, atol=1e-7)
    keys, values = unpacked(args["pool"], args["slots"])
    torch.testing.assert_close(keys.double(), exact[:, 2:3], rtol=1e-6, atol=1e-7)
    assert torch.equal(values.double(), before[:, 3:])


def test_a_row_does_not_depend_on_the_others(isa, dtype):
    args = case(64, 3, 3, 70, dtype, True)
    whole = copied(args)
    rope.native(**whole)
    for r in (0, 8, 69):
        alone = copied(args)
        alone |= {name: args[name][r : r + 1].clone() for name in ("qkv", "positions", "slots")}
        rope.native(**alone)
        assert torch.equal(alone["qkv"][0], whole["qkv"][r])
        for got, want in zip(
            unpacked(alone["pool"], alone["slots"]), unpacked(whole["pool"], alone["slots"]), strict=True
        ):
            assert torch.equal(got, want)


def test_neighbours_written_by_two_threads() -> None:
    """Two tokens share a word of the value page. A prompt chunk from an odd place on puts such pairs into the hands of two
    threads; a read-modify-write of the word would lose one of them now and then."""
    if native.available():
        pytest.skip(f"no native kernels: {native.available()}")
    heads, kv_heads, d, rows = 9, 3, 64, 499
    torch.manual_seed(0)
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * d).to(torch.bfloat16)
    angles = torch.randn(600, d // 2)
    positions = torch.arange(13, 13 + rows, dtype=torch.int32)
    slots = positions.long()
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            native.set_threads(count)
            for _ in range(1 if count == 1 else 60):
                pool = KVPool.allocate(1, 33, kv_heads, d, torch.bfloat16)
                rope.native(qkv.clone(), angles.cos(), angles.sin(), positions, slots, pool, 0, heads, None, None, 1e-6)
                results.append(pool.data)
    finally:
        native.set_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])
