"""The model to train: transformers' own code, from any name the project resolves, taken as a module that gives the loss."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint

from rftfast.errors import UserError
from rftfast.models.config import FAMILIES, read_json
from rftfast.models.resolve import fingerprint, resolve
from rftfast.models.shapes import SEED_FILE
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import weight_files
from rftfast.ops import native
from rftfast.train.attention import use_packed_attention
from rftfast.train.batch import Batch, collate
from rftfast.train.config import TrainConfig
from rftfast.train.documents import Document
from rftfast.train.loss import batch_loss, check_head
from rftfast.train.packing import Row, Unit
from rftfast.train.parallel import choose_device

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Base:
    """The model that training starts from: its folder and what can be known without its weights."""

    folder: Path
    config: Any
    """transformers' configuration."""
    tokenizer: Tokenizer
    eos_id: int | None
    """The token that ends a document: the tokenizer's, or the configuration's first."""
    fingerprint: str
    random: bool = False
    """A ``shape:`` model: weights are made, not read, for measurements of speed."""


class Learner(nn.Module):
    """A causal model as a function of a packed row: by default the sum of the losses of its response tokens.

    ``loss`` (model, row) may be another function. It is FSDP's root, so that the head's weight is collected while the loss is computed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss: Callable[[Any, Any], Any] = batch_loss

    def forward(self, batch: Any) -> Any:
        return self.loss(self.model, batch)

    def layers(self) -> list[nn.Module]:
        """The blocks that repeat: what is split, recomputed and compiled by itself."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        found = [module for module in self.model.modules() if type(module).__name__ in names]
        return found or [m for group in self.model.modules() if isinstance(group, nn.ModuleList) for m in group]


def open_base(name: str) -> Base:
    """Resolve ``name`` and read all but the weights.

    Raises:
        UserError: no such model, quantised weights, or an architecture transformers does not know.
    """
    from transformers import AutoConfig

    folder = resolve(name)
    raw = read_json(folder / "config.json", "download the model again")
    if raw.get("quantization_config"):
        raise UserError(f"{folder}: quantised weights cannot be trained; use the bf16 or float16 release")
    random = (folder / SEED_FILE).is_file()
    if not random:
        weight_files(folder)
    try:
        if "model_type" in raw:
            config = AutoConfig.from_pretrained(folder)
        else:
            config = AutoConfig.for_model(FAMILIES[raw["architectures"][0]], **raw)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder}: transformers cannot read its config.json ({_one_line(error)})") from None
    tokenizer = Tokenizer.from_folder(folder)
    ends = raw.get("eos_token_id")
    first = ends[0] if isinstance(ends, list) and ends else ends
    eos = tokenizer.eos_id if tokenizer.eos_id is not None else first
    if random:
        eos = 0  # such models end nowhere when they are sampled, but documents have to
    return Base(folder, config, tokenizer, eos if isinstance(eos, int) else None, fingerprint(folder), random)


def build(base: Base, config: TrainConfig, *, weights: bool = True) -> Learner:
    """The model with packed attention, in float32 on the CPU; without ``weights`` on the meta device.

    Raises:
        UserError: weights that are missing, broken or do not fit, or an architecture that cannot be trained packed.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    loader: Any = transformers.AutoModelForCausalLM
    try:
        if weights and base.random:
            torch.manual_seed(0)
            with choose_device(config):
                model = loader.from_config(base.config, dtype=torch.float32)
        elif weights:
            model, report = loader.from_pretrained(
                base.folder,
                config=base.config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            _refuse_gaps(base.folder, report)
        else:
            with torch.device("meta"):
                model = loader.from_config(base.config, dtype=torch.float32)
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{base.folder}: transformers cannot load the model ({_one_line(error)})") from None
    model.config.use_cache = False
    use_packed_attention(model)
    if weights and not base.random:
        check_head(model, _probe(base))
    learner = Learner(model)
    learner.train()
    if config.recompute:
        for layer in learner.layers():
            # The forward alone, so that FSDP's hooks run once.
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]
    if config.compile:
        for layer in learner.layers():
            layer.compile(dynamic=True)
    return learner


def compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """``auto``: bf16 on GPUs and on CPUs that multiply it natively, else float32."""
    if config.dtype != "auto":
        return {"bf16": torch.bfloat16, "float32": torch.float32}[config.dtype]
    return torch.bfloat16 if device.type != "cpu" or native.multiplies_bf16() else torch.float32


def _probe(base: Base) -> Batch:
    """A short row to compare the model's own logits on with those its loss is made of."""
    tokens = np.arange(16, dtype=np.int32) % base.config.get_text_config().vocab_size
    return collate(Row((Unit((Document("probe", tokens, 8, "probe"),)),), len(tokens)))


def _refuse_gaps(folder: Path, report: dict[str, Any]) -> None:
    """transformers fills weights it does not find with noise and goes on; that is no base to train."""
    for kind, what in (("missing_keys", "lack"), ("mismatched_keys", "have another shape than config.json says for")):
        keys = sorted(key if isinstance(key, str) else key[0] for key in report.get(kind) or ())
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"{folder}: the weights {what} {keys[0]}{more}: download the model again")
    unused = sorted(report.get("unexpected_keys") or ())
    if unused:
        _log.warning(
            "%s: %d tensors have no place in the model and are left out, such as %s", folder, len(unused), unused[0]
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
