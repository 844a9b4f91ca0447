"""Memory that a process frees stays with the process, for the arrays of the next sample and the next step.

In: nothing. Out: a C library that hands no freed memory back to the system.

glibc maps each array of 32 MB and more anew, and gives smaller ones back when enough of them are free; the system then
hands out zeroed pages at the first touch of each. On a virtual machine where this was measured that took 2 to 4 us a
page of 4 KB, several times as long as writing it. A training frees at each step what it takes, and the preparation of
a store scene by scene, so keeping it does not raise the peak; a map of a large scene wants the opposite, and does not
call this.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt(3)
_LARGEST = 2**31 - 1  # bytes free at the end of the heap before they are given back: the most that mallopt takes


def keep_freed_memory() -> bool:
    """Make this process, and those that it forks, keep freed memory; return whether that was possible.

    Only glibc can; where its user has set it up with MALLOC_... or GLIBC_TUNABLES, that stands.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
