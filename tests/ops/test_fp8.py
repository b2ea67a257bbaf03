"""Products in float8: the scales, the emulation against float64 of the same rounded values, and what torch's product is given."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rftfast.errors import UserError
from rftfast.ops import fp8, linear, select
from rftfast.ops.linear import Linear


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_row_keeps_three_bits_behind_the_first() -> None:
    x = draw(40, 300) * torch.logspace(-8, 8, 40)[:, None]
    quantized, scale = fp8.quantize(x)
    assert quantized.dtype == torch.float8_e4m3fn and scale.shape == (40, 1) and scale.dtype == torch.float32
    assert (quantized.float().abs().amax(1) == fp8.LARGEST).all()
    error = (quantized.float() * scale - x).abs()
    # Half of the last bit, or, below the smallest normal number of e4m3 (2^-6), half of 2^-9.
    assert (error <= torch.maximum(x.abs() / 16, scale * 2**-10) * 1.001).all()


def test_a_row_of_zeros_stays_one() -> None:
    quantized, scale = fp8.quantize(torch.zeros(2, 32))
    assert (quantized.float() == 0).all() and (scale > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", [linear.plain, linear.invariant])
def test_the_emulation_is_the_product_of_the_rounded_values(dtype: torch.dtype, form: object) -> None:
    x, weight, bias = draw(9, 96, dtype=dtype), draw(48, 96, seed=1, dtype=dtype), draw(48, seed=2, dtype=dtype)
    prepared = fp8.prepare(weight, bias)
    out = fp8.product(x, prepared, others=form)
    (xq, xs), (wq, ws) = fp8.quantize(x), fp8.quantize(weight)
    exact = (xq.double() * xs) @ (wq.double() * ws).T + bias.double()
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=4e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)
    plain = x.double() @ weight.double().T + bias.double()
    assert 0.005 < float((out.double() - plain).norm() / plain.norm()) < 0.06, "float8 costs some per cent, and no more"


def test_rows_do_not_see_each_other() -> None:
    """In invariant mode to the bit, as everywhere."""
    x, prepared = draw(40, 96), fp8.prepare(draw(48, 96, seed=1), None)
    whole = fp8.product(x, prepared, others=linear.invariant)
    for rows in (1, 2, 7, 33):
        assert torch.equal(fp8.product(x[:rows], prepared, others=linear.invariant), whole[:rows])


def test_the_head_is_not_quantised() -> None:
    ops = select("cpu", backend="reference", quantization="fp8")
    weight = draw(64, 96)
    assert ops.quantization == "fp8" and ops.prepare_layer(weight, None).layout == "fp8 in float32"
    head = ops.prepare(weight, None)
    x = draw(3, 96)
    assert head.layout != "fp8 in float32" and torch.equal(ops.linear(x, head), linear.invariant(x, head))
    assert "slow" in ops.backends["linear of layers"][1]
    off = select("cpu", backend="reference")
    assert off.quantization is None and off.prepare_layer(weight, None).layout == off.prepare(weight, None).layout


@pytest.mark.parametrize(
    ("device", "invariant", "capability", "message"),
    [
        ("cuda:0", True, (9, 0), "--no-invariant"),
        ("cuda:0", False, (8, 0), r"8\.0 and float8 begins with 8\.9"),
        ("cuda:0", False, None, "no CUDA device"),
    ],
)
def test_where_it_cannot_run(
    device: str, invariant: bool, capability: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with pytest.raises(UserError, match=message):
        select(device, invariant=invariant, quantization="fp8")


def test_another_kind_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown quantization 'int4': there is fp8"):
        select("cpu", quantization="int4")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that say they are on a GPU and hold nothing: torch checks a product's shapes and strides as there."""

    def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
        return torch.empty_like(x, dtype=torch.float8_e4m3fn), scale

    monkeypatch.setattr(fp8, "_quantize_rows", quantize_rows)


@pytest.mark.parametrize("rows", [0, 1, 2, 17, 1024])
@pytest.mark.parametrize("biased", [False, True])
def test_torch_takes_what_a_gpu_is_given(gpu: None, rows: int, biased: bool) -> None:
    with FakeTensorMode():
        there = {"dtype": torch.bfloat16, "device": "cuda"}
        x, weight, bias = torch.empty(rows, 64, **there), torch.empty(96, 64, **there), torch.empty(96, **there)
        prepared = fp8.prepare(weight, bias if biased else None)
        assert (prepared.layout, prepared.weight.dtype) == ("fp8", torch.float8_e4m3fn)
        assert prepared.scale is not None and prepared.scale.shape == (1, 96) and prepared.scale.is_contiguous()
        out = fp8.product(x, prepared, others=partial(pytest.fail, "quantised weights are not for these"))
        assert out.shape == (rows, 96) and out.dtype == torch.bfloat16 and out.device.type == "cuda"


@pytest.mark.parametrize("biased", [False, True])
def test_torchs_product_computes_what_the_emulation_does(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's function has an implementation for CPUs as well: which scale belongs to which side, and the bias."""
    monkeypatch.setattr(fp8, "_quantize_rows", fp8.quantize)
    x, weight, bias = draw(17, 64), draw(96, 64, seed=1), draw(96, seed=2) if biased else None
    quantized, scale = fp8.quantize(weight * torch.logspace(-2, 2, 96)[:, None])
    try:
        out = fp8._cuda(x, Linear(quantized, bias, "fp8", scale=scale.T.contiguous()))
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"this torch has no such product on CPUs: {error}")
    exact = fp8.product(x, Linear(quantized.float() * scale, bias, "fp8 in float32"), others=linear.plain)
    torch.testing.assert_close(out, exact, rtol=8e-3, atol=1e-2)


@pytest.mark.parametrize("shape", [(96, 72), (72, 96)])
def test_shapes_that_a_gpu_does_not_multiply(gpu: None, shape: tuple[int, int]) -> None:
    with FakeTensorMode(), pytest.raises(UserError, match=f"{shape[0]} x {shape[1]}.*multiples of 16"):
        fp8.prepare(torch.empty(shape, dtype=torch.bfloat16, device="cuda"), None)


def test_other_weights_are_left_to_others() -> None:
    x, weight = draw(4, 32), draw(16, 32, seed=1)
    assert torch.equal(fp8.product(x, Linear(weight, None), others=linear.plain), x @ weight.T)
