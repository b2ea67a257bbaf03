"""The trained model as a Hugging Face folder, checked by reading it back before it gets its name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from rftfast.data.atomic import sync_folder, write_atomic, write_errors
from rftfast.data.prompts import Template, model_template, save_template
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig, read_json
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import load_weights, weight_files
from rftfast.train.config import TrainConfig
from rftfast.train.model import Base

_log = logging.getLogger(__name__)
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# A tokenizer's own files, which training does not touch.
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def export_dtype(config: TrainConfig, base: Base) -> torch.dtype:
    """What the weights are stored as; ``auto`` is the type of the base's first matrix."""
    if config.export_dtype != "auto":
        return {"bf16": torch.bfloat16, "float32": torch.float32}[config.export_dtype]
    with safe_open(next(iter(weight_files(base.folder))), framework="pt") as reader:
        found = [reader.get_slice(name) for name in reader.keys()]  # noqa: SIM118 (it is no dict)
        kinds = [part.get_dtype() for part in found if len(part.get_shape()) > 1]
    return _DTYPES.get(kinds[0] if kinds else "F32", torch.float32)


def whole_weights(model: nn.Module, dtype: torch.dtype, main: bool) -> dict[str, torch.Tensor]:
    """Every weight, whole, on the CPU as ``dtype``, in the main process; nothing in the others. A collective."""
    found = {}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if main:
            found[name] = whole.detach().to("cpu", dtype)
    return found


def export(
    model: Any,
    weights: dict[str, torch.Tensor],
    base: Base,
    template: Template | None,
    folder: Path,
    dtype: torch.dtype,
) -> list[str]:
    """Write ``weights`` of ``model`` to ``folder`` and read them back, by transformers and by the sampler's own loader.

    config.json, tokenizer and generation settings are the base's; training changes none of them. The folder gets its name when
    all is checked; one that was there before is replaced.

    Returns:
        What the user should know, a line each.

    Raises:
        UserError: the disk refuses, or what was read back is not what was written.
    """
    hidden = folder.with_name(f".{folder.name}.tmp")
    with write_errors(folder):
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        _save(model, weights, hidden)
        _write_settings(hidden, base, dtype)
    if template is not None:
        save_template(template, hidden)
    _check_transformers(hidden, weights)
    notes = _check_sampler(hidden, weights, base, dtype)
    if model_template(hidden) != template:
        raise UserError(
            f"{hidden}: the template reads back otherwise than it was written; the folder is left for a look"
        )
    with write_errors(folder):
        _replace(hidden, folder)
    return notes


def _save(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """transformers' files. A disk that refuses shows as the ``OSError`` it is, which safetensors tells in words of its own."""
    from transformers import GenerationConfig

    settings = getattr(model, "generation_config", None)
    if settings is not None:  # written by us; of some that published models have, transformers refuses to write them
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict=weights)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    finally:
        if settings is not None:
            model.generation_config = settings


def _write_settings(folder: Path, base: Base, dtype: torch.dtype) -> None:
    config = read_json(base.folder / "config.json", "download the model again")
    # Whichever of the two names the base uses, so that what could read the base can read this.
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
    _write_json(folder / "config.json", config)
    generation_file = base.folder / "generation_config.json"
    generation = read_json(generation_file, "delete it") if generation_file.is_file() else {}
    generation["eos_token_id"] = _ends(generation.get("eos_token_id", config.get("eos_token_id")), base.eos_id)
    _write_json(folder / "generation_config.json", generation)
    for name in _TOKENIZER:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)


def _ends(known: Any, trained: int | None) -> Any:
    """The end tokens, the one that documents were trained to end with among them."""
    ends = known if isinstance(known, list) else [] if known is None else [known]
    if trained is not None and trained not in ends:
        ends = [*ends, trained]
    return ends[0] if len(ends) == 1 else ends


def _check_transformers(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    read, report = loader.from_pretrained(folder, dtype="auto", use_safetensors=True, output_loading_info=True)
    odd = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    held = dict(read.named_parameters())
    odd += [name for name, wanted in weights.items() if name not in held or not torch.equal(held[name], wanted)]
    if odd:
        raise UserError(
            f"{folder}: transformers reads {odd[0]} otherwise than it was written; the folder is left for a look"
        )


def _check_sampler(folder: Path, weights: dict[str, torch.Tensor], base: Base, dtype: torch.dtype) -> list[str]:
    if Tokenizer.from_folder(folder).fingerprint() != base.tokenizer.fingerprint():
        raise UserError(f"{folder}: the tokenizer reads back otherwise than the base's; the folder is left for a look")
    try:
        ModelConfig.from_folder(base.folder)
    except UserError as error:
        return [f"'rftfast sample' cannot run this model ({error})"]
    config = ModelConfig.from_folder(folder)
    if base.eos_id is not None and base.eos_id not in config.eos_ids:
        raise UserError(f"{folder}: the sampler would not stop at token {base.eos_id}; the folder is left for a look")
    embedding = load_weights(folder, config, dtype)["embed"]
    if not torch.equal(embedding, weights["model.embed_tokens.weight"]):
        raise UserError(
            f"{folder}: the sampler reads the embedding otherwise than it was written; the folder is left for a look"
        )
    return []


def _replace(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    write_atomic(file, [json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"])
