"""What is in an endpoint's reply, which may be of any form: texts, what the model declined, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rftfast.synth.teacher import Text, Usage, scrub, shorten

_CUT = ("length", "content_filter")
_SHORT_KEY = 12  # a key of fewer characters ("test") is no secret, and a word of texts


@dataclass(frozen=True)
class Reply:
    """``declined``: the model's words where it gave none but those. A text that is blank and ``cut`` is one that the model
    declined beside others that it gave, or that came to nothing within its length."""

    texts: tuple[Text, ...]
    declined: str | None
    usage: Usage


def read_reply(reply: Any, secrets: Sequence[str]) -> Reply:
    """``reply`` is what the client made of the server's JSON. Texts come without ``secrets``, should the endpoint echo them,
    and without halves of Unicode pairs, which no file of questions may hold."""
    choices = getattr(reply, "choices", None)
    texts, declined = [], []
    for choice in choices if isinstance(choices, list) else []:
        message, reason = getattr(choice, "message", None), getattr(choice, "finish_reason", None)
        content, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
        if isinstance(content, str) and content.strip():
            texts.append(Text(_clean(content, secrets), reason in _CUT))
        elif reason == "length":  # all its tokens went into thoughts that are not shown
            texts.append(Text("", True))
        elif refusal or reason == "content_filter":
            declined.append(shorten(_clean(str(refusal or reason), secrets)))
    if texts:
        texts += [Text("", True)] * len(declined)
    return Reply(tuple(texts), declined[0] if declined and not texts else None, _usage(reply))


def _usage(reply: Any) -> Usage:
    """Nothing for what is no completion."""
    used = getattr(reply, "usage", None)
    counts = getattr(used, "prompt_tokens", None), getattr(used, "completion_tokens", None)
    if all(isinstance(count, int) and count >= 0 for count in counts):
        return Usage(1, *counts)  # type: ignore[arg-type]
    return Usage(1, unknown=1) if getattr(reply, "choices", None) else Usage()


def _clean(text: str, secrets: Sequence[str]) -> str:
    whole = text.encode("utf-8", "replace").decode()
    return scrub(whole, [secret for secret in secrets if len(secret) >= _SHORT_KEY])
