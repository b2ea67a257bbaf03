"""Chat templates: Jinja programs that come with a model, run in a sandbox, with the helpers transformers gives them.

One helper differs: to a template that asks for today's date (Llama 3's) every day is the same one. A run that goes on the
next day must see the same prompts, and a model the one it was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rftfast.errors import UserError

_TODAY = datetime(2024, 7, 26)  # what Llama 3's templates write where nobody tells them the date


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], tokens: Mapping[str, str], add_generation_prompt: bool
) -> str:
    """``template`` filled with ``messages`` and the named special ``tokens``. ``UserError`` when it refuses or fails."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        # Jinja's own filter escapes for HTML, which a prompt must not be.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    def strftime_now(pattern: str) -> str:
        return _TODAY.strftime(pattern)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokens,
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:  # a template is a program
        raise UserError(f"the model's chat template fails on these messages: {' '.join(str(error).split())}") from None
