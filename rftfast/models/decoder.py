"""The decoder of the Llama family, on ``ops``.

One forward serves everything: its rows are tokens, each with a position, a place in the KV pool and a page table. A row
that is being decoded and a row of a prompt are the same thing.

Shape letters: R rows, N rows whose logits are wanted, C hidden, H and K query and key/value heads, D head dimension,
I MLP width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rftfast.models.config import ModelConfig
from rftfast.ops import AttentionPlan, KVPool, OpSet
from rftfast.ops.attention import WorkPlan


@dataclass(frozen=True)
class StepInputs:
    """What one model step computes.

    ``tokens`` [R] int64; ``positions`` [R] int32; ``slots`` [R] int64 (page * 16 + place, where the row's key and value
    go; on a GPU negative for an idle row); ``plan`` over the R rows, as the attention in use takes it; ``copies`` [*, 3] int32 or None, pages to copy; ``logit_rows`` [N] int64, the rows
    whose logits are wanted (None: all).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    plan: AttentionPlan | WorkPlan
    copies: torch.Tensor | None = None
    logit_rows: torch.Tensor | None = None


class Decoder:
    """Weights (as ``load_weights`` names them) and the operations to run them on.

    The layers' are taken out of ``weights``: one that is kept in another form is freed before the next gets its own, so that
    a model is in memory once, not twice.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, torch.Tensor],
        ops: OpSet,
        rope: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        self.config = config
        self.ops = ops
        self.embed = weights["embed"]
        self.norm = weights["norm"]
        self.head = ops.prepare(weights["head"], None)
        self.cos, self.sin = rope
        self.layers = []
        for i in range(config.layers):
            names = [name for name in weights if name.startswith(f"layers.{i}.")]
            own = {name.split(".", 2)[2]: weights.pop(name) for name in names}
            layer: dict[str, object] = {
                name: ops.prepare_layer(own.pop(name), own.get(f"{name}_bias"))
                for name in ("qkv", "o", "gate_up", "down")
            }
            layer |= {name: own.get(name) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")}
            self.layers.append(layer)

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.dtype

    def forward(self, step: StepInputs, pool: KVPool) -> torch.Tensor:
        """Logits [N, V] in the model's dtype. Writes the rows' keys and values to ``pool`` on the way."""
        cfg, ops = self.config, self.ops
        eps, scale = cfg.rms_eps, cfg.head_dim**-0.5
        rows, dtype = step.tokens.shape[0], self.dtype
        q_width = cfg.heads * cfg.head_dim
        x_RC = self.embed[step.tokens].float()  # the residual stream stays in float32
        normed_RC = torch.empty(rows, cfg.hidden, dtype=dtype, device=x_RC.device)
        attended_RHD = torch.empty(rows, q_width, dtype=dtype, device=x_RC.device)
        gated_RI = torch.empty(rows, cfg.intermediate, dtype=dtype, device=x_RC.device)
        delta_RC: torch.Tensor | None = None
        for i, layer in enumerate(self.layers):
            ops.rms_norm(x_RC, delta_RC, layer["attn_norm"], eps, normed_RC)
            qkv_RX = ops.linear(normed_RC, layer["qkv"])
            ops.rope_write_kv(
                qkv_RX,
                self.cos,
                self.sin,
                step.positions,
                step.slots,
                pool,
                i,
                cfg.heads,
                layer["q_norm"],
                layer["k_norm"],
                eps,
            )
            if step.copies is not None:
                ops.copy_pages(pool, i, step.copies)
            q_RHD = qkv_RX[:, :q_width].unflatten(1, (cfg.heads, cfg.head_dim))
            ops.attention(q_RHD, pool, i, step.plan, scale, attended_RHD)
            delta_RC = ops.linear(attended_RHD, layer["o"])
            ops.rms_norm(x_RC, delta_RC, layer["mlp_norm"], eps, normed_RC)
            ops.swiglu(ops.linear(normed_RC, layer["gate_up"]), gated_RI)
            delta_RC = ops.linear(gated_RI, layer["down"])
        if step.logit_rows is not None:
            assert delta_RC is not None
            x_RC, delta_RC = x_RC[step.logit_rows], delta_RC[step.logit_rows]
            normed_RC = normed_RC[: x_RC.shape[0]]
        ops.rms_norm(x_RC, delta_RC, self.norm, eps, normed_RC)
        return ops.linear(normed_RC, self.head)
