"""torchrun, which starts the processes of a world: where it dies, they are not to train on by themselves."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_launcher() -> bool:
    """On Linux, under torchrun: the kernel kills this process as soon as torchrun has died, however that came.

    torchrun ends its workers when it is asked to stop. Killed outright (kill -9, the system out of memory) it leaves them at
    work, in the folder that the same command, started again, wants to go on with. Returns whether it was arranged.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) == 0
