"""Table 4 of arXiv 2308.01825: what gives it back within 5 %, and which of its cells nothing does."""

from __future__ import annotations

import pytest

from rftfast.evaluate.cost import pretraining
from rftfast.evaluate.estimate import PRETRAINING
from rftfast.evaluate.gpus import find_gpu
from rftfast.evaluate.model_size import ModelSize
from rftfast.models.shapes import shape_config
from tests.evaluate.paper_cost import (
    QUESTIONS,
    block_parameters,
    inference_flops,
    pretraining_flops,
    training_flops,
)

# Column -> shape; FLOPs of pre-training, SFT, RFT inference, RFT-U33B training; then GPU-hours of the same. Where the table
# has an arrow, the second generation shares the first one's figure.
TABLE = {
    "7B": ("llama-7b", (4.2e22, 1.7e17, 1.4e18, 3.0e18), (82e3, 0.6, 10, 9)),
    "7B-2": ("llama-2-7b", (8.4e22, 1.7e17, 1.4e18, 3.0e18), (184e3, 0.6, 10, 9)),
    "13B": ("llama-13b", (7.8e22, 3.3e17, 2.6e18, 5.7e18), (135e3, 4, 100, 62)),
    "13B-2": ("llama-2-13b", (1.6e23, 3.3e17, 2.6e18, 5.7e18), (368e3, 4, 100, 62)),
    "33B": ("llama-33b", (2.7e23, 7.7e17, 6.9e18, 1.3e19), (530e3, 40, 100, 600)),
    "65B": ("llama-65b", (5.5e23, 1.3e18, 1.4e19, 2.2e19), (1022e3, 74, 4300, 1000)),
    "70B": ("llama-2-70b", (8.4e23, 1.7e18, 1.8e19, 3.0e19), (1720e3, 80, 4500, 1200)),
}
SFT_TOKENS = 196  # n_q + n_r
U33B_ROWS = QUESTIONS * (1 + 13.65)
# Not in the paper: what the ratio of its two training rows (16.9 ... 17.6 in all columns) makes of 14.65 times the rows.
U33B_TOKENS = 230

columns = pytest.mark.parametrize("column", TABLE)


def size(column: str) -> ModelSize:
    return ModelSize.of(shape_config(TABLE[column][0]))


@columns
def test_pretraining(column: str) -> None:
    shape, (flops, *_), _ = TABLE[column]
    tokens, context = PRETRAINING[shape]
    assert pretraining_flops(size(column), tokens) == pytest.approx(flops, rel=0.05)
    # Counted as rftfast cost does it, attention and output layer included, it comes to the same.
    counted = pretraining(size(column), tokens, context, find_gpu("A100-80GB")).flops
    assert counted == pytest.approx(flops, rel=0.05)


@columns
def test_inference(column: str) -> None:
    """With the factor i, and for one path a question: 7,473 of them, not 747,300."""
    flops = TABLE[column][1][2]
    assert inference_flops(size(column)) == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize("column", ["7B", "7B-2", "13B", "13B-2", "33B", "65B"])
def test_inference_is_not_that_of_100_paths_with_a_cache(column: str) -> None:
    """Without the factor i and for 100 paths a question it is about a fifth more: near enough to be mistaken for it."""
    flops = TABLE[column][1][2]
    ratio = inference_flops(size(column), 100 * QUESTIONS, factor_i=False) / flops
    assert 1.19 < ratio < 1.29


@pytest.mark.parametrize("column", ["7B", "7B-2", "13B", "13B-2", "70B"])
def test_training(column: str) -> None:
    _, (_, sft, _, rft), _ = TABLE[column]
    n = block_parameters(size(column))
    assert training_flops(n, QUESTIONS, SFT_TOKENS) == pytest.approx(sft, rel=0.05)
    assert training_flops(n, U33B_ROWS, U33B_TOKENS) == pytest.approx(rft, rel=0.05)


@pytest.mark.parametrize(("column", "implied"), [("33B", 29.2e9), ("65B", 49.3e9)])
def test_training_rows_that_no_size_explains(column: str, implied: float) -> None:
    """Both training rows of 33B and 65B belong to models of 29 and 49 billion parameters."""
    _, (_, sft, _, rft), _ = TABLE[column]
    assert sft / training_flops(1, QUESTIONS, SFT_TOKENS) == pytest.approx(implied, rel=0.005)
    assert rft / training_flops(1, U33B_ROWS, U33B_TOKENS) == pytest.approx(implied, rel=0.05)
    for parameters in (size(column).parameters, size(column).blocks, block_parameters(size(column))):
        assert parameters > 1.08 * implied


@columns
def test_ratio_of_the_training_rows(column: str) -> None:
    """14.65 times the rows, but 16 to 18 times the arithmetic: the rows of the RFT set are longer."""
    _, (_, sft, _, rft), _ = TABLE[column]
    assert rft / sft == pytest.approx(17.2, rel=0.05)


# docs/cost.md: the share of 312 TFLOP/s that the paper's hours amount to.
@pytest.mark.parametrize(
    ("row", "shares"),
    [(0, (46, 41, 51, 39, 45, 48, 43)), (1, (25, 25, 7, 7, 2, 2, 2)), (3, (30, 30, 8, 8, 2, 2, 2))],
)
def test_utilisation_by_the_paper(row: int, shares: tuple[int, ...]) -> None:
    a100 = find_gpu("A100-80GB")
    found = [flops[row] / (3600 * hours[row] * a100.flops) for _, flops, hours in TABLE.values()]
    assert [round(100 * share) for share in found] == list(shares)
