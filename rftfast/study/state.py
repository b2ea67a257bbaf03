"""What is known of a step that was started: ``step.json`` in its folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rftfast.data.atomic import write_atomic
from rftfast.errors import UserError
from rftfast.study.graph import Step

STATE_FILE = "step.json"
LOG_FILE = "log.txt"
DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"


@dataclass(frozen=True)
class State:
    """``status`` running also means: was killed. ``seconds`` are summed over all the times the step was run."""

    name: str
    kind: str
    key: str
    status: str
    command: list[str]
    seconds: float = 0.0
    started: str = ""
    exit_status: int | None = None

    def begun(self) -> State:
        return replace(self, status=RUNNING, started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def ended(self, exit_status: int, seconds: float) -> State:
        status = DONE if exit_status == 0 else FAILED
        return replace(self, status=status, exit_status=exit_status, seconds=round(self.seconds + seconds, 3))

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / STATE_FILE, [json.dumps(asdict(self), indent=1).encode() + b"\n"])


def read_state(step: Step) -> State:
    """Of a step that was never started, the state it starts from."""
    file = step.folder / STATE_FILE
    try:
        value = json.loads(file.read_bytes())
        found = State(**value)
    except FileNotFoundError:
        return State(step.name, step.kind.name, step.key, WAITING, step.command())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); remove that folder, and the step is done anew") from None
    if found.key != step.key:
        raise UserError(f"{file}: belongs to another step ({found.name}); remove that folder, or choose another --out")
    return found


def log_tail(step: Step, lines: int = 15) -> list[str]:
    """The last lines of the step's log, as a terminal would show them."""
    try:
        with (step.folder / LOG_FILE).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    # A progress bar rewrites its line; the last state of it is what was to be seen.
    shown = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").splitlines()]
    return [line for line in shown if line and not line.startswith("$ ")][-lines:]
