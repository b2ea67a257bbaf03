"""Weights out of safetensors files, fused as the decoder wants them. Never pickle.

Names and shapes (V vocabulary, C hidden, I intermediate, H heads, K key/value heads, D head width):
``embed`` [V, C]; per layer i ``layers.{i}.qkv`` [(H + 2K) D, C] (rows q, then k, then v), ``.qkv_bias`` [(H + 2K) D],
``.o`` [C, H D], ``.o_bias`` [C], ``.gate_up`` [2I, C] (gate, then up), ``.down`` [C, I], ``.attn_norm`` [C],
``.mlp_norm`` [C], ``.q_norm`` and ``.k_norm`` [D]; ``norm`` [C]; ``head`` [V, C] (the very tensor ``embed`` when tied).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rftfast.errors import UserError
from rftfast.models.config import ModelConfig, read_json
from rftfast.models.shapes import SEED_FILE

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_AGAIN = "download the model again"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Slot:
    """Where a tensor of the checkpoint goes: rows ``start`` and on of the fused tensor ``target``."""

    target: str
    start: int
    shape: tuple[int, ...]


def checkpoint_slots(config: ModelConfig) -> dict[str, Slot]:
    """Every tensor the checkpoint must hold, by its Hugging Face name, with its shape and its place."""
    c = config
    slots = {
        "model.embed_tokens.weight": Slot("embed", 0, (c.vocab_size, c.hidden)),
        "model.norm.weight": Slot("norm", 0, (c.hidden,)),
    }
    if not c.tied:
        slots["lm_head.weight"] = Slot("head", 0, (c.vocab_size, c.hidden))
    qkv = (("q_proj", 0, c.q_rows), ("k_proj", c.q_rows, c.kv_rows), ("v_proj", c.q_rows + c.kv_rows, c.kv_rows))
    for i in range(c.layers):
        there, here = f"model.layers.{i}.", f"layers.{i}."
        attention, mlp = there + "self_attn.", there + "mlp."
        for name, start, rows in qkv:
            slots[f"{attention}{name}.weight"] = Slot(here + "qkv", start, (rows, c.hidden))
            if c.qkv_bias:
                slots[f"{attention}{name}.bias"] = Slot(here + "qkv_bias", start, (rows,))
        slots[attention + "o_proj.weight"] = Slot(here + "o", 0, (c.hidden, c.q_rows))
        if c.o_bias:
            slots[attention + "o_proj.bias"] = Slot(here + "o_bias", 0, (c.hidden,))
        if c.qk_norm:
            slots[attention + "q_norm.weight"] = Slot(here + "q_norm", 0, (c.head_dim,))
            slots[attention + "k_norm.weight"] = Slot(here + "k_norm", 0, (c.head_dim,))
        slots[mlp + "gate_proj.weight"] = Slot(here + "gate_up", 0, (c.intermediate, c.hidden))
        slots[mlp + "up_proj.weight"] = Slot(here + "gate_up", c.intermediate, (c.intermediate, c.hidden))
        slots[mlp + "down_proj.weight"] = Slot(here + "down", 0, (c.hidden, c.intermediate))
        slots[there + "input_layernorm.weight"] = Slot(here + "attn_norm", 0, (c.hidden,))
        slots[there + "post_attention_layernorm.weight"] = Slot(here + "mlp_norm", 0, (c.hidden,))
    return slots


def load_weights(
    folder: str | Path, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """The weights in ``folder``, fused, on ``device``, as ``dtype``. See the head of this file for names and shapes.

    Memory: the result plus, on the CPU, one tensor of the checkpoint; on another device the tensor being filled, too.
    A ``shape:`` folder has none: they are made there (``random_weights``). Raises ``UserError`` for a missing, truncated or
    corrupt file, a missing tensor, a wrong shape, and for a folder that holds only pickled weights.
    """
    folder = Path(folder)
    if (folder / SEED_FILE).is_file():
        return random_weights(config, dtype, device, read_json(folder / SEED_FILE, _AGAIN)["seed"])
    slots = checkpoint_slots(config)
    totals = _shapes(slots)
    fused: dict[str, torch.Tensor] = {}
    placed: set[str] = set()
    for file, names in weight_files(folder).items():
        try:
            with safe_open(file, framework="pt", device="cpu") as reader:
                held = list(reader.keys())
                for name in held if names is None else names:
                    if names is not None and name not in held:
                        raise UserError(f"{file}: tensor {name} is missing, though {_INDEX} names it: {_AGAIN}")
                    found = slots.get(name)
                    if found is None:
                        _refuse_stray(name, config, file)
                        continue
                    tensor = reader.get_tensor(name)
                    if tensor.dtype not in _FLOATS:
                        kind = str(tensor.dtype).removeprefix("torch.")
                        raise UserError(f"{file}: {name} is stored as {kind}; use the bf16 or float16 release")
                    if tuple(tensor.shape) != found.shape:
                        raise UserError(
                            f"{file}: {name} has shape {list(tensor.shape)}, config.json says {list(found.shape)}: {_AGAIN}"
                        )
                    if found.target not in fused:
                        fused[found.target] = torch.empty(totals[found.target], dtype=dtype, device=device)
                    fused[found.target][found.start : found.start + found.shape[0]].copy_(tensor)
                    placed.add(name)
        except FileNotFoundError:
            raise UserError(f"{file}: no such file, though {_INDEX} names it: {_AGAIN}") from None
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(f"{file}: cut short or corrupt ({_one_line(error)}): {_AGAIN}") from None
    absent = [name for name in slots if name not in placed]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"{folder}: the weights lack tensor {absent[0]}{more}: {_AGAIN}")
    if config.tied:
        fused["head"] = fused["embed"]
    return fused


def random_weights(
    config: ModelConfig, dtype: torch.dtype, device: torch.device | str, seed: int
) -> dict[str, torch.Tensor]:
    """Weights as ``load_weights`` gives them, drawn on ``device``: matrices normal with variance 1/columns, biases 0, norms 1."""
    generator = torch.Generator(device).manual_seed(seed)
    fused = {}
    for target, shape in _shapes(checkpoint_slots(config)).items():
        if len(shape) == 2:
            weight = torch.empty(shape, dtype=dtype, device=device).normal_(0, shape[1] ** -0.5, generator=generator)
        else:
            weight = torch.full(shape, 0.0 if target.endswith("_bias") else 1.0, dtype=dtype, device=device)
        fused[target] = weight
    if config.tied:
        fused["head"] = fused["embed"]
    return fused


def _shapes(slots: dict[str, Slot]) -> dict[str, tuple[int, ...]]:
    """Of the fused tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in slots.values():
        rows = max(slot.start + slot.shape[0], shapes.get(slot.target, (0,))[0])
        shapes[slot.target] = (rows, *slot.shape[1:])
    return shapes


def weight_files(folder: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a folder, each with the tensors the index names in it (None: whatever it holds)."""
    if (folder / SEED_FILE).is_file():
        return {folder / SEED_FILE: None}
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX, _AGAIN)
        table = index.get("weight_map")
        if not isinstance(table, dict) or not table:
            raise UserError(f"{folder / _INDEX}: holds no weight_map: {_AGAIN}")
        files: dict[Path, list[str] | None] = {}
        for name, file in sorted(table.items(), key=lambda item: (str(item[1]), item[0])):
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{folder / _INDEX}: {name} is said to be in {file!r}, not a plain file name: {_AGAIN}")
            names = files.setdefault(folder / file, [])
            assert names is not None
            names.append(name)
        return files
    if (folder / _SINGLE).is_file():
        return {folder / _SINGLE: None}
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1:
        return {lone[0]: None}
    if lone:
        raise UserError(f"{folder}: has {len(lone)} safetensors files but no {_INDEX}: {_AGAIN}")
    pickles = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
    if pickles:
        raise UserError(
            f"{folder}: has only pickled weights ({pickles[0]}), which can run code when read: convert them to safetensors"
        )
    raise UserError(f"{folder}: has no weights (*.safetensors): {_AGAIN}")


def _refuse_stray(name: str, config: ModelConfig, file: Path) -> None:
    """A bias or norm inside a layer that config.json does not speak of would be left out silently: refuse it."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if layer and int(layer.group(1)) < config.layers and not name.endswith("rotary_emb.inv_freq"):
        raise UserError(f"{file}: holds {name}, which a {config.family} model of this config.json has no place for")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
