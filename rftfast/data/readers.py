"""Tables of questions from outside: JSONL, JSON and Parquet files, and data sets on the Hugging Face Hub.

Every reader gives a :class:`Table`: rows as plain dictionaries, each with the place it came from in words ("line 7"), so
that a later complaint about a row can say where it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(:(?P<config>[\w.-]+))?")
# Under which key a JSON object may hold its rows, after the split's own name.
_LIST_KEYS = ("data", "questions", "rows", "examples")


@dataclass(frozen=True)
class Table:
    """Rows of one source. ``rows[i]`` is ``(where, row)``, where in words, such as ``line 7`` or ``row 7`` (from 1)."""

    source: str
    rows: tuple[tuple[str, dict[str, Any]], ...]


def read_table(source: str | Path, *, split: str = "train") -> Table:
    """Read ``source``: an existing file, or else the name of a Hub data set (``owner/name`` or ``owner/name:config``).

    Raises:
        UserError: no such file or data set, an unknown file type, or contents that cannot be read.
    """
    try:
        path = Path(source).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL byte, no such home folder
        raise UserError(f"{str(source)[:200]!r} cannot be looked up ({error}); check the path") from error
    if is_folder:
        raise UserError(f"{path} is a folder; name a file inside it ({_listed(SUFFIXES)})")
    if is_there:
        return read_file(path, split=split)
    # A pathlib.Path, or text that can only mean a file, is never looked up on the Hub.
    text = str(source)
    hub = _HUB_NAME.fullmatch(text)
    if isinstance(source, Path) or path.suffix.lower() in SUFFIXES or text.count("/") > 1 or hub is None:
        raise UserError(f"{source}: no such file; check the path (current folder: {Path.cwd()})")
    return read_hub(hub["name"], config=hub["config"], split=split)


def read_file(path: Path, *, split: str = "train") -> Table:
    """Read one file by its suffix. ``split`` picks the list in a JSON object such as ``{"train": [...], "test": [...]}``."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown file type {suffix or '(no suffix)'}; use one of {_listed(SUFFIXES)}")
    if suffix == ".parquet":
        rows = list(_parquet_rows(path))
    else:
        text = read_text(path)
        rows = _json_rows(path, text, split) if suffix == ".json" else list(jsonl_rows(path, text))
    if not rows:
        raise UserError(f"{path}: the file holds no rows; give it at least one question")
    return Table(str(path), tuple(rows))


def jsonl_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One JSON object a line; empty lines are passed over. Lines end at ``\\n`` alone, as JSON strings may hold U+2028."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse(path, f"line {number}", line)
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: expected a JSON object, found {_kind(row)}; write one {{…}} a line"
            )
        yield f"line {number}", row


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError with the line of the first wrong byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error


def _parse(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if error.lineno == 1 else f"line {error.lineno}"
        raise UserError(
            f"{path}, {place}: invalid JSON at column {error.colno} ({error.msg}); mend that line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested without end
        raise UserError(f"{path}, {where}: JSON that cannot be used ({error}); mend that line") from error


def _json_rows(path: Path, text: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    if not text.strip():
        return []
    if text.lstrip().startswith("{"):
        # Many files named .json hold one object a line: a first object with more after it is read so.
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":
                return list(jsonl_rows(path, text))
        except (ValueError, RecursionError):
            pass  # said in words by the parse below
    value = _parse(path, "line 1", text)
    if isinstance(value, dict):
        value = _list_in(path, value, split)
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of objects, found {_kind(value)}; write [{{…}}, {{…}}]")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number}: expected an object, found {_kind(row)}; write {{…}} for each question"
            )
    return [(f"row {number}", row) for number, row in enumerate(value, start=1)]


def _list_in(path: Path, value: dict[str, Any], split: str) -> list[Any]:
    lists = [key for key, item in value.items() if isinstance(item, list)]
    for key in (split, *_LIST_KEYS):
        if key in lists:
            return value[key]
    if len(lists) == 1:
        return value[lists[0]]
    if not lists:  # a single question, not wrapped in a list
        return [value]
    raise UserError(f"{path}: holds several lists ({_listed(lists)}); name the wanted one {split!r}")


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run: pip install 'rftfast[parquet]'") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: not a readable Parquet file ({first}); write it again") from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def read_hub(name: str, *, config: str | None = None, split: str = "train") -> Table:
    """Read one split of a Hub data set through the ``datasets`` package (extra ``hub``). Never runs code from the Hub.

    Raises:
        UserError: the package is not installed, there is no network, or no such data set, configuration or split.
    """
    label = f"{name}:{config}" if config else name
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            f"{label}: no such file here, and reading it from the Hub needs the datasets package;"
            " check the path or run: pip install 'rftfast[hub]'"
        ) from error
    try:
        rows = [dict(row) for row in load_dataset(name, config, split=split)]
    except (OSError, ValueError, RuntimeError) as error:
        # Not found, no network, unknown configuration or split: all of them come as subclasses of these.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{label} (split {split}): no such file here, and not readable from the Hub ({reason[:300]});"
            " check the name (owner/name or owner/name:config), the split and the network"
        ) from error
    if not rows:
        raise UserError(f"{label} (split {split}): holds no rows; choose another split")
    return Table(label, tuple((f"row {number}", row) for number, row in enumerate(rows, start=1)))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
