"""Keys and values in float8: as bytes (the GPU's layout), and emulated in the model's own type (the CPU's)."""

from __future__ import annotations

import pytest
import torch

from rftfast.errors import UserError
from rftfast.ops import fp8, rope
from rftfast.ops.kv import FLOAT8, PAGE, KVPool
from tests.ops.test_rope import case, copied

HEAD_DIM, KV_HEADS, PAGES = 32, 3, 5
SCALES = torch.exp2(torch.arange(-6.0, 6).view(2, KV_HEADS, 2))


def random(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(rows)
    keys, values = torch.randn(2, rows, KV_HEADS, HEAD_DIM, generator=made)
    return (keys * SCALES[1, :, 0, None] * 9).to(dtype), (values * SCALES[1, :, 1, None] * 9).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_forms_hold_the_same_numbers(dtype: torch.dtype) -> None:
    slots = torch.randperm(PAGES * PAGE)[:23]
    keys, values = random(23, dtype)
    sizes = 2, PAGES, KV_HEADS, HEAD_DIM
    bytes_ = KVPool.allocate(*sizes, FLOAT8, layout="rows", scales=SCALES)
    emulated = KVPool.allocate(*sizes, dtype, scales=SCALES)
    assert bytes_.in_float8 and not emulated.in_float8
    for pool in (bytes_, emulated):
        pool.put(1, slots, keys, values)
        assert not pool.raw[0].any(), "the other layer"
    for kept, its, given, scale in zip(
        bytes_.get(1, slots), emulated.get(1, slots), (keys, values), SCALES[1].T, strict=True
    ):
        assert kept.dtype == torch.float32 and its.dtype == dtype and torch.equal(kept, its.float())
        error = (kept - given.float()).abs()
        assert (error <= torch.maximum(given.float().abs() / 16, scale[:, None] * 2**-10) * 1.001).all()
        assert error.max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("write", [rope.native, rope.reference])
def test_what_is_written_is_rounded_and_the_rest_left(isa: str, dtype: torch.dtype, write: object) -> None:
    args = case(HEAD_DIM, 6, KV_HEADS, 9, dtype, "qk")
    plain = copied(args)
    write(**plain)  # type: ignore[operator]
    eight = copied(args)
    eight["pool"] = KVPool(eight["pool"].data, HEAD_DIM, scales=SCALES)
    write(**eight)  # type: ignore[operator]
    plain["pool"] = KVPool(plain["pool"].data, HEAD_DIM, scales=SCALES)
    plain["pool"].put(1, args["slots"], *plain["pool"].get(1, args["slots"]))
    assert torch.equal(eight["pool"].data, plain["pool"].data) and torch.equal(eight["qkv"], plain["qkv"])


def test_float8_needs_scales_and_the_gpus_layout() -> None:
    for layout, scales in (("rows", None), ("pairs", SCALES)):
        with pytest.raises(AssertionError):
            KVPool.allocate(2, 1, KV_HEADS, HEAD_DIM, FLOAT8, layout=layout, scales=scales)  # type: ignore[arg-type]


def test_who_may_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert fp8.in_kv_cache("fp8", cpu) and not fp8.in_kv_cache("auto", cpu)
    with pytest.raises(UserError, match="unknown dtype 'int8' for keys and values: choose auto or fp8"):
        fp8.in_kv_cache("int8", cpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))
    assert not fp8.in_kv_cache("auto", gpu)
    with pytest.raises(
        UserError, match=r"--kv-cache-dtype fp8 cannot run on cuda: .* 8\.6 and float8 begins with 8\.9"
    ):
        fp8.in_kv_cache("fp8", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    assert fp8.in_kv_cache("fp8", gpu)


def test_how_it_is_called() -> None:
    assert [fp8.marks(*given) for given in ((None, None), (None, "auto"), ("fp8", "auto"), (None, "fp8"))] == [
        "",
        "",
        "+fp8",
        "+kv-fp8",
    ]
    assert fp8.marks("fp8", "fp8") == "+fp8+kv-fp8"
