"""The user's cache folder, and folders in it that are either whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rftfast.errors import UserError


def cache_folder() -> Path:
    """``$RFTFAST_CACHE``, else ``$XDG_CACHE_HOME/rftfast``, else ``~/.cache/rftfast``. Need not exist yet."""
    own = os.environ.get("RFTFAST_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "rftfast"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """``target``, built by ``build(folder)`` unless it stands already.

    The folder is filled under a temporary name beside its place and renamed when done, so that whoever sees it sees
    all of it. Two processes may build at once; the first to finish wins and the other's work is thrown away.
    ``UserError`` when the place cannot be written or the disk is full.
    """
    if target.is_dir():
        return target
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
        build(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # not "someone else was first"
                raise
        return target
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{target.parent}: the disk is full: make room, or set RFTFAST_CACHE elsewhere") from None
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)) or error.errno == errno.EROFS:
            raise UserError(f"{target.parent}: cannot be written ({error.strerror}): set RFTFAST_CACHE") from None
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
