"""The first stage of a step under Numba, which does what cext/inspect.c does. Importing it imports Numba."""

from __future__ import annotations

from numba.extending import register_jitable

from fastadam.backends.numba.memory import integer, record, word
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import (
    AFTER,
    ALIGNED,
    BATCH,
    C_CONTIGUOUS,
    ELEMENTS_PER_THREAD,
    FORMAT_BITS,
    FORMATS_AT,
    IDLE,
    ROW_INPUTS,
    SLOT,
    SPAN,
    TAKEN,
    WRITEABLE,
)

SPAN_DTYPE, SLOT_DTYPE, BATCH_DTYPE, AFTER_DTYPE = SPAN.dtype, SLOT.dtype, BATCH.dtype, AFTER.dtype
ROW_INPUTS_DTYPE = ROW_INPUTS.dtype
WORD = 8  # bytes
GRAD_FLAGS = C_CONTIGUOUS | ALIGNED
PARAM_FLAGS = GRAD_FLAGS | WRITEABLE
GRAD_FORMAT_AT, FORMAT_MASK = FORMATS_AT + FORMAT_BITS, (1 << FORMAT_BITS) - 1
ITEMSIZES = tuple(each.stored.itemsize for each in FORMATS)


@register_jitable
def written_below(plan, high, below):
    """Return how many of the sorted intervals of memory that the step writes start below `high`.

    `below` is a guess.
    """
    n = plan.n_written
    starts = plan.written_starts
    if (below == 0 or word(starts + WORD * (below - 1)) < high) and (
        below == n or word(starts + WORD * below) >= high
    ):
        return below
    below, count = 0, n
    while count > 0:
        half = count >> 1
        if word(starts + WORD * (below + half)) < high:
            below += half + 1
            count -= half + 1
        else:
            count = half
    return below


@register_jitable
def is_there(plan, span):
    """Whether a parameter without a gradient is where it was, of the size that its average has."""
    at = plan.offsets
    slot = record(plan.slots, span.slot, SLOT_DTYPE)
    param = slot.param_object
    if (
        word(param + at.dtype) != slot.dtype_object
        or word(param + at.data) != span.param
        or not integer(param + at.flags) & C_CONTIGUOUS
    ):
        return False
    elements, dims = 1, word(param + at.dims)
    for i in range(integer(param + at.ndim)):
        elements *= word(dims + WORD * i)
    return elements == slot.elements


@register_jitable
def is_plain(plan, span, grad):
    """Whether a gradient's object is plain, and its span's parameter where it was, of its size and writable.

    A gradient that is to become zero has to be writable, too.
    """
    at = plan.offsets
    slot = record(plan.slots, span.slot, SLOT_DTYPE)
    param = slot.param_object
    if (
        (word(grad + at.type) != at.array_type and word(grad + at.type) != at.packed_type)
        or word(grad + at.dtype) != slot.grad_dtype_object
        or word(param + at.dtype) != slot.dtype_object
        or word(param + at.data) != span.param
    ):
        return False
    grad_flags = PARAM_FLAGS if record(plan.after, 0, AFTER_DTYPE).zeroes else GRAD_FLAGS
    if (
        integer(param + at.flags) & PARAM_FLAGS != PARAM_FLAGS
        or integer(grad + at.flags) & grad_flags != grad_flags
    ):
        return False
    ndim = integer(grad + at.ndim)
    if ndim != integer(param + at.ndim):
        return False
    grad_dims, param_dims = word(grad + at.dims), word(param + at.dims)
    elements = 1
    for i in range(ndim):
        dim = word(param_dims + WORD * i)
        if word(grad_dims + WORD * i) != dim:
            return False
        elements *= dim
    return elements == slot.elements


@register_jitable
def leave_out(plan, span, is_idle):
    """Say whether this step leaves a span out, and return it (see cext/leaving_out.h)."""
    slot = span.slot - plan.n_slots if is_idle else span.slot
    left_out = (word(plan.grad_objects + slot * WORD) == plan.none_object) != is_idle
    span.size = 0 if left_out else span.length
    if not is_idle:
        record(plan.row_inputs, span.row, ROW_INPUTS_DTYPE).left_out = left_out
    return left_out


@register_jitable
def set_elements(batch, elements):
    """Say how many elements of a batch are stepped, and on how many threads."""
    batch.elements = elements
    batch.threads = max(1, min(batch.most_threads, elements // ELEMENTS_PER_THREAD))


@register_jitable
def inspect(plan):
    """Note the gradients' addresses; return TAKEN, or the first slot whose gradient is not plain."""
    below, leaves_out, found = 0, plan.none_object != 0, False
    for b in range(plan.n_batches):
        batch = record(plan.batches, b, BATCH_DTYPE)
        itemsize = ITEMSIZES[batch.variant >> GRAD_FORMAT_AT & FORMAT_MASK]
        is_idle = batch.variant & IDLE != 0
        elements = 0
        for i in range(batch.first, batch.first + batch.count):
            span = record(plan.spans, i, SPAN_DTYPE)
            if leaves_out:
                left_out = leave_out(plan, span, is_idle)
                elements += span.size
                if left_out:
                    continue
            found = found or not is_idle
            if is_idle:
                if not is_there(plan, span):
                    return span.slot
                continue
            grad = word(plan.grad_objects + span.slot * WORD)
            if not is_plain(plan, span, grad):
                return span.slot
            span.grad = word(grad + plan.offsets.data)
            if span.size > 0:
                below = written_below(plan, span.grad + span.size * itemsize, below)
                if below > 0 and word(plan.written_ends + WORD * (below - 1)) > span.grad:
                    return span.slot
        if leaves_out:
            set_elements(batch, elements)
    return 0 if leaves_out and not found else TAKEN  # without any gradient, there is no step
