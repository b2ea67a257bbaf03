"""Parameters and operations, against published sizes and against torch's own counting."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rftfast.evaluate.model_size import ModelSize
from rftfast.models.config import ModelConfig
from rftfast.models.shapes import shape_config


# As the models' files on the Hub have them.
@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("smollm2-135m", 134_515_008),
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-33b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
        ("llama-2-70b", 68_976_648_192),
    ],
)
def test_published_sizes(shape: str, parameters: int) -> None:
    assert ModelSize.of(shape_config(shape)).parameters == parameters


def test_non_embedding_parameters_of_the_paper() -> None:
    assert ModelSize.of(shape_config("llama-7b")).blocks == pytest.approx(6.48e9, rel=1e-3)


def tiny(**more: object) -> dict[str, object]:
    fixed = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 131,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    return fixed | more


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_counted_by_transformers(kind: str, tied: bool) -> None:
    import transformers

    head = {} if kind == "Qwen3" else {"head_dim": 12}
    raw = tiny(architectures=[f"{kind}ForCausalLM"], tie_word_embeddings=tied, **head)
    with torch.device("meta"):
        net = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**raw))
    size = ModelSize.of(ModelConfig.from_dict(raw))
    assert size.parameters == sum(p.numel() for p in net.parameters())
    assert size.parameters - size.embedding - (0 if tied else size.head) == size.blocks


def test_operations_counted_by_torch() -> None:
    """Torch counts attention as if every token saw all others, ours what each one sees."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    net = Qwen3ForCausalLM(Qwen3Config(**tiny(), attn_implementation="eager"))
    size = ModelSize.of(ModelConfig.from_dict(tiny()))
    n = 10
    with FlopCounterMode(display=False) as counter:
        net(torch.arange(n)[None])
    seen_by_all = n * (size.token_flops + size.head_flops) + n * n * size.pair_flops
    ours = size.forward_flops(n, logits=n)
    assert ours == seen_by_all - (n * n - n * (n + 1) / 2) * size.pair_flops
    assert counter.get_total_flops() == pytest.approx(seen_by_all, rel=0.01)  # rope's angles are counted, too


def test_a_sequence_costs_the_sum_of_its_tokens() -> None:
    size = ModelSize.of(ModelConfig.from_dict(tiny()))
    one_by_one = sum(size.forward_flops(1, start=i, logits=1) for i in range(7, 20))
    assert size.forward_flops(13, start=7, logits=13) == one_by_one


def test_bytes() -> None:
    size = ModelSize.of(shape_config("llama-7b"))
    assert size.kv_bytes == 512 * 1024  # half a MiB a token
    assert size.weight_bytes == 2 * (size.matrices + 32000 * 4096)
    grouped = ModelSize.of(shape_config("llama-2-70b"))
    assert grouped.kv_bytes == 2 * 2 * 80 * 8 * 128
