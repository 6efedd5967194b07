"""The norm's sums of squares in NumPy."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from fastadam.memory.arrays import Array, array_at
from fastadam.memory.formats import BFLOAT16, Format
from fastadam.memory.structs import BLOCK, ROLES
from fastadam.step.backend import Measure, PartOfPlan
from fastadam.step.norm import add_blocks
from fastadam.step.quiet import Quiet
from fastadam.step.variants import variant_of

# Blocks that are added up at a time: what is computed on the way stays in the cache.
BLOCKS = 32


def bind_measure(part: PartOfPlan) -> Measure:
    """Return the function that adds up the squares of a part (see `fastadam.step.backend.Backend`)."""
    return functools.partial(Quiet().run, _measure, part)


def _measure(part: PartOfPlan) -> None:
    part.norm.clear()
    total = part.norm.totals[:1].reshape(())
    for variant, first, count in part.batches[["variant", "first", "count"]].tolist():
        if variant_of(variant).idle:
            continue
        number_format = variant_of(variant).formats[ROLES.index("grad")]
        for blocks in _blocks(part.spans[first : first + count], number_format):
            add_blocks(total, blocks)


def _blocks(spans: Array, number_format: Format) -> Iterator[Array]:
    """Yield all blocks of the spans' gradients, some at a time."""
    kept: Array = np.zeros((BLOCKS, BLOCK), number_format.compute)  # last ones of parameters
    n = 0
    for span in spans:
        for start, end in _params(span):
            address = int(span["grad"]) + start * number_format.stored.itemsize
            grad = array_at(address, end - start, number_format.stored)
            whole = (end - start) // BLOCK
            for low in range(0, whole, BLOCKS):
                part = grad[low * BLOCK : min(low + BLOCKS, whole) * BLOCK]
                yield _widen(part, number_format).reshape(-1, BLOCK)
            rest = grad[whole * BLOCK :]
            if len(rest):
                kept[n, : len(rest)], kept[n, len(rest) :] = _widen(rest, number_format), 0
                n += 1
            if n == BLOCKS:
                yield kept
                n = 0
    yield kept[:n]


def _params(span: Array) -> list[tuple[int, int]]:
    """Return where the parameters of a span begin and end."""
    size, n_starts = int(span["size"]), int(span["n_starts"])
    if n_starts < 2:
        return [(0, size)] if size else []
    starts = array_at(int(span["starts"]), n_starts, np.dtype(np.int64)).tolist()
    return [(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True) if start < end]


def _widen(stored: Array, number_format: Format) -> Array:
    """Return numbers as they are computed with."""
    if number_format is BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(number_format.compute, copy=False)
