"""Settings of the C library's memory allocator.

glibc hands large blocks (above 32 MiB always) and the top of its heap back to the kernel when they are freed, and
fetches fresh zeroed pages for the next ones: in a training step, which frees and allocates the same large tensors over
and over, these page faults cost a tenth of the time. Kept in the process, the blocks are used again.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Names of mallopt's settings, from glibc's malloc.h."""
LARGEST_KEPT = 1 << 30
"""Blocks above this size go back to the kernel still: a model's weights, not a step's tensors."""
TOP_PAD = 64 << 20
"""Bytes the heap grows by at least, so that it grows seldom."""


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next allocations; return whether the C library does it.

    Only glibc is known to need it and to take these settings; elsewhere nothing is changed. The process's peak stays
    what it was, and memory it has once used stays with it until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  only glibc has it; AttributeError elsewhere
        settings = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD))
        return all(library.mallopt(name, value) == 1 for name, value in settings)
    return False
