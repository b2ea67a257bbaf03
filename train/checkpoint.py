"""Checkpoints: written beside the training by torch.distributed.checkpoint, there whole or not at all.

``OUT/checkpoints/step-00000100/`` holds the shards, ``.metadata`` and ``checkpoint.json``. It is written under a temporary
name; when every process has written and synced its share, ``checkpoint.json`` follows, with the size of each file, and the folder is
renamed. So what has the name is whole, whenever the process is killed. The shards know nothing of the number of processes: any
number may go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from rftfast.data.atomic import sync_folder, write_atomic, write_errors
from rftfast.errors import UserError
from rftfast.train.optimizer import Optimizer
from rftfast.train.parallel import World

_log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{8})")
_MARKER = "checkpoint.json"
_FORMAT = 1


@dataclass(frozen=True)
class Position:
    """How far training has come: steps made in all, and the step that comes next, by epoch and index in it."""

    steps: int = 0
    epoch: int = 0
    index: int = 0
    useful_tokens: int = 0
    """Tokens of all documents seen so far, as often as they were seen."""


class Checkpointer:
    """Saves and loads model, optimizer and position under ``folder``. Every process has one; the main one renames and removes."""

    def __init__(self, folder: Path, world: World, model: nn.Module, optimizer: Optimizer, keep: int) -> None:
        self.folder = folder
        self._world = world
        self._model = model
        self._optimizer = optimizer
        self._keep = keep
        self._writing: Future[Any] | None = None
        self._finished: threading.Event = threading.Event()
        self._failure: BaseException | None = None
        self._last: Path | None = None
        if world.main:
            with write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(".step-*"):
                    shutil.rmtree(left)

    @property
    def last(self) -> Path | None:
        """The newest whole checkpoint, if any."""
        return next(iter(self._whole()), None)

    def save(self, position: Position) -> None:
        """Copy the state and write it in the background. Waits for the checkpoint before, which must be whole first."""
        self.wait()
        target = self.folder / f"step-{position.steps:08d}"
        if self._world.agree(target.exists()):
            return
        temporary = self.folder / f".{target.name}"
        self._finished.clear()
        with _said(target):
            future = dcp.async_save(self._state(), checkpoint_id=temporary, process_group=self._world.storage)
        assert isinstance(future, Future)
        self._writing = future
        future.add_done_callback(lambda done: self._finish(done, temporary, target, position))

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            with _said(self.folder):
                raise failure

    def wait(self) -> None:
        """Until the checkpoint being written is whole. Raises UserError if it cannot be."""
        if self._writing is not None:
            self._finished.wait()
            self._writing = None
        self.check()

    def load(self) -> Position | None:
        """Bring model and optimizer to the newest whole checkpoint; None if there is none.

        Raises:
            UserError: a damaged checkpoint.
        """
        newest = self._world.agree(self.last)
        if newest is None:
            return None
        held = _read_marker(newest)
        try:
            dcp.load(self._state(), checkpoint_id=newest, process_group=self._world.storage)
        except CheckpointException as error:
            reason = " ".join(str(next(iter(error.failures.values()), error)).split())[-200:]
            raise UserError(f"{newest}: cannot be read ({reason}); remove it to go on from the one before") from error
        position = Position(**held["position"])
        self._optimizer.set_steps(position.steps)
        return position

    def _state(self) -> dict[str, Any]:
        weights = {name: p.detach() for name, p in self._model.named_parameters()}
        return {"model": weights, "optimizer": self._optimizer.moments()}

    def _finish(self, done: Future[Any], temporary: Path, target: Path, position: Position) -> None:
        """In the writer's thread: name the checkpoint, then remove old ones."""
        try:
            done.result()
            if self._world.main:
                files = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
                marker = {
                    "format": _FORMAT,
                    "position": asdict(position),
                    "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "processes": self._world.size,
                    "torch": torch.__version__,
                    "files": files,
                }
                write_atomic(temporary / _MARKER, [json.dumps(marker, indent=2).encode() + b"\n"])
                temporary.rename(target)
                sync_folder(self.folder)
                for old in self._whole()[self._keep :]:
                    _remove(old)
        except BaseException as error:
            self._failure = error
        finally:
            self._finished.set()

    def _whole(self) -> list[Path]:
        """Whole checkpoints, the newest first."""
        found = [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)


def _read_marker(folder: Path) -> dict[str, Any]:
    """``checkpoint.json``, after a look at whether all its files are there with their sizes."""
    mend = "remove it to go on from the one before"
    try:
        held = json.loads((folder / _MARKER).read_bytes())
        for name, size in held["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise UserError(f"{folder}: {name} has {found} bytes instead of {size}; {mend}")
        if held["format"] != _FORMAT:
            raise UserError(f"{folder}: format {held['format']}, this version reads {_FORMAT}; {mend}")
        return held
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({' '.join(str(error).split())}); {mend}") from None


def _remove(folder: Path) -> None:
    """Under a temporary name first, so that half of it is never taken for a whole one."""
    hidden = folder.with_name(f".{folder.name}-old")
    folder.rename(hidden)
    shutil.rmtree(hidden)


@contextlib.contextmanager
def _said(target: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        reason = " ".join(str(first).split())[-200:]
        # torch's writer does not say that a disk is full.
        free = shutil.disk_usage(target if target.exists() else target.parent).free
        kept = "the checkpoints before it are kept"
        raise UserError(
            f"cannot write {target} ({reason}; {free / 1e6:,.1f} MB are free there); mend that and run the same command"
            f" again; {kept}"
        ) from error
    except OSError as error:
        with write_errors(target):
            raise error
