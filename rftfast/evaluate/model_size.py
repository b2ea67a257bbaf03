"""What a model weighs: its parameters, and the arithmetic and memory traffic of a token."""

from __future__ import annotations

from dataclasses import dataclass

from rftfast.models.config import ModelConfig


@dataclass(frozen=True)
class ModelSize:
    """Counted from a config. A multiply and an add are two operations."""

    embedding: int
    """Parameters of the embedding."""
    blocks: int
    """Parameters of all layers and the last norm: the paper's non-embedding N."""
    matrices: int
    """Those of them that a token is multiplied with."""
    head: int
    """Parameters of the output matrix, which may be the embedding itself (``tied``)."""
    tied: bool
    layers: int
    hidden: int
    query_width: int
    kv_width: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelSize:
        c = config
        qkvo = c.hidden * (2 * c.q_rows + 2 * c.kv_rows)
        matrices = c.layers * (qkvo + 3 * c.hidden * c.intermediate)
        biases = (c.q_rows + 2 * c.kv_rows) * c.qkv_bias + c.hidden * c.o_bias
        norms = 2 * c.hidden + 2 * c.head_dim * c.qk_norm
        blocks = matrices + c.layers * (biases + norms) + c.hidden
        words = c.vocab_size * c.hidden
        return cls(words, blocks, matrices, words, c.tied, c.layers, c.hidden, c.q_rows, c.kv_rows)

    @property
    def parameters(self) -> int:
        """All of them, each once."""
        return self.embedding + self.blocks + (0 if self.tied else self.head)

    @property
    def token_flops(self) -> int:
        """Of one token through all layers, attention apart."""
        return 2 * self.matrices

    @property
    def head_flops(self) -> int:
        """Of one token's logits."""
        return 2 * self.head

    @property
    def pair_flops(self) -> int:
        """Of one token looking at one position: two products in each layer, for scores and for values."""
        return 4 * self.layers * self.query_width

    @property
    def weight_bytes(self) -> int:
        """Read in each step, in bf16: all matrices and the head. Of the embedding a step reads a few rows only."""
        return 2 * (self.matrices + self.head)

    @property
    def kv_bytes(self) -> int:
        """Of one position's keys and values, in bf16."""
        return 2 * 2 * self.layers * self.kv_width

    def forward_flops(self, tokens: float, start: float = 0.0, logits: float = 0.0) -> float:
        """Of ``tokens`` tokens that follow ``start`` others, ``logits`` of which get theirs. Each sees itself and all before."""
        pairs = tokens * start + tokens * (tokens + 1) / 2
        return tokens * self.token_flops + pairs * self.pair_flops + logits * self.head_flops
