"""Head norms, rotary positions and the write into the KV pool, in Triton against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import rope
from rftfast.ops.kv import FLOAT8, PAGE, KVPool
from tests.kernels.rounding import assert_rounded
from tests.triton_device import DEVICE

EPS = 1e-6
LAYERS, PAGES, POSITIONS = 2, 9, 300
# head_dim, heads, kv_heads: one head; heads over several programs; widths that are no power of two; grouped and not
SHAPES = [(16, 1, 1), (64, 9, 3), (64, 32, 8), (80, 8, 2), (96, 7, 1), (128, 4, 4), (2, 2, 1)]


def case(head_dim, heads, kv_heads, rows, dtype, norms, seed=0):
    g = torch.Generator().manual_seed(seed)
    angles = torch.rand(POSITIONS, head_dim // 2, generator=g) * 6.3
    pool = KVPool.allocate(LAYERS, PAGES, kv_heads, head_dim, dtype, DEVICE, layout="rows")
    pool.data.copy_(torch.randn(pool.data.shape, generator=g))
    weights = [(torch.rand(head_dim, generator=g) + 0.5).to(dtype).to(DEVICE) for _ in range(2)]
    return {
        "qkv": torch.randn(rows, (heads + 2 * kv_heads) * head_dim, generator=g).to(dtype).to(DEVICE),
        "cos": angles.cos().to(DEVICE),
        "sin": angles.sin().to(DEVICE),
        "positions": torch.randint(POSITIONS, (rows,), generator=g, dtype=torch.int32).to(DEVICE),
        "slots": torch.randperm(PAGES * PAGE, generator=g)[:rows].to(DEVICE),
        "pool": pool,
        "layer": 1,
        "heads": heads,
        "q_norm": weights[0] if "q" in norms else None,
        "k_norm": weights[1] if "k" in norms else None,
        "eps": EPS,
    }


def copied(args):
    pool = args["pool"]
    return {**args, "qkv": args["qkv"].clone(), "pool": KVPool(pool.data.clone(), pool.head_dim, pool.layout)}


def in_float32(args):
    """The same numbers stored as float32, for a reference that is exact to 2^-24 whatever the storage type."""
    pool = args["pool"]
    wide = KVPool(torch.zeros_like(pool.data, dtype=torch.float32), pool.head_dim, pool.layout)
    norms = {n: None if args[n] is None else args[n].float() for n in ("q_norm", "k_norm")}
    return {**args, "qkv": args["qkv"].float(), "pool": wide, **norms}


def unpacked(pool, slots):
    """Keys and values [n, K, D] at ``slots``."""
    keys, values = pool.keys_values(1, torch.arange(PAGES, device=DEVICE), PAGES * PAGE)
    return keys[slots], values[slots]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "norms"), [*((s, "") for s in SHAPES), *((s, "qk") for s in SHAPES), (SHAPES[1], "k")]
)
def test_is_the_reference(shape, norms, dtype):
    head_dim, heads, _ = shape
    args = case(*shape, 7, dtype, norms)
    got, want = copied(args), in_float32(args)
    rope.triton(**got)
    rope.reference(**want)
    # Values below about 5, each from two products and, normalised, a scale with a relative error of head_dim * 2^-24.
    slack = 8 * 2.0**-23 + (8 * head_dim * 2.0**-24 if norms else 0)
    q = slice(0, heads * head_dim)
    assert_rounded(got["qkv"][:, q], want["qkv"][:, q], slack)
    assert torch.equal(got["qkv"][:, q.stop :], args["qkv"][:, q.stop :])  # k and v are only read
    (keys, values), (want_keys, want_values) = (unpacked(a["pool"], a["slots"]) for a in (got, want))
    assert_rounded(keys, want_keys, slack)
    assert torch.equal(values.float(), want_values)  # a copy has one right answer
    others = torch.ones(PAGES * PAGE, dtype=torch.bool, device=DEVICE)
    others[args["slots"]] = False
    for now, before in zip(unpacked(got["pool"], others), unpacked(args["pool"], others), strict=True):
        assert torch.equal(now, before)
    assert torch.equal(got["pool"].data[0], args["pool"].data[0])  # the other layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "norms"), [(SHAPES[1], ""), (SHAPES[3], "qk"), (SHAPES[5], "k")])
def test_float8_is_what_would_be_stored_rounded_once_more(shape, norms, dtype):
    head_dim, _, kv_heads = shape
    args = case(*shape, 7, dtype, norms)
    made = torch.Generator().manual_seed(1)
    scales = torch.exp2(torch.randint(-9, 3, (LAYERS, kv_heads, 2), generator=made).float()).to(DEVICE)
    before = torch.randint(256, args["pool"].data.shape, dtype=torch.uint8, generator=made).to(DEVICE)
    got, want = (KVPool(before.clone().view(FLOAT8), head_dim, "rows", scales) for _ in range(2))
    plain, eight = copied(args), copied(args)
    rope.triton(**plain)
    want.put(1, args["slots"], *unpacked(plain["pool"], args["slots"]))
    rope.triton(**{**eight, "pool": got})
    assert torch.equal(eight["qkv"], plain["qkv"])
    assert torch.equal(got.raw, want.raw)
    assert not torch.equal(got.raw, before)


def test_an_empty_row_writes_nothing():
    args = case(64, 9, 3, 4, torch.bfloat16, "")
    slots = args["slots"].clone()
    args["slots"][[0, 2]] = -1
    got, want = copied(args), copied(args)
    rope.triton(**got)
    there = torch.tensor([1, 3], device=DEVICE)
    rope.reference(**{**want, **{n: want[n][there] for n in ("qkv", "positions", "slots")}})
    keys, want_keys = unpacked(got["pool"], slots[there])[0], unpacked(want["pool"], slots[there])[0]
    assert_rounded(keys, want_keys, 1e-2)
    got["pool"].data[1, slots[there] // PAGE] = args["pool"].data[1, slots[there] // PAGE]
    assert torch.equal(got["pool"].data, args["pool"].data)


def test_a_row_does_not_depend_on_the_others():
    args = case(64, 3, 3, 6, torch.bfloat16, "qk")
    whole = copied(args)
    rope.triton(**whole)
    for r in (0, 5):
        alone = copied(args)
        alone |= {name: args[name][r : r + 1].clone() for name in ("qkv", "positions", "slots")}
        rope.triton(**alone)
        assert torch.equal(alone["qkv"][0], whole["qkv"][r])
        for got, want in zip(
            unpacked(alone["pool"], alone["slots"]), unpacked(whole["pool"], alone["slots"]), strict=True
        ):
            assert torch.equal(got, want)


def test_only_the_gpus_layout_and_no_rows():
    args = case(16, 1, 1, 3, torch.float32, "")
    rope.triton(**{**args, **{n: args[n][:0] for n in ("qkv", "positions", "slots")}})
    args["pool"] = KVPool(args["pool"].data, 16, "pairs")
    with pytest.raises(AssertionError):
        rope.triton(**args)
