"""What this process does with memory that it has freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step instead of handing every large block back to the kernel.

    A step of training allocates the same activations and gradients again and again; fresh pages for them took about a
    tenth of it at 8 tiles of 256 px (docs/results.md, Training). A blend does so with every tile. All threads share one
    arena: with one each, prediction's memory grew with the tiles. Where the C library is another one, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
