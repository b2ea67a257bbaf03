"""Matrix products whose rows do not depend on how many there are."""

import pytest
import torch
import torch.nn.functional as F

from rftfast.ops import linear, native
from rftfast.ops.linear import MAX_ROWS, Linear

SHAPES = [(576, 960), (576, 3072), (1536, 576), (80, 96), (64, 50)]  # channels in and out: SmolLM2's and small ones
COUNTS = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 400, 511, 512]


def case(inputs, outputs, dtype, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(MAX_ROWS, inputs, generator=g).to(dtype)
    weight = torch.randn(outputs, inputs, generator=g).to(dtype)
    return x, weight, torch.randn(outputs, generator=g).to(dtype) if bias else None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_rows_do_not_depend_on_their_number(dtype, shape, bias):
    """Against all 512 rows, from both ends: other numbers, other neighbours, other places."""
    x, weight, b = case(*shape, dtype, bias)
    prepared = linear.prepare(weight, b)
    expected = linear.invariant(x, prepared)
    if prepared.layout != "tiles" and not linear.fixed_blocks(dtype):
        assert torch.equal(expected, F.linear(x, weight, b))
    for n in COUNTS:
        assert torch.equal(linear.invariant(x[:n], prepared), expected[:n]), n
        assert torch.equal(linear.invariant(x[MAX_ROWS - n :], prepared), expected[MAX_ROWS - n :]), n


def test_all_small_numbers_of_rows(dtype):
    x, weight, b = case(576, 64, dtype)
    prepared = linear.prepare(weight, b)
    expected = linear.invariant(x, prepared)
    counts = [*range(1, 161), *range(161, MAX_ROWS, 7)]
    differ = [n for n in counts if not torch.equal(linear.invariant(x[:n], prepared), expected[:n])]
    assert differ == []


@pytest.mark.parametrize("shape", [(576, 960), (1536, 576), (4096, 512), (8960, 256)], ids=str)
def test_each_row_alone(dtype, shape):
    """oneDNN's product of one row of many channels adds up in another order; some row in a dozen shows it."""
    x, weight, _ = case(*shape, dtype)
    prepared = linear.prepare(weight, None)
    expected = linear.invariant(x[:64], prepared)
    differ = [i for i in range(64) if not torch.equal(linear.invariant(x[i : i + 1], prepared), expected[i : i + 1])]
    assert differ == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_blocked_weights_give_the_same_bits(shape, bias):
    if not linear.can_block():
        pytest.skip("this torch cannot keep bfloat16 weights in oneDNN's order")
    x, weight, b = case(*shape, torch.bfloat16, bias, seed=1)
    prepared = linear.prepare(weight, b, tiles=False)
    assert prepared.layout == "blocked"
    for n in (128,) if linear.fixed_blocks(torch.bfloat16) else (1, 8, 33, 100, 512):
        assert torch.equal(linear.plain(x[:n], prepared), linear.plain(x[:n], Linear(weight, b)))


@pytest.mark.parametrize("form", [linear.plain, linear.invariant])
@pytest.mark.parametrize("rows", [1, 40])
def test_the_product_is_right(dtype, form, rows, assert_rounded):
    x, weight, b = case(96, 80, dtype, seed=2)
    exact = x[:rows].double() @ weight.double().T + b.double()
    # Sums of 97 terms in float32: worst case 97 * 2^-24 times the sum of their absolute values.
    slack = 97 * 2.0**-24 * (x[:rows].double().abs() @ weight.double().abs().T + b.double().abs())
    assert_rounded(form(x[:rows], linear.prepare(weight, b)), exact, slack)


def test_float32_weights_stay_as_they_are():
    weight = torch.ones(4, 4)
    prepared = linear.prepare(weight, None)
    assert prepared.weight is weight
    assert prepared.layout == "rows"


@pytest.mark.parametrize("rows", [1, 100, 128, 129, 300, 512])
def test_fixed_blocks_serve_any_number_of_rows(rows, dtype, monkeypatch):
    """As on machines where the number of rows matters."""
    monkeypatch.setattr(linear, "fixed_blocks", lambda dtype: True)
    x, weight, b = case(576, 80, dtype)
    prepared = linear.prepare(weight, b, tiles=False)
    found = linear.invariant(x[:rows], prepared)
    assert found.shape == (rows, 80)
    assert torch.equal(found, linear.invariant(x, prepared)[:rows])
    assert torch.allclose(found.float(), F.linear(x[:rows].float(), weight.float(), b.float()), rtol=0.02, atol=0.2)


def test_whether_rows_matter_is_found_out(dtype):
    """Where it says they do not, products of any number of rows agree in shapes that it did not try."""
    if linear.fixed_blocks(dtype):
        pytest.skip("on this machine the number of rows matters; the tests above hold its blocks to that")
    x, weight, _ = case(2048, 1000, dtype)
    whole = F.linear(x, weight)
    assert all(torch.equal(F.linear(x[:n], weight), whole[:n]) for n in COUNTS if n >= 32)


needs_tiles = pytest.mark.skipif(not linear.can_tile(), reason="this processor has no matrix tiles (AMX)")


@needs_tiles
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("shape", [(32, 1), (32, 16), (64, 50), (96, 33), (1536, 576)], ids=str)
def test_tiles_give_the_rounded_product(rows, shape, bias, assert_rounded):
    """Every split into rows and outputs that are no whole tiles; what lies around ``x`` and the result is left alone."""
    x, weight, b = case(*shape, torch.bfloat16, bias, seed=3)
    prepared = linear.prepare(weight, b)
    assert prepared.layout == "tiles"
    x[rows:] = float("nan")
    exact = x[:rows].double() @ weight.double().T
    slack = x[:rows].double().abs() @ weight.double().abs().T
    if b is not None:
        exact, slack = exact + b.double(), slack + b.double().abs()
    found = linear.invariant(x[:rows], prepared)
    assert found.shape == exact.shape
    assert_rounded(found, exact, shape[0] * 2.0**-24 * slack)


@needs_tiles
def test_tiles_take_rows_with_a_stride():
    x, weight, _ = case(96, 64, torch.bfloat16)
    prepared = linear.prepare(weight[:, :64], None)  # neither is contiguous
    assert torch.equal(linear.plain(x[:40, 32:], prepared), linear.plain(x[:40, 32:].contiguous(), prepared))
    assert torch.equal(
        linear.plain(x[:64].T[:64].contiguous().T, prepared), linear.plain(x[:64, :64].contiguous(), prepared)
    )


@needs_tiles
@pytest.mark.parametrize("shape", [(576, 960), (96, 33)], ids=str)  # panels enough for all threads, and too few
def test_tiles_do_not_depend_on_the_threads(shape):
    x, weight, b = case(*shape, torch.bfloat16)
    prepared = linear.prepare(weight, b)
    before = torch.get_num_threads()
    try:
        for rows in (0, 1, 32, 33, 100, 512):
            found = []
            for threads in (1, 2, 3, 7):
                native.set_threads(threads)
                found.append(linear.invariant(x[:rows], prepared))
            assert all(torch.equal(each, found[0]) for each in found), rows
    finally:
        native.set_threads(before)


@needs_tiles
def test_channels_that_fill_no_tile_go_to_the_library():
    _, weight, _ = case(80, 96, torch.bfloat16)
    assert linear.prepare(weight, None).layout != "tiles"
    assert linear.prepare(weight.float(), None).layout == "rows"
    assert linear.prepare(weight[:, :64], None).layout == "tiles"
    assert linear.prepare(weight[:, :64], None, tiles=False).layout != "tiles"


@needs_tiles
def test_tiles_of_other_channels_are_refused():
    x, weight, _ = case(96, 64, torch.bfloat16)
    with pytest.raises(AssertionError):
        linear.plain(x[:, :64], linear.prepare(weight, None))
