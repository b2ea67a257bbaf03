"""JSONL that other tools wrote and that is written for them: read line by line, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rftfast.data.atomic import TEMPORARY
from rftfast.errors import UserError

STDIN = "-"
_SHOWN = 60
# How files begin that are often taken for JSONL, and what they are.
_OTHER_FILES = {b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzip file", b"\x28\xb5\x2f\xfd": "a zstd file"}


@contextlib.contextmanager
def open_input(source: str, *, seekable: bool = False) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of ``source`` (``-`` is standard input) and what to call it in messages.

    ``seekable``: a pipe is first copied into a temporary file, so that it can be read in any order.

    Raises:
        UserError: no such file, a folder, or no right to read it.
    """
    name = "standard input" if source == STDIN else source
    with contextlib.ExitStack() as stack:
        try:
            if source == STDIN:
                file: BinaryIO = sys.stdin.buffer
            else:
                file = stack.enter_context(open(source, "rb"))
            if seekable and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, copy)
                copy.seek(0)
                file = copy
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UserError(f"{name}: cannot be read ({reason}); name a JSONL file, or - for standard input") from error
        yield file, name


def read_rows(file: Iterable[bytes], name: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """``(line number from 1, offset of the line in bytes, row)`` of each JSON object; empty lines are passed over.

    Memory: one line.

    Raises:
        UserError: a line that is no JSON object in UTF-8, with its number.
    """
    offset = 0
    for number, line in enumerate(file, start=1):
        here, offset = offset, offset + len(line)
        if line.strip():
            yield number, here, parse_row(line, name, number)


def parse_row(line: bytes, name: str, number: int) -> dict[str, Any]:
    """The JSON object of one line. Raises UserError, naming the line, or the file where it is none of text."""
    where = f"{name}, line {number}"
    if number == 1:
        for magic, kind in _OTHER_FILES.items():
            if line.startswith(magic):
                raise UserError(f"{name}: {kind}; only JSONL is read here, so write it as that: one {{…}} a line")
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        column = min(error.pos, len(error.doc.rstrip())) + 1  # not in the line behind, where the line is cut short
        raise UserError(f"{where}: invalid JSON at column {column} ({error.msg}); mend that line") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested without end
        raise UserError(f"{where}: JSON that cannot be used ({error}); mend that line") from error
    if not isinstance(row, dict):
        shown = line[:_SHOWN].decode("utf-8", "replace").strip()
        raise UserError(f"{where}: expected a JSON object, found {shown!r}; write one {{…}} a line")
    return row


def text_in(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """The text in the first of the columns ``names`` that ``row`` has; numbers are written out.

    Raises:
        UserError: none of them is there, or what is there is no text.
    """
    for name in names:
        if name in row:
            value = row[name]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return str(value)
            if isinstance(value, str):
                return value
            raise UserError(f"{where}: {name!r} is {json.dumps(value)[:_SHOWN]}; write it as text")
    wanted = " or ".join(repr(name) for name in names)
    raise UserError(f"{where}: no column {wanted} (found {', '.join(list(row)[:12]) or 'nothing'}); add it")


@contextlib.contextmanager
def open_output(target: str | Path | None) -> Iterator[BinaryIO]:
    """A file to write bytes into: standard output for None and ``-``; else ``target``, there whole or as it was.

    Raises:
        UserError: the disk is full or refuses.
    """
    if target is None or str(target) == STDIN:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # whoever reads has gone (| head): typer ends quietly
            raise
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # what is still buffered cannot be written at exit, either
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            raise UserError(
                f"cannot write standard output ({error.strerror or error}); mend that, and run again"
            ) from error
        return
    with whole_file(Path(target)) as temporary, _said(Path(target)), temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end; after any error it is removed and ``path`` is as it was.

    A device or a pipe (``/dev/null``) cannot be replaced and is given as it is.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # what a link points to is replaced, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        with _said(path):
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        raise


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path} ({reason}); choose another place or mend that, and run again") from error
