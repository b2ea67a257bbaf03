"""The C library's heap: glibc gives large freed blocks back to the system, which fills each page with zeros when it is asked for again.

A training step allocates and frees the same gigabytes again and again, so on a CPU that was 10 to 20 % of its time.
"""

from __future__ import annotations

import ctypes
import os

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 2**31 - 1}  # the largest values that it takes
_ITS_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """For the rest of this process: blocks up to 32 MiB come from the heap, and up to 2 GiB stay there when they are free.

    Returns False, and does nothing, where the C library is not glibc or the environment says how it is to behave.
    """
    if any(name in os.environ for name in _ITS_OWN):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(option, value) == 1 for option, value in _MOST.items())
