"""``run.json``: what a run directory was made with, and whether it may be gone on with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfast.data.atomic import write_atomic
from rftfast.data.lock import LOCK_FILE
from rftfast.data.parts import part_paths
from rftfast.errors import UserError

RUN_FILE = "run.json"
_FORMAT = 1
_COMPARED = ("config", "fingerprints")
# What the user changed where a fingerprint differs.
_MAY_MEAN = {"questions": " (another or a changed file, or another --limit)"}


def check_folder(path: Path) -> None:
    """Refuse a folder that is neither a run directory nor empty, before anything is written into it.

    Raises:
        UserError: ``path`` is a file, holds something else, or lost its ``run.json``.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; choose another --out")
    if not path.is_dir() or (path / RUN_FILE).exists():
        return
    if part_paths(path / "samples"):
        raise UserError(f"{path} holds samples but no {RUN_FILE}; put that file back or choose another --out")
    # A run killed at its very start leaves these, and temporary and lock files, which begin with a dot.
    foreign = sorted(
        item.name
        for item in path.iterdir()
        if item.name not in ("samples", "logs") and not item.name.startswith((LOCK_FILE, f".{RUN_FILE}"))
    )
    if foreign:
        raise UserError(
            f"{path} is not a run directory (it holds {foreign[0]}); choose a new or an empty folder as --out"
        )


def open_manifest(
    path: Path,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    versions: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> bool:
    """Write ``path``/run.json, or check the one there against ``config`` and ``fingerprints``.

    ``versions`` and ``notes`` are those of the first start, recorded and not compared.

    Returns:
        Whether the run existed.

    Raises:
        UserError: another configuration (each field that differs is named, old value → new value), or a damaged file.
    """
    file = path / RUN_FILE
    asked = _plain({"config": config, "fingerprints": fingerprints})
    if not file.exists():
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        whole = {"format": _FORMAT, "started": started, **asked, **_plain({"versions": versions, "notes": notes})}
        write_atomic(file, [json.dumps(whole, indent=2, ensure_ascii=True).encode() + b"\n"])
        return False
    _refuse_another(path, asked)
    return True


def check_manifest(
    path: Path, config: Mapping[str, Any], fingerprints: Mapping[str, Any], *, unknown: Sequence[str]
) -> None:
    """Refuse what :func:`check_folder` and :func:`open_manifest` would, and write nothing: before anything slow is begun.

    ``unknown``: fields of ``config`` that are not known yet and not compared.

    Raises:
        UserError: as those two.
    """
    check_folder(path)
    if (path / RUN_FILE).exists():
        _refuse_another(path, _plain({"config": config, "fingerprints": fingerprints}), unknown)


def _refuse_another(path: Path, asked: Mapping[str, Any], unknown: Sequence[str] = ()) -> None:
    stored = read_manifest(path)
    differing = []
    for section in _COMPARED:
        old, new = _flat(stored[section]), _flat(asked[section])
        label = "fingerprint of " if section == "fingerprints" else ""
        for field in dict.fromkeys((*old, *new)):
            if section == "config" and field in unknown:
                continue
            if field not in old or field not in new or old[field] != new[field]:
                why = _MAY_MEAN.get(field, "") if label else ""
                differing.append(f"{label}{field} {_shown(old, field)} → {_shown(new, field)}{why}")
    if differing:
        raise UserError(
            f"{path} was made with another configuration: {', '.join(differing)};"
            " repeat the old options to go on with it, or choose another --out"
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The contents of ``path``/run.json.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    file = path / RUN_FILE
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        inside = sorted(item.parent for item in path.glob(f"*/{RUN_FILE}"))  # of an evaluation, say
        mend = f"it holds runs, name those, such as {inside[0]}" if inside else "name the folder of a run"
        raise UserError(f"{file}: cannot be read ({error.strerror}); {mend}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged (invalid JSON); put it back from a copy or choose another --out") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(section), dict) for section in _COMPARED):
        raise UserError(f"{file}: damaged (no configuration in it); put it back from a copy or choose another --out")
    if value.get("format") != _FORMAT:
        raise UserError(f"{file}: format {value.get('format')}, this version reads {_FORMAT}; choose another --out")
    return value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it will read back from JSON, so that tuples and lists, or keys 1 and "1", do not count as different."""
    return json.loads(json.dumps({key: dict(item) for key, item in value.items()}))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found.update(_flat(item, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = item
    return found


def _shown(values: Mapping[str, Any], field: str) -> str:
    if field not in values:
        return "(not there)"
    text = json.dumps(values[field], ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
