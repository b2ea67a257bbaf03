"""The numbers of each step: to ``metrics.jsonl``, TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rftfast.data.atomic import append_whole, write_atomic
from rftfast.data.jsonl import read_rows
from rftfast.errors import UserError
from rftfast.train.config import TrainConfig

_log = logging.getLogger(__name__)
FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepMetrics:
    """One step, over all processes."""

    step: int
    """Steps made, this one included."""
    epoch: int
    """From 1."""
    loss: float
    """Mean over the response tokens of the global batch."""
    lr: float
    grad_norm: float
    """Before clipping."""
    seconds: float
    """Wall time of the step, everything included."""
    documents: int
    tokens: int
    """Of the documents, a prompt counted for each: what the speed is reckoned in."""
    response_tokens: int
    positions: int
    """Fed to the model; fewer than ``tokens`` where prompts are shared."""
    tokens_per_second: float
    mfu: float | None
    """Share of the devices' peak; None where the work cannot be counted."""
    memory: int
    """Most bytes held so far: on the GPU, or by the process where there is none; the main process's."""
    validation_loss: float | None
    """After the step, on the examples that are not trained on; None where it was not measured."""

    def shown(self) -> str:
        """What a person watches most, in words."""
        measured = "" if self.validation_loss is None else f", validation {self.validation_loss:.3f}"
        return f"loss {self.loss:.3f}{measured}"

    def validation_shown(self) -> str:
        """What was measured on the validation examples, in words."""
        return f"loss {self.validation_loss:.4f}"


def check_reporters(config: TrainConfig) -> None:
    """Before anything is loaded: UserError where what was asked for by name is not installed."""
    if config.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise UserError("--wandb needs the package wandb; run: pip install wandb, or leave the option out")


class MetricsWriter:
    """Writes to ``folder``; rows of steps after ``made`` (done again after a resume) are taken out first."""

    def __init__(self, folder: Path, config: TrainConfig, made: int) -> None:
        self._file = folder / FILE
        self._board: Any = None
        self._wandb: Any = None
        rows = [row for row in read_metrics(folder) if row["step"] <= made]
        write_atomic(self._file, (_line(row) for row in rows))
        if config.tensorboard:
            self._board = _open_tensorboard(folder, made)
        if config.wandb is not None:
            self._wandb = _open_wandb(config, folder)

    def write(self, metrics: StepMetrics) -> None:
        row = asdict(metrics)
        append_whole(self._file, _line(row))
        shown = {_place(name): value for name, value in row.items() if name != "step" and value is not None}
        if self._board is not None:
            for name, value in shown.items():
                self._board.add_scalar(name, value, metrics.step)
        if self._wandb is not None:
            self._wandb.log(shown, step=metrics.step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, in order; none where there is no file. A last line cut short is left out."""
    file = folder / FILE
    if not file.is_file():
        return []
    data = file.read_bytes()
    return [row for _, _, row in read_rows(data[: data.rfind(b"\n") + 1].splitlines(), str(file))]


def memory(device: torch.device) -> int:
    """Most bytes ever held: of the GPU by torch, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def draw(rows: Sequence[dict[str, Any]], path: Path, unit: str) -> bool:
    """The loss curve (in ``unit``) as a PNG, with the learning rate; False (and a log line) without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        _log.warning("no loss curve: matplotlib is not installed (pip install 'rftfast[plots]')")
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    axes.plot(steps, losses, color="C0", alpha=0.35, lw=1)
    axes.plot(steps, _smooth(losses), color="C0", label="loss (mean of 10 % of the steps)")
    for row, before in zip(rows[1:], rows, strict=False):
        if row["epoch"] != before["epoch"]:
            axes.axvline(before["step"] + 0.5, color="0.7", lw=0.8)
    held_out = [(row["step"], loss) for row in rows if (loss := row.get("validation_loss")) is not None]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="C2", marker="o", ms=3, label="validation")
    axes.set(xlabel="step", ylabel=f"loss, {unit}")
    axes.grid(alpha=0.3)
    rates = axes.twinx()
    rates.plot(steps, [row["lr"] for row in rows], color="C1", lw=1, ls="--", label="learning rate")
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=110, format="png")
    return True


def _smooth(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, over a tenth of them all."""
    reach = max(1, len(values) // 20)
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _place(name: str) -> str:
    """Where a number stands among the curves of TensorBoard and Weights & Biases."""
    held_out = name.removeprefix("validation_")
    return f"train/{name}" if held_out == name else f"validation/{held_out}"


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _open_tensorboard(folder: Path, made: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        _log.warning("no TensorBoard files: tensorboard is not installed (pip install 'rftfast[train]')")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=made + 1)


def _open_wandb(config: TrainConfig, folder: Path) -> Any:
    import wandb

    # The same folder is the same run, so that one that goes on goes on there, too.
    name = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    return wandb.init(project=config.wandb, name=folder.name, id=name, resume="allow", config=asdict(config))
