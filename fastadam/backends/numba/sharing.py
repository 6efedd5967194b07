"""How Numba's kernels share out a batch, as cext/shares.h does. Importing it imports Numba."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastadam.backends.numba.memory import numbers
from fastadam.memory.structs import BATCH, BLOCK, SHARES_PER_THREAD

NEXT_SHARE = BATCH.dtype.fields["next_share"][1]


@register_jitable
def param_at(span, element):
    """Return which of a span's parameters an element belongs to; there are at least two."""
    starts = numbers(span.starts, span.n_starts, types.int64)
    low, high = 0, span.n_starts
    while high - low > 1:
        middle = low + ((high - low) >> 1)
        if starts[middle] <= element:
            low = middle
        else:
            high = middle
    return low


@register_jitable
def border(span, element):
    """Return the last border of a block at or before an element of a span."""
    start = 0
    if span.n_starts > 1:
        start = numbers(span.starts, span.n_starts, types.int64)[param_at(span, element)]
    return start + (element - start) // BLOCK * BLOCK


@register_jitable
def part_of_span(span, start, low, high):
    """Return which part of a span belongs to elements low to high of its batch (see cext/adam.h)."""
    first = border(span, low - start) if low > start else 0
    last = border(span, high - start) if high < start + span.size else span.size
    return first, last


@register_jitable
def share_size(batch):
    """Return how many elements a share of a batch has, but for the border that it is moved to."""
    n = batch.threads * SHARES_PER_THREAD
    return (batch.elements + n - 1) // n
