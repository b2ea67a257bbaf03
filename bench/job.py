"""What one engine is asked to do: the same record for every engine, handed to its process as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WARM_UP_TOKENS = 4
WARM_UP_PROMPT = 32


@dataclass(frozen=True)
class Job:
    """Draw ``k`` samples of each prompt with one engine.

    ``model`` is a folder with config.json and safetensors; ``prompts`` are token ids, so that no engine's tokenizer
    changes the work. In forced mode (``stop`` and ``eos`` unused, ``verified`` false) every sample has exactly
    ``max_tokens`` new tokens; in verified mode a sample ends at an EOS id, at a stop string, or there.
    ``budget_s``: an engine that can stop itself does so after that many seconds and says how far it came. ``rows``: samples
    drawn at the same time where an engine can be told (None: what it does by itself). ``random_weights``: the model is a
    shape (``shape:NAME``), its folder holds a config and no weights; each engine makes up its own. ``profile``: ours runs
    once more, a few steps of it under torch's profiler. ``quantization``: None, or fp8 (weights and activations). ``kv_cache_dtype``: auto, or fp8.
    """

    engine: str
    model: str
    prompts: tuple[tuple[int, ...], ...]
    k: int
    max_tokens: int
    temperature: float = 0.7
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    dtype: str = "auto"
    budget_s: float | None = None
    verified: bool = False
    golds: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    eos: tuple[int, ...] = ()
    scratch: str | None = None
    rows: int | None = None
    random_weights: bool = False
    profile: bool = False
    quantization: str | None = None
    kv_cache_dtype: str = "auto"

    def __post_init__(self) -> None:
        assert self.prompts, "a job needs prompts"
        assert all(self.prompts), "a prompt needs one token or more"
        assert min(self.k, self.max_tokens, self.threads) >= 1, (self.k, self.max_tokens, self.threads)
        assert self.rows is None or self.rows >= 1, self.rows
        assert not self.verified or len(self.golds) == len(self.prompts), "verified mode needs a gold answer a prompt"

    @property
    def float8(self) -> str:
        """What is in float8, in words; empty for nothing."""
        kept = "" if self.kv_cache_dtype == "auto" else f"keys and values in {self.kv_cache_dtype}"
        return ", ".join(filter(None, (self.quantization, kept)))

    @property
    def warm_up_prompt(self) -> tuple[int, ...]:
        """A short prompt that is no prefix of the real one, so that no engine's cache gains by the warm-up."""
        return tuple(reversed(self.prompts[0][-WARM_UP_PROMPT:]))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        prompts = tuple(tuple(prompt) for prompt in data["prompts"])
        return cls(**{**data, **lists, "prompts": prompts})
