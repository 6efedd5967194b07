"""The norm under Numba, which does what cext/measure.inc, totals.h and reduce.c do. Importing it imports Numba."""

from __future__ import annotations

import math
from collections.abc import Callable

from numba import prange, types
from numba.extending import register_jitable

from fastadam.backends.numba.codecs import load
from fastadam.backends.numba.inspect import BATCH_DTYPE, FORMAT_MASK, GRAD_FORMAT_AT, SPAN_DTYPE
from fastadam.backends.numba.lanes import add, all_lanes, load_lanes, mul, store_lanes, sub
from fastadam.backends.numba.memory import fetch, make_room, numbers, record, take
from fastadam.backends.numba.sharing import NEXT_SHARE, param_at, part_of_span, share_size
from fastadam.backends.numba.sources import name_for_cache
from fastadam.backends.numba.totals import add_to_total, add_totals, clear_total, root_of_total
from fastadam.memory import formats
from fastadam.memory.structs import (
    BLOCK,
    IDLE,
    LANES,
    MEASURE,
    NORM,
    PLAN,
    REDUCE,
    REFUSED,
    REFUSES,
    SKIPPED,
    SKIPS,
    TAKEN,
    TOTAL,
)
from fastadam.step import norm as norms
from fastadam.step.norm import EXPONENT_DOWN, EXPONENT_UP, LARGE, SCALE_DOWN, SCALE_UP, SMALL

PLAN_DTYPE, NORM_DTYPE, TOTAL_DTYPE = PLAN.dtype, NORM.dtype, TOTAL.dtype
BATCH_BYTES = BATCH_DTYPE.itemsize
FLOAT32, FLOAT64 = formats.FLOAT32.code, formats.FLOAT64.code
LANE_BYTES = 8 * LANES
GROUP32, GROUP64 = (norms.GROUP[each.stored] * LANES for each in (formats.FLOAT32, formats.FLOAT64))
GROUP_BYTES = 4 * GROUP32
# For a block of float32 numbers, for the sums and rests of the lanes, and for one group.
room = make_room(4 * BLOCK + 2 * LANE_BYTES + max(4 * GROUP32, 8 * GROUP64))
scale_of = register_jitable(norms.scale_of)


@register_jitable
def fetch_ahead(address):
    """Have the lines of a group that is read soon on their way to the cache (see cext/lanes.h)."""
    fetch(address + 16 * GROUP_BYTES)
    fetch(address + 16 * GROUP_BYTES + GROUP_BYTES // 2)


@register_jitable
def two_sum(a, b):
    """Return the sums of lanes, and what rounding took off them."""
    total = add(a, b)
    part = sub(total, a)
    return total, add(sub(a, sub(total, part)), sub(b, part))


@register_jitable
def join_lanes(sums, rests):
    """Return one sum of all lanes, and its rest; the arrays are written to."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            other = sums[lane + half]
            total = sums[lane] + other
            part = total - sums[lane]
            rest = (sums[lane] - (total - part)) + (other - part)
            sums[lane] = total
            rests[lane] = (rests[lane] + rests[lane + half]) + rest
        half //= 2
    return sums[0], rests[0]


@register_jitable
def squares_float32(address):
    """Return the sums of squares of a group of float32 numbers, which are exact in float64."""
    a = load_lanes(address, types.float32)
    b = load_lanes(address + 4 * LANES, types.float32)
    c = load_lanes(address + 8 * LANES, types.float32)
    d = load_lanes(address + 12 * LANES, types.float32)
    return add(add(mul(a, a), mul(b, b)), add(mul(c, c), mul(d, d)))


@register_jitable
def squares_float64(address, factor):
    """Return the sums of squares of a group of float64 numbers, times a power of two."""
    a = mul(load_lanes(address, types.float64), factor)
    b = mul(load_lanes(address + 8 * LANES, types.float64), factor)
    return add(mul(a, a), mul(b, b))


@register_jitable
def fill_up(group, values):
    """Set a group of numbers to those that there are, and zeros behind."""
    for i in range(group.size):
        group[i] = 0
    for i in range(values.size):
        group[i] = values[i]


@register_jitable
def note_what_is_not_finite(total, values):
    """Note NaNs and infinities."""
    for i in range(values.size):
        if math.isnan(values[i]):
            total.is_nan = 1
        elif math.isinf(values[i]):
            total.is_infinite = 1


@register_jitable
def joined(sums, rests, place):
    """Return one sum of all lanes, and its rest."""
    store_lanes(place, sums)
    store_lanes(place + LANE_BYTES, rests)
    return join_lanes(numbers(place, LANES, types.float64), numbers(place + LANE_BYTES, LANES, types.float64))


@register_jitable
def add_block_float32(total, address, n, place):
    """Add the squares of a block of n numbers, of which the last group is filled up with zeros."""
    sums = rests = all_lanes(0.0)
    whole = n // GROUP32
    for i in range(whole):
        fetch_ahead(address + 4 * GROUP32 * i)
        sums, rest = two_sum(sums, squares_float32(address + 4 * GROUP32 * i))
        rests = add(rests, rest)
    if whole * GROUP32 < n:
        last = place + 2 * LANE_BYTES
        fill_up(
            numbers(last, GROUP32, types.float32),
            numbers(address + 4 * GROUP32 * whole, n - whole * GROUP32, types.float32),
        )
        sums, rest = two_sum(sums, squares_float32(last))
        rests = add(rests, rest)
    found, rest = joined(sums, rests, place)
    if found < math.inf:
        add_to_total(total, found, 0)
        add_to_total(total, rest, 0)
    else:
        note_what_is_not_finite(total, numbers(address, n, types.float32))


@register_jitable
def sum_block_float64(address, n, place, factor):
    """Return the sum of the squares of a block of n numbers, times a power of two, and the rest."""
    factors = all_lanes(factor)
    sums = rests = all_lanes(0.0)
    whole = n // GROUP64
    for i in range(whole):
        fetch_ahead(address + 8 * GROUP64 * i)
        sums, rest = two_sum(sums, squares_float64(address + 8 * GROUP64 * i, factors))
        rests = add(rests, rest)
    if whole * GROUP64 < n:
        last = place + 2 * LANE_BYTES
        fill_up(
            numbers(last, GROUP64, types.float64),
            numbers(address + 8 * GROUP64 * whole, n - whole * GROUP64, types.float64),
        )
        sums, rest = two_sum(sums, squares_float64(last, factors))
        rests = add(rests, rest)
    return joined(sums, rests, place)


@register_jitable
def add_block_float64(total, address, n, place):
    """Add the squares of a block of n numbers; where they are too large or too small, those of the scaled ones."""
    exponent, factor = 0, 1.0
    found, rest = 0.0, 0.0
    for _ in range(2):
        found, rest = sum_block_float64(address, n, place, factor)
        if exponent != 0:
            break
        if found < SMALL:
            exponent, factor = EXPONENT_UP, SCALE_UP
        elif not found < LARGE:
            exponent, factor = EXPONENT_DOWN, SCALE_DOWN
        else:
            break
    if found < math.inf:
        add_to_total(total, found, exponent)
        add_to_total(total, rest, exponent)
    else:
        note_what_is_not_finite(total, numbers(address, n, types.float64))


@register_jitable
def add_gradient(total, code, address, first, last, place):
    """Add elements first to last of a gradient, which begin at a border of a block."""
    for at in range(first, last, BLOCK):
        n = min(BLOCK, last - at)
        if code == FLOAT64:
            add_block_float64(total, address + 8 * at, n, place + 4 * BLOCK)
        else:
            found = address + 4 * at
            if code != FLOAT32:
                load(code, address, at, n, place)
                found = place
            add_block_float32(total, found, n, place + 4 * BLOCK)


@register_jitable
def measure_span(total, code, span, first, last, place):
    """Add elements first to last of a span's gradient. Blocks begin anew with each parameter in it."""
    starts = numbers(span.starts, span.n_starts, types.int64)
    i = param_at(span, first) if span.n_starts > 1 else 0
    while first < last:
        i += 1
        end = min(starts[i], last) if i < span.n_starts else last
        add_gradient(total, code, span.grad, first, end, place)
        first = end


@register_jitable
def measure_share(address, b, low, high, thread, place):
    """Add the squares of elements low to high of a batch, or what borders make of it."""
    plan = record(address, 0, PLAN_DTYPE)
    batch = record(plan.batches, b, BATCH_DTYPE)
    total = record(record(plan.norm, 0, NORM_DTYPE).totals, thread, TOTAL_DTYPE)
    if batch.variant & IDLE:
        return
    code = batch.variant >> GRAD_FORMAT_AT & FORMAT_MASK
    start = 0
    for i in range(batch.first, batch.first + batch.count):
        if start >= high:
            break
        span = record(plan.spans, i, SPAN_DTYPE)
        if low < start + span.size:
            first, last = part_of_span(span, start, low, high)
            if first < last:
                measure_span(total, code, span, first, last, place)
        start += span.size


@register_jitable
def most_threads(plan):
    """Return how many threads the plan's batches are given at most."""
    most = 1
    for b in range(plan.n_batches):
        most = max(most, record(plan.batches, b, BATCH_DTYPE).threads)
    return most


@register_jitable
def clear_totals(plan):
    """Let the totals of all threads be zero."""
    norm = record(plan.norm, 0, NORM_DTYPE)
    for i in range(most_threads(plan)):
        clear_total(record(norm.totals, i, TOTAL_DTYPE))


@register_jitable
def reduce_norm(plan):
    """Compute the norm from the totals, and the coefficient that clips it; TAKEN, or what stands in the way."""
    norm = record(plan.norm, 0, NORM_DTYPE)
    total = record(norm.totals, 0, TOTAL_DTYPE)
    for i in range(1, most_threads(plan)):
        add_totals(total, record(norm.totals, i, TOTAL_DTYPE))
    norm.norm = root_of_total(total) / norm.divisor
    if total.is_nan or total.is_infinite:
        if norm.wanted & REFUSES:
            return REFUSED
        if norm.wanted & SKIPS:
            return SKIPPED
    norm.coefficient = scale_of(norm.norm, norm.max_norm)
    return TAKEN


@register_jitable
def measure_all(address):
    """Add up the squares of all batches of a plan, on one thread."""
    plan = record(address, 0, PLAN_DTYPE)
    clear_totals(plan)
    place = room()
    for b in range(plan.n_batches):
        measure_share(address, b, 0, record(plan.batches, b, BATCH_DTYPE).elements, 0, place)


def make_measure(parallel: bool) -> Callable[[int, int, int], int]:
    """Return the Python function, for Numba to compile, that computes the norm apart from the step.

    Parameters
    ----------
    parallel : bool
        Whether it splits a batch over threads.

    Returns
    -------
    callable
        ``measure(plan_address, batch, stages)`` runs MEASURE for one batch, where the first one clears the totals
        before, and what REDUCE does about the norm after the last one.
    """
    if parallel:

        def measure(address, b, stages):
            plan = record(address, 0, PLAN_DTYPE)
            if stages & MEASURE:
                if b == 0:
                    clear_totals(plan)
                batch = record(plan.batches, b, BATCH_DTYPE)
                next_share = plan.batches + b * BATCH_BYTES + NEXT_SHARE
                size = share_size(batch)
                last = (batch.elements - 1) // size if size else -1
                batch.next_share = 0
                for thread in prange(batch.threads):  # backward, as cext/measure.c does
                    place = room()
                    share = last - take(next_share)
                    while share >= 0:
                        measure_share(address, b, share * size, (share + 1) * size, thread, place)
                        share = last - take(next_share)
            if stages & REDUCE and b == plan.n_batches - 1:
                return reduce_norm(plan)
            return TAKEN
    else:

        def measure(address, b, stages):
            plan = record(address, 0, PLAN_DTYPE)
            if stages & MEASURE:
                if b == 0:
                    clear_totals(plan)
                measure_share(address, b, 0, record(plan.batches, b, BATCH_DTYPE).elements, 0, room())
            if stages & REDUCE and b == plan.n_batches - 1:
                return reduce_norm(plan)
            return TAKEN

    return name_for_cache(measure, "parallel" if parallel else "serial")
