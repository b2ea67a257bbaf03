"""The cost formulas of arXiv 2308.01825, appendix E, in the readings that give back its Table 4.

They are not what things cost (``rftfast.evaluate.cost`` is); they show which sizes and counts the table was made from.
docs/cost.md tells what was found.
"""

from __future__ import annotations

from rftfast.evaluate.model_size import ModelSize

QUESTION_TOKENS, PATH_TOKENS = 66, 130  # n_q and n_r of GSM8K, as the paper gives them
QUESTIONS = 7473


def pretraining_flops(size: ModelSize, tokens: float) -> float:
    """6 N for each token. N is all parameters here; without embeddings the 7B columns come out 7.5 % low."""
    return 6 * size.parameters * tokens


def block_parameters(size: ModelSize) -> int:
    """Of a GPT with an MLP of four times the width: 12 layers * hidden²."""
    return 12 * size.layers * size.hidden**2


def training_flops(parameters: float, rows: float, row_tokens: float, epochs: float = 3) -> float:
    """6 N for each token of each epoch."""
    return 6 * parameters * rows * row_tokens * epochs


def inference_flops(size: ModelSize, questions: int = QUESTIONS, *, factor_i: bool = True) -> float:
    """C_total = N_s [n_q C_fwd(n_q) + sum over i of i C'_fwd(i)]; the printed factor i can be left out.

    C'_fwd spares the key and value projections: 4 layers * hidden² without shared heads, 1.66 N in the paper's words.
    """
    n = size.blocks
    position = 2 * size.layers * size.hidden
    spared = 4 * size.layers * size.hidden * size.kv_width
    flops = QUESTION_TOKENS * (2 * n + position * QUESTION_TOKENS)
    for i in range(QUESTION_TOKENS + 1, QUESTION_TOKENS + PATH_TOKENS + 1):
        flops += (i if factor_i else 1) * (2 * n - spared + position * i)
    return questions * flops
