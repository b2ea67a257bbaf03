"""What a run directory and a directory of records have in common: one process holds it, figures are appended as they come,
and what waits is stored on the way out."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rftfast.data.atomic import append_whole
from rftfast.data.lock import RunLock
from rftfast.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

METRICS_FILE = "metrics.jsonl"


class HeldDir(ABC):
    """A folder whose ``lock`` this process holds until :meth:`close`; a context manager."""

    def __init__(self, path: Path, lock: RunLock) -> None:
        self.path = path
        self._lock = lock

    @abstractmethod
    def commit(self) -> None:
        """Store what waits; nothing waiting, nothing done. May be called again after any error or interrupt."""

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Append a line of figures to ``metrics.jsonl``, with the Unix time in seconds as ``time``.

        Raises:
            UserError: the disk is full or refuses.
        """
        line = json.dumps({"time": round(time.time(), 3), **values}).encode() + b"\n"
        append_whole(self.path / METRICS_FILE, line)

    def close(self) -> None:
        """Store what waits and give the folder free for others, even if storing fails."""
        try:
            self.commit()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The error on its way out is the one to tell; if it is a full disk, storing fails for the same reason.
        with contextlib.suppress(UserError):
            self.close()
