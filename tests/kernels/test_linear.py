"""The product of fixed tiles against float64, and rows that do not depend on the batch."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import linear
from tests.kernels.rounding import assert_rounded
from tests.triton_device import DEVICE

DTYPES = [torch.float32, torch.bfloat16]


def case(rows, outputs, channels, dtype, bias=True, seed=0):
    made = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, channels, generator=made).to(dtype).to(DEVICE) for n in (rows, outputs))
    add = torch.randn(outputs, generator=made).to(dtype).to(DEVICE) if bias else None
    return x, linear.Linear(weight, add)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "outputs", "channels", "bias"),
    [(1, 1, 1, True), (3, 70, 96, False), (130, 257, 40, True), (33, 129, 200, True), (260, 130, 64, False)],
)
def test_is_the_product(rows, outputs, channels, bias, dtype):
    x, weight = case(rows, outputs, channels, dtype, bias)
    exact = x.double() @ weight.weight.double().T
    size = x.double().abs() @ weight.weight.double().abs().T
    if weight.bias is not None:
        exact, size = exact + weight.bias.double(), size + weight.bias.double().abs()
    # Float32 sums of so many terms: their errors add up as a random walk does, 2^-24 of the terms' size each.
    assert_rounded(linear.triton(x, weight), exact, 2.0**-24 * (4 + channels**0.5) * size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype):
    x, weight = case(140, 65, 96, dtype)
    whole = linear.triton(x, weight)
    for first, last in ((0, 1), (7, 8), (139, 140), (3, 36), (100, 140), (1, 140)):
        assert torch.equal(linear.triton(x[first:last], weight), whole[first:last]), (first, last)


def test_no_rows():
    x, weight = case(1, 8, 16, torch.float32)
    assert linear.triton(x[:0], weight).shape == (0, 8)
