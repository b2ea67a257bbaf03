"""What the entry scripts share: options in, exit status out."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rftfast.errors import UserError

if TYPE_CHECKING:
    from rftfast.train.config import TrainConfig
    from rftfast.train.job import Job
    from rftfast.train.trainer import Trainer

    Training = tuple[Callable[[TrainConfig, str], Job], type[Trainer]]


def main(
    method: str,
    about: str,
    arguments: Sequence[str] | None = None,
    *,
    options: type[TrainConfig] | None = None,
    load: Callable[[], Training] | None = None,
) -> int:
    """Run one training method from the command line; the process's exit status.

    ``options``, and what ``load`` imports (what prepares a job, and what trains it), are those of supervised training unless
    the method has its own. ``load`` is called when the options are known to be right.

    0: the model is there. 2: bad input, in one line on stderr. 128 + n: stopped by signal n, everything saved.
    """
    from rftfast.train.config import TrainConfig
    from rftfast.train.options import parse

    rank = int(os.environ.get("RANK", "0"))
    try:
        config = parse(options or TrainConfig, arguments, program=f"train/{method}.py", about=about)
    except UserError as error:
        return _end(f"error: {error}", 2, rank)

    # After the options, so that --help and a wrong option do not wait for torch and transformers.
    from rftfast.train.dry_run import show_job
    from rftfast.train.stop import Stopped
    from rftfast.train.trainer import run_job

    prepare, trainer = (load or _supervised)()
    logging.basicConfig(format="%(message)s", level=logging.WARNING if rank else logging.INFO)
    for noisy in ("httpx", "torch", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        prepared = prepare(config, method)
        if config.dry_run:
            show_job(prepared)
        else:
            run_job(prepared, trainer)
    except UserError as error:
        return _end(f"error: {error}", 2, rank)
    except Stopped as stopped:
        return _end("" if rank else str(stopped), 128 + stopped.number, 0)
    except KeyboardInterrupt:  # before the first step, or a second one that did not want to wait
        return _end("" if rank else "interrupted; the same command goes on from the last checkpoint, if any", 130, 0)
    return 0


def _supervised() -> Training:
    from rftfast.train.job import prepare
    from rftfast.train.trainer import Trainer

    return prepare, Trainer


def _end(line: str, status: int, rank: int) -> int:
    if rank:
        # Most errors are everyone's, and then torchrun ends this process before it speaks up a second time.
        time.sleep(2)
        line = f"process {rank}: {line}"
    if line:
        print(line, file=sys.stderr, flush=True)
    return status
