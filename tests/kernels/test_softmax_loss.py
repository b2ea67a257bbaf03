"""Cross-entropy and its gradient in Triton against float64."""

import math

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import softmax_loss
from tests.kernels.rounding import assert_rounded
from tests.triton_device import DEVICE


def made(rows, vocabulary, dtype, spread=4.0):
    generator = torch.Generator().manual_seed(rows)
    scores = (torch.randn(rows, vocabulary, generator=generator) * spread).to(dtype).to(DEVICE)
    return scores, torch.randint(vocabulary, (rows,), generator=generator).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transform", [{}, {"scale": 0.5}, {"scale": 2.0, "softcap": 6.0}], ids=str)
@pytest.mark.parametrize(("rows", "vocabulary"), [(3, 1), (2, 97), (2, 4096), (2, 9000)])
def test_is_the_reference(rows, vocabulary, transform, dtype):
    scores, labels = made(rows, vocabulary, dtype)
    exact = scores.double()
    want = softmax_loss.reference(exact, labels, torch.empty(rows, dtype=torch.float64), gradient=True, **transform)
    before, nll = scores.clone(), torch.full((rows,), torch.nan, device=DEVICE)
    assert softmax_loss.triton(scores, labels, nll, gradient=False, **transform) is nll
    assert torch.equal(scores, before)
    assert (nll.double() - want).abs().max() < 1e-5
    softmax_loss.triton(scores, labels, nll, gradient=True, **transform)
    assert (nll.double() - want).abs().max() < 1e-5
    # Scores up to 30 in float32 leave an exponential a relative error of some 30 * 2^-24.
    assert_rounded(scores, exact, 1e-5 * exact.abs() + 1e-9)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of lanes that are not stored
def test_far_scores():
    """A label that is certain, one that is impossible, and rows that are far from zero."""
    scores = torch.tensor([[500.0, 0.0, 100.0], [500.0, 0.0, 100.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]]).to(DEVICE)
    nll = torch.empty(4, device=DEVICE)
    softmax_loss.triton(scores, torch.tensor([0, 1, 2, 1]).to(DEVICE), nll, gradient=True)
    assert nll.tolist() == pytest.approx([0, 500, math.log(3), math.log(2)], abs=1e-3)
    wanted = torch.tensor([[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3], [0.5, -0.5, 0]])
    torch.testing.assert_close(scores.cpu(), wanted, atol=5e-4, rtol=0)


def test_a_nearly_certain_label_keeps_its_gradient():
    scores = torch.tensor([[0.0, -12.0], [0.0, -2.9]]).to(DEVICE)
    nll = torch.empty(2, device=DEVICE)
    softmax_loss.triton(scores, torch.zeros(2, dtype=torch.int64, device=DEVICE), nll, gradient=True)
    for row, score in zip(scores.tolist(), (-12.0, -2.9), strict=True):
        assert row[0] == pytest.approx(-math.exp(score) / (1 + math.exp(score)), rel=0.03 if score < -9 else 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_what_is_not_finite_is_seen():
    scores, labels = made(3, 50, torch.float32)
    scores[0, 7], scores[1, 7] = torch.nan, torch.inf
    nll = softmax_loss.triton(scores, labels, torch.empty(3, device=DEVICE), gradient=True)
    assert nll.isfinite().tolist() == [False, False, True]


def test_no_rows():
    empty = torch.empty(0, 8, device=DEVICE)
    labels = torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert softmax_loss.triton(empty, labels, torch.empty(0, device=DEVICE), gradient=True).shape == (0,)
