"""The world's tokenizer: one token for each of its words and numbers, and single bytes for anything else.

Byte-level, so that every text survives the way there and back. There are no merges: a word is looked up whole, with the
space before it, and spelled in bytes where it is not known. So the tokenizer is a function of the words alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from rftfast.data.atomic import write_atomic

END = "<|end|>"
_WORDS = r" ?<<|>>|####| ?\$| ?[A-Za-z]+|\d+| ?[^\sA-Za-z\d]|\s"


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer whose words are those of ``texts``. The first ids are the 256 bytes, the last one ends a text."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*alphabet, *sorted(words - set(alphabet))))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers and ``rftfast.models`` read them."""
    write_atomic(folder / "tokenizer.json", [tokenizer.to_str(pretty=True).encode()])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
    }
    write_atomic(folder / "tokenizer_config.json", [json.dumps(settings, indent=2).encode()])
