"""What is done with numbers that have been stepped, under Numba, as cext/after.inc and apply.c do it.

Importing it imports Numba.
"""

from __future__ import annotations

import operator

from numba import types
from numba.extending import register_jitable

from fastadam.backends.numba.codecs import load
from fastadam.backends.numba.inspect import BATCH_DTYPE, FORMAT_MASK, GRAD_FORMAT_AT, ITEMSIZES, SPAN_DTYPE
from fastadam.backends.numba.memory import numbers, record
from fastadam.memory import formats
from fastadam.memory.structs import AFTER, CHUNK, IDLE
from fastadam.step import after as steps_after

AFTER_DTYPE = AFTER.dtype
FLOAT32, FLOAT64 = formats.FLOAT32.code, formats.FLOAT64.code
weight_at = register_jitable(steps_after.weight_at)
average = register_jitable(steps_after.make_average(operator.add, operator.sub, operator.mul))


@register_jitable
def set_weight(plan, row, step):
    """Compute how far the averages of a row move, if there are any."""
    after = record(plan.after, 0, AFTER_DTYPE)
    if after.averages:
        numbers(plan.ema_weights + 8 * row, 1, types.float64)[0] = weight_at(step, after.decay, after.warms_up)


@register_jitable
def move(emas, params, weight):
    """Move averages."""
    if weight == 1:
        for i in range(emas.size):
            emas[i] = params[i]
    else:
        for i in range(emas.size):
            emas[i] = average(emas[i], params[i], weight)


@register_jitable
def average_strip(code, span, first, last, weight, room):
    """Move the averages of elements first to last of a span; the weight is of the dtype that is computed in."""
    n = last - first
    if code == FLOAT64:
        emas = numbers(span.ema + 8 * first, n, types.float64)
        move(emas, numbers(span.param + 8 * first, n, types.float64), types.float64(weight))
    elif code == FLOAT32:
        emas32 = numbers(span.ema + 4 * first, n, types.float32)
        move(emas32, numbers(span.param + 4 * first, n, types.float32), types.float32(weight))
    else:
        for at in range(first, last, CHUNK):
            n = min(CHUNK, last - at)
            emas32 = numbers(span.ema + 4 * at, n, types.float32)
            move(emas32, load(code, span.param, at, n, room), types.float32(weight))


@register_jitable
def zero(code, grad, first, last):
    """Let elements first to last of a gradient be zero."""
    itemsize = ITEMSIZES[code]
    stored = numbers(grad + itemsize * first, itemsize * (last - first), types.uint8)
    for i in range(stored.size):
        stored[i] = 0


@register_jitable
def zeroes_at_once(plan):
    """Whether gradients become zero right where they have been read: where there is only one."""
    batch = record(plan.batches, 0, BATCH_DTYPE)
    if plan.n_batches != 1 or batch.count != 1 or batch.variant & IDLE:
        return False
    return record(plan.after, 0, AFTER_DTYPE).zeroes != 0


@register_jitable
def zero_all(plan):
    """Let all gradients be zero that are to be, and are not so yet: they may share memory."""
    if not record(plan.after, 0, AFTER_DTYPE).zeroes or zeroes_at_once(plan):
        return
    for b in range(plan.n_batches):
        batch = record(plan.batches, b, BATCH_DTYPE)
        if not batch.variant & IDLE:
            code = batch.variant >> GRAD_FORMAT_AT & FORMAT_MASK
            for i in range(batch.first, batch.first + batch.count):
                span = record(plan.spans, i, SPAN_DTYPE)
                zero(code, span.grad, 0, span.size)
