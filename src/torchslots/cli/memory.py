"""Memory that was freed is kept for the next tensor: page faults cost a training step on the CPU a fifth of its time.

glibc asks the kernel for every block above 32 MiB and hands it back at once, so that each step touches hundreds of
megabytes of fresh pages. Kept, they are touched once.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; returns whether its C library can. To be called before tensors are made.

    It changes the whole process, so the library never calls it by itself: the command line does, and so may you.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
