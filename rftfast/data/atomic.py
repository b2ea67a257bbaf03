"""Writing files so that they are there whole or not at all, and saying in one line why a write failed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rftfast.errors import UserError

TEMPORARY = ".tmp"  # the suffix of files that are being written; such a file is never read


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` met while writing ``path`` into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        kept = "everything up to the last part is kept"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"disk full: cannot write {path}; free space and run the same command again; {kept}"
        else:
            reason = error.strerror or str(error)
            message = f"cannot write {path} ({reason}); mend that and run the same command again; {kept}"
        raise UserError(message) from error


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Write ``path`` under a temporary name beside it, force it to the disk and rename it.

    Any failure, of the disk or of ``chunks`` itself, leaves ``path`` as it was and removes the temporary file.

    Raises:
        UserError: the disk is full or refuses for another reason.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with write_errors(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink()
            raise
        sync_folder(path.parent)


def append_whole(path: Path, data: bytes) -> None:
    """Append ``data`` to ``path``, made if need be; on failure the file is cut back to what it was.

    Raises:
        UserError: the disk is full or refuses for another reason.
    """
    with write_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(handle, rest) :]
            except OSError:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def mend_lines(path: Path) -> None:
    """A last line that was cut short goes.

    Raises:
        UserError: the disk is full or refuses.
    """
    with write_errors(path):
        data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        write_atomic(path, [data[: data.rfind(b"\n") + 1]])


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (a rename) to the disk, where the file system knows how to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder; they order renames themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``."""
    with write_errors(folder):
        for path in folder.glob(f".*{TEMPORARY}"):
            path.unlink()
