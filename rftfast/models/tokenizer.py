"""Text to token ids and back, over the ``tokenizers`` library, without transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from rftfast.errors import UserError
from rftfast.models.chat import render_chat
from rftfast.models.config import read_json

_AGAIN = "download the model again"


class Tokenizer:
    """A tokenizer that does not change after it is built. Ids and texts are those of transformers.

    One rule goes further than transformers 5: where ``tokenizer_config.json`` says ``add_bos_token`` and the
    post-processor of ``tokenizer.json`` does not add it, the BOS is added (transformers up to 4 did so for Llama
    tokenizers, and models such as DeepSeek-Math are trained with it).
    """

    def __init__(self, backend: Backend, settings: Mapping[str, Any] | None = None, chat_template: str | None = None):
        """``settings`` is the content of tokenizer_config.json; ``chat_template`` overrides the one in there."""
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._settings = dict(settings or {})
        self._template = chat_template if chat_template is not None else _template_of(self._settings)
        self._add_named_tokens()
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than the highest id, added tokens included. The model's own vocabulary may be larger."""
        self.bos_token = self._named("bos_token")
        self.eos_token = self._named("eos_token")
        self.bos_id: int | None = self._id(self.bos_token)
        """Id of the beginning-of-sequence token, or None."""
        self.eos_id: int | None = self._id(self.eos_token)
        """Id of the end-of-sequence token, or None."""
        starts = backend.encode("", add_special_tokens=True).ids
        self._prepend_bos = (
            bool(self._settings.get("add_bos_token")) and self.bos_id is not None and self.bos_id not in starts[:1]
        )

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read tokenizer.json, or convert a sentencepiece tokenizer.model. ``UserError`` when neither can be used."""
        folder = Path(path)
        config_file = folder / "tokenizer_config.json"
        settings = read_json(config_file, _AGAIN) if config_file.is_file() else {}
        named_file = folder / "special_tokens_map.json"
        if named_file.is_file():
            settings = {**read_json(named_file, _AGAIN), **settings}
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text(encoding="utf-8") if template_file.is_file() else None
        file = folder / "tokenizer.json"
        if file.is_file():
            try:
                backend = Backend.from_file(str(file))
            except Exception as error:  # the library raises plain Exception for every fault in the file
                raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]}): {_AGAIN}") from None
        elif (folder / "tokenizer.model").is_file():
            from rftfast.models.spm import tokenizer_from_model

            # Llama's tokenizers add the BOS unless told otherwise.
            add_bos = bool(settings.get("add_bos_token", True))
            backend = tokenizer_from_model(folder / "tokenizer.model", add_bos=add_bos)
        else:
            raise UserError(f"{folder}: has neither tokenizer.json nor tokenizer.model: {_AGAIN}")
        return cls(backend, settings, template)

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of ``text``; special tokens written out in it are recognised. ``add_special`` adds the BOS (if any)."""
        ids = list(self._backend.encode(text, add_special_tokens=add_special).ids)
        return [self.bos_id, *ids] if add_special and self._prepend_bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; special tokens are left out, spaces are not cleaned up, broken UTF-8 becomes U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, size: int | None = None) -> list[bytes]:
        """The bytes each id adds to a text, by id; special tokens and ids without a token add nothing.

        ``size`` pads the list to the model's vocabulary. A sentencepiece tokenizer drops the space in front of the
        first word of a text when it decodes; the bytes here still have it.
        """
        table = [b""] * max(self.vocab_size, size or 0)
        added = self._backend.get_added_tokens_decoder()
        to_bytes = _byte_level if self._is_byte_level() else _sentencepiece_bytes
        for token, i in self._backend.get_vocab(with_added_tokens=True).items():
            if i not in added:
                table[i] = to_bytes(token)
            elif not added[i].special:
                table[i] = added[i].content.encode()
        return table

    def chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The chat template filled with ``messages`` (each with ``role`` and ``content``).

        Encode the result with ``add_special=False``: templates write the BOS themselves. ``UserError`` when the model
        has no template, or the template refuses the messages.
        """
        if self._template is None:
            raise UserError("this model has no chat template: use a plain prompt template instead")
        names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
        named = {name: self._named(name) for name in names}
        tokens = {name: token for name, token in named.items() if token is not None}
        return render_chat(self._template, messages, tokens, add_generation_prompt)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def fingerprint(self) -> str:
        """Hash (hex) of all that decides ids and texts: the tokenizer itself, its BOS rule and its chat template."""
        content = self._backend.to_str() + json.dumps([self._prepend_bos, self.bos_id, self.eos_id, self._template])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def _add_named_tokens(self) -> None:
        """Tokens that tokenizer_config.json adds to tokenizer.json, as transformers adds them: only missing ones."""
        listed = self._settings.get("added_tokens_decoder") or {}
        known = self._backend.get_added_tokens_decoder()
        for i, entry in sorted(listed.items(), key=lambda item: int(item[0])):
            if int(i) in known:
                continue
            token = AddedToken(
                entry["content"],
                **{k: bool(entry[k]) for k in ("lstrip", "rstrip", "normalized", "single_word") if k in entry},
                special=bool(entry.get("special")),
            )
            self._backend.add_tokens([token])
            if self._backend.token_to_id(token.content) != int(i):
                raise UserError(f"tokenizer_config.json gives {token.content!r} the id {i}, which is taken: {_AGAIN}")

    def _named(self, name: str) -> str | None:
        value = self._settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def _is_byte_level(self) -> bool:
        decoder = json.loads(self._backend.to_str()).get("decoder") or {}
        parts = decoder.get("decoders", [decoder])
        return any(part.get("type") == "ByteLevel" for part in parts)


def _template_of(settings: Mapping[str, Any]) -> str | None:
    template = settings.get("chat_template")
    if isinstance(template, list):  # several templates by name: the one called "default"
        table = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = table.get("default")
    return template if isinstance(template, str) else None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte, as character -> byte.

    Printable Latin-1 stands for itself; the other 68 bytes take the code points from 256 on, in order.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in plain]
    return table | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    # A token with a character outside the alphabet was never built from bytes: it stands for itself.
    return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
