"""Have glibc reuse freed memory, since page faults take a fifth of a training step on the CPU.

glibc allocates every block above 32 MiB from the kernel and returns it when it is freed, so each step touches hundreds
of megabytes of new pages. Reused, they are touched once.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt in glibc's malloc.h."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process reuse freed memory; returns whether its C library can. Call it before tensors are made.

    It changes the whole process, so the command line calls it and the library does not.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
