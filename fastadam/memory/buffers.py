"""Memory of the host for parameters, gradients and moments: aligned, each at a place of its own within a page."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE, MASTER, ROLES, SCALES

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
HUGE_PAGE = 2 << 20  # bytes; the usual transparent huge page
HUGE_FROM = 2 * HUGE_PAGE  # smaller buffers gain nothing from whole huge pages
# A kernel goes through these buffers side by side, and each has its own place within a page: depending on
# the pages, a step over buffers that begin together, or a few lines apart, can take half as long again
# (docs/performance.md, "Where buffers begin").
PAGE = 4096  # bytes
SPREAD = 77 * ALIGNMENT  # from one to the next: a page, and 13 lines, a fifth of a page
# Small buffers keep to their page; larger ones spread over pages, too, which second-level caches count. The
# smallest begin at any line: a step over them is no slower for it, and there may be thousands.
PLACED_FROM = 1 << 10  # bytes
SPREAD_FROM = 128 << 10
# What there are buffers for.
_KEPT = (*ROLES, AVERAGE, MASTER, *SCALES.values())


def aligned_zeros(size: int, dtype: np.dtype[Any], role: str) -> Array:
    """Return `size` zeros in a buffer of their own that starts at a multiple of 64 bytes.

    Parameters
    ----------
    size : int
        Number of elements.
    dtype : dtype
        Any NumPy dtype.
    role : str
        One of `ROLES`, or `AVERAGE`, `MASTER` or one of `SCALES`: what a step will take them for.

    Returns
    -------
    ndarray, shape (size,)
        Buffers of 4 MiB and more lie in transparent huge pages, where the system has them; their pages are taken
        up as they are first written.

    Raises
    ------
    MemoryError
        If the system has not that much memory.
    """
    nbytes = size * dtype.itemsize
    alignment, start = _place(nbytes, role)
    if alignment == HUGE_PAGE:
        raw = _huge_pages(nbytes + start + alignment)
    else:
        # Unlike memory of its own, memory that an array borrows cannot be resized away under native code.
        raw = np.frombuffer(bytearray(nbytes + start + alignment), np.uint8)
    offset = -int(raw.__array_interface__["data"][0]) % alignment + start
    return raw[offset : offset + nbytes].view(dtype)


def _place(nbytes: int, role: str) -> tuple[int, int]:
    """Return how a buffer's memory is aligned, and how many bytes from there the buffer begins."""
    if nbytes < PLACED_FROM:
        return ALIGNMENT, 0
    start = _KEPT.index(role) * SPREAD
    if nbytes < SPREAD_FROM:
        return PAGE, start % PAGE
    return HUGE_PAGE if nbytes >= HUGE_FROM and hasattr(mmap, "MADV_HUGEPAGE") else PAGE, start


def _huge_pages(nbytes: int) -> Array:
    try:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot reserve {nbytes} bytes: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without them: ordinary pages hold the same numbers
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
