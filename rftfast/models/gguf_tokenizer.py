"""The tokenizer inside a GGUF file, written out as tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rftfast.errors import UserError
from rftfast.models.spm import CONTROL, NORMAL, add_whole_tokens, put_in_front, tokenizer_from_pieces

# Control tokens that end a turn or a document, whatever the header calls the end token.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
# How llama.cpp's names of pre-tokenizers split a text before merging: Llama 3 keeps up to three digits together, Qwen 2
# one; otherwise the two are the same.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_from_gguf(values: dict[str, Any], folder: Path, file: Path) -> list[int]:
    """Write tokenizer.json and tokenizer_config.json into ``folder``; return the ids that end a generation.

    ``values`` is the GGUF's metadata. Raises ``UserError`` for a tokenizer that cannot be rebuilt exactly.
    """
    tokens = values.get("tokenizer.ggml.tokens")
    if not tokens:
        raise UserError(f"{file}: holds no tokenizer; use the Hugging Face folder of the model")
    types = values.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    kind = values.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(values, tokens, file)
    elif kind == "llama":
        tokenizer = _sentencepiece(values, tokens, types, file)
    else:
        raise UserError(f"{file}: tokenizer {kind!r} is not supported; use the Hugging Face folder of the model")
    add_whole_tokens(tokenizer, tokens, types)
    bos = values.get("tokenizer.ggml.bos_token_id")
    add_bos = bool(values.get("tokenizer.ggml.add_bos_token", kind == "llama" or _pre(values) in _LLAMA3))
    if add_bos and bos is not None:
        put_in_front(tokenizer, tokens[bos], bos)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        i = values.get(f"tokenizer.ggml.{key}_token_id")
        if i is not None and i < len(tokens):
            settings[f"{name}_token"] = tokens[i]
    if values.get("tokenizer.chat_template"):
        settings["chat_template"] = values["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    first = [values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    by_text = [i for i, token in enumerate(tokens) if types[i] == CONTROL and token in _ENDS]
    return list(dict.fromkeys([i for i in first if i is not None] + by_text))


def _pre(values: dict[str, Any]) -> str:
    return str(values.get("tokenizer.ggml.pre", "default"))


def _byte_level(values: dict[str, Any], tokens: list[str], file: Path) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in values.get("tokenizer.ggml.merges", [])]
    pre = _pre(values)
    whole_words = pre in _LLAMA3
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    elif pre in ("qwen2", *_LLAMA3):
        words = Regex(_WORDS.replace("DIGITS", "{1,3}" if whole_words else ""))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), plain])
        if pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
    elif pre in ("gpt-2", "default"):
        tokenizer.pre_tokenizer = gpt2
    else:
        raise UserError(f"{file}: pre-tokenizer {pre!r} is not supported; use the Hugging Face folder of the model")
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(values: dict[str, Any], tokens: list[str], types: list[int], file: Path) -> Tokenizer:
    scores = values.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise UserError(f"{file}: its tokenizer lacks scores; use the Hugging Face folder of the model")
    return tokenizer_from_pieces(
        tokens,
        scores,
        types,
        unknown=values.get("tokenizer.ggml.unknown_token_id", 0),
        space_prefix=bool(values.get("tokenizer.ggml.add_space_prefix", True)),
    )
