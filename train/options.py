"""A dataclass of options as a command line: one ``--option`` for each field, its help the text under the field."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeVar, Union

from rftfast.errors import UserError

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def parse(kind: type[T], arguments: Sequence[str] | None, *, program: str, about: str) -> T:
    """``arguments`` (by default the process's) as an instance of the dataclass ``kind``; fields without default are required.

    A field may be text, a number, a switch (``--name``, or ``--no-name`` for what is on), a choice (``Literal``), or one of these or None.

    Raises:
        UserError: an unknown option, a missing one, or a value that is none.
    """
    parser = _Parser(prog=program, description=about, allow_abbrev=False, formatter_class=_Wide)
    hints = typing.get_type_hints(kind)
    texts = docstrings(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        _add(parser, field, _plain_type(hints[field.name]), texts[field.name])
    return kind(**vars(parser.parse_args(arguments)))


def docstrings(kind: type) -> dict[str, str]:
    """The text that stands under each field of a dataclass, on one line; what it inherits comes first."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if dataclasses.is_dataclass(part):
            found |= _own_docstrings(part)
    return found


def _own_docstrings(kind: type) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


class _Wide(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=120)


def _add(parser: argparse.ArgumentParser, field: Any, kind: Any, text: str) -> None:
    name = f"--{field.name.replace('_', '-')}"
    required = field.default is dataclasses.MISSING
    if not required and field.default is not None and kind is not bool:
        text += f" [{field.default}]"
    settings: dict[str, Any] = {"dest": field.name, "help": text.replace("%", "%%")}
    settings |= {"required": True} if required else {"default": field.default}
    if kind is bool:
        # What is off by default is switched on by its name; what is on is switched off by --no-name.
        on = bool(field.default)
        name = name.replace("--", "--no-", 1) if on else name
        parser.add_argument(name, action="store_false" if on else "store_true", **settings)
    elif typing.get_origin(kind) is Literal:
        parser.add_argument(name, choices=typing.get_args(kind), **settings)
    else:
        parser.add_argument(name, type=kind, metavar=kind.__name__.upper(), **settings)


def _plain_type(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    return kind
