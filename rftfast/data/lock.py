"""One writer at a time: the lock of a run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from rftfast.data.atomic import write_errors
from rftfast.errors import UserError

LOCK_FILE = ".lock"
_OWNER_FILE = ".lock.owner"
# What flock answers on file systems that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class RunLock:
    """Holds a folder for this process until :meth:`release`.

    The kernel's ``flock`` is used, which ends with the process, however it dies. Where there is none (some cluster file
    systems), a file created exclusively stands in; one left behind by a dead process of this machine is taken over.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._owner: Path | None = None
        self._handle = -1
        self._locked = False
        path = folder / LOCK_FILE
        with write_errors(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._locked = self._flock(folder)
            if not self._locked:
                self._create_exclusively(folder)
            with write_errors(path):
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, _me().encode(), 0)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._owner is not None:
            with contextlib.suppress(FileNotFoundError):
                self._owner.unlink()
            self._owner = None
        if self._handle >= 0:
            if self._locked:  # said outright, as a forked child may still hold a copy of the handle
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            os.close(self._handle)
            self._handle = -1

    def _flock(self, folder: Path) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._handle, 200, 0).decode("utf-8", "replace")
            raise _held(folder, holder) from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise UserError(f"{folder} cannot be locked ({error.strerror}); choose another --out") from error
        return True

    def _create_exclusively(self, folder: Path) -> None:
        path = folder / _OWNER_FILE
        with contextlib.suppress(FileNotFoundError):
            holder = path.read_text(encoding="utf-8", errors="replace")
            if not _is_dead(holder):
                raise _held(folder, holder, f"; if it is dead, remove {path}")
            path.unlink()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError as error:
            raise _held(folder, "a process that just started") from error
        self._owner = path
        with write_errors(path):
            try:
                os.write(handle, _me().encode())
            finally:
                os.close(handle)


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _held(folder: Path, holder: str, more: str = "") -> UserError:
    return UserError(
        f"{folder} is in use by {holder.strip() or 'another process'}; wait for it or choose another --out{more}"
    )


def _is_dead(holder: str) -> bool:
    """Whether the process in ``holder`` surely does not live: one of this machine whose number is free."""
    words = holder.split()
    if len(words) != 4 or words[3] != socket.gethostname() or not words[1].isdecimal():
        return False
    try:
        os.kill(int(words[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it lives, and belongs to someone else
    return False
