"""The batch sizes there are graphs for: a batch runs in the next larger one."""

from __future__ import annotations

from bisect import bisect_left

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_SHORTEST_REACH = 64


def bucket_of(num_rows: int) -> int:
    """Return the smallest bucket that holds this many rows (1 to 1,024).

    Example:
        >>> bucket_of(1), bucket_of(17), bucket_of(512)
        (1, 24, 512)
    """
    return BUCKETS[bisect_left(BUCKETS, num_rows)]


def reach_of(num_tokens: int) -> int:
    """Return the number of columns, a power of two from 64, that attention written in torch looks at.

    Example:
        >>> reach_of(1), reach_of(64), reach_of(65)
        (64, 64, 128)
    """
    return max(_SHORTEST_REACH, 1 << (num_tokens - 1).bit_length())
