"""The kernels of the Numba backend. Importing this module imports Numba.

A kernel reads the plan (`fastadam.step.plan.PLAN`) from its address, as words of 64 bits, which is the layout that
cext/adam.h gives it. The functions here do what those in cext/adam.c do.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable
from typing import Any

from numba import carray, prange, types
from numba.extending import intrinsic, register_jitable

from fastadam.memory.array_offsets import HEADERS
from fastadam.step.coefficients import COEFFICIENTS
from fastadam.step.element import make_element
from fastadam.step.formats import FORMATS, variant_of
from fastadam.step.plan import BATCH, COUNTER, PACES, PLAN, SLOT, SPAN

# Numba's cache knows when this file changes, but not when the structs do, so their sum is part of the name.
_LAYOUT = zlib.crc32(repr((PLAN, SPAN, SLOT, BATCH, COUNTER, PACES, COEFFICIENTS)).encode())

_PLAN_NAMES = (*(PLAN.names or ())[:-1], *(HEADERS.names or ()))
(
    PLAN_SPANS,
    PLAN_ROWS,
    PLAN_PACES,
    PLAN_N_PACES,
    PLAN_BATCHES,
    PLAN_N_BATCHES,
    PLAN_COUNTERS,
    PLAN_N_COUNTERS,
    PLAN_SLOTS,
    PLAN_GRAD_OBJECTS,
    PLAN_FENCE_STARTS,
    PLAN_FENCE_ENDS,
    PLAN_N_FENCES,
    ARRAY_TYPE,
    TYPE,
    DATA,
    NDIM,
    DIMS,
    DESCR,
    FLAGS,
) = range(len(_PLAN_NAMES))
PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, SIZE, ROW, SPAN_SLOT = range(8)
KIND, FIRST, COUNT, ELEMENTS, THREADS, TAKEN = range(6)
STEP_SIZE, INV_SQRT_BIAS_CORRECTION2, DECAY = range(3)
LR, LOG_BETA1, LOG_BETA2, WEIGHT_DECAY, PLACE, CODE = range(6)
PLAN_WORDS, SPAN_WORDS, SLOT_WORDS, BATCH_WORDS, ROW_WORDS, PACE_WORDS = (
    layout.itemsize // 8 for layout in (PLAN, SPAN, SLOT, BATCH, COEFFICIENTS, PACES)
)
WORD = 8  # bytes
SHARES_PER_THREAD = 8
ITEMSIZES = tuple(each.stored.itemsize for each in FORMATS)

# NumPy's public flag bits (NPY_ARRAY_*).
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
GRAD_FLAGS = C_CONTIGUOUS | ALIGNED
PARAM_FLAGS = GRAD_FLAGS | WRITEABLE


@intrinsic
def pointer(typing_context, place, item):
    """Turn an address into a pointer to numbers of the type `item`."""
    result = types.CPointer(item.dtype)

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, item), codegen


@intrinsic
def take(typing_context, place):
    """Return the word at an address, and leave one more there: no two threads get the same number."""

    def codegen(context, builder, signature, arguments):
        word = context.get_value_type(types.int64)
        pointer = builder.inttoptr(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", pointer, word(1), "monotonic")

    return types.int64(types.int64), codegen


@register_jitable
def words(place, n):
    """Return the `n` words at an address, as an array over that memory."""
    return carray(pointer(place, types.int64), n)


@register_jitable
def float32s(place, n):
    """Return the `n` numbers at an address, as an array over that memory."""
    return carray(pointer(place, types.float32), n)


@register_jitable
def float64s(place, n):
    """Return the `n` numbers at an address, as an array over that memory."""
    return carray(pointer(place, types.float64), n)


@register_jitable
def halves(place, n):
    """Return the `n` numbers of 16 bits at an address, as an array of their bits over that memory."""
    return carray(pointer(place, types.uint16), n)


@intrinsic
def reinterpret(typing_context, bits, target):
    """Return the number of the type `target` that has the bits of another number of 32 bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return target.dtype(bits, target), codegen


@register_jitable
def float_of(bits):
    """Return the float32 that has these 32 bits."""
    return reinterpret(types.uint32(bits), types.float32)


@register_jitable
def bits_of(number):
    """Return the 32 bits of a float32."""
    return reinterpret(types.float32(number), types.uint32)


@register_jitable
def keep(number):
    """Return the number as it is: it lies in memory as it is computed with."""
    return number


@register_jitable
def widen_bfloat16(half):
    """Return the float32 of which these 16 bits are the upper half."""
    return float_of(types.uint32(half) << types.uint32(16))


@register_jitable
def narrow_bfloat16(number):
    """Return the bits of the nearest bfloat16, ties to even."""
    bits = bits_of(number)
    rounded = types.uint32(bits + types.uint32(0x7FFF) + ((bits >> types.uint32(16)) & types.uint32(1)))
    return types.uint16(0x7FC0) if number != number else types.uint16(rounded >> types.uint32(16))


@register_jitable
def widen_float16(half):
    """Return the float32 of the same value as these 16 bits (see cext/halves.h)."""
    magnitude = types.uint32(half) & types.uint32(0x7FFF)
    sign = (types.uint32(half) & types.uint32(0x8000)) << types.uint32(16)
    shifted = types.uint32(magnitude << types.uint32(13))
    finite = bits_of(float_of(shifted) * types.float32(2.0**112))
    special = shifted | types.uint32(0x7F800000)
    return float_of(sign | (special if magnitude >= types.uint32(0x7C00) else finite))


@register_jitable
def narrow_float16(number):
    """Return the bits of the nearest float16, ties to even (see cext/halves.h)."""
    bits = bits_of(number)
    magnitude = bits & types.uint32(0x7FFFFFFF)
    odd = (magnitude >> types.uint32(13)) & types.uint32(1)
    if magnitude > types.uint32(0x7F800000):
        half = types.uint32(0x7E00)
    elif magnitude >= types.uint32(0x477FF000):
        half = types.uint32(0x7C00)
    elif magnitude < types.uint32(0x38800000):
        half = types.uint32(bits_of(float_of(magnitude) + types.float32(0.5)) - types.uint32(0x3F000000))
    else:
        rounded = types.uint32(magnitude - types.uint32(0x38000000) + types.uint32(0xFFF) + odd)
        half = rounded >> types.uint32(13)
    return types.uint16(((bits >> types.uint32(16)) & types.uint32(0x8000)) | half)


# For each format: arrays over its memory, what a kernel reads from it, and what it writes there.
ACCESS = {
    "float32": (float32s, keep, keep),
    "float64": (float64s, keep, keep),
    "bfloat16": (halves, widen_bfloat16, narrow_bfloat16),
    "float16": (halves, widen_float16, narrow_float16),
}


@register_jitable
def word(place):
    """Return the word at an address."""
    return carray(pointer(place, types.int64), 1)[0]


@register_jitable
def integer(place):
    """Return the C int at an address."""
    return carray(pointer(place, types.int32), 1)[0]


@register_jitable
def fences_below(plan, high, below):
    """Return how many of the sorted, disjoint fences (the memory that the step writes) start below `high`.

    `below` is a guess.
    """
    n = plan[PLAN_N_FENCES]
    starts = plan[PLAN_FENCE_STARTS]
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
def is_plain(plan, span):
    """Whether a span's gradient is plain and its parameter still where it was, and writable."""
    slot = words(plan[PLAN_SLOTS] + span[SPAN_SLOT] * SLOT_WORDS * WORD, SLOT_WORDS)
    param, descr = slot[0], slot[1]
    grad = word(plan[PLAN_GRAD_OBJECTS] + span[SPAN_SLOT] * WORD)
    if (
        word(grad + plan[TYPE]) != plan[ARRAY_TYPE]
        or word(grad + plan[DESCR]) != descr
        or word(param + plan[DESCR]) != descr
        or word(param + plan[DATA]) != span[PARAM]
    ):
        return False
    if (
        integer(param + plan[FLAGS]) & PARAM_FLAGS != PARAM_FLAGS
        or integer(grad + plan[FLAGS]) & GRAD_FLAGS != GRAD_FLAGS
    ):
        return False
    ndim = integer(grad + plan[NDIM])
    if ndim != integer(param + plan[NDIM]):
        return False
    grad_dims, param_dims = word(grad + plan[DIMS]), word(param + plan[DIMS])
    for i in range(ndim):  # noqa: SIM110 - Numba compiles loops better than generators
        if word(grad_dims + WORD * i) != word(param_dims + WORD * i):
            return False
    return True


@register_jitable
def first_unplain(plan):
    """Note the gradients' addresses; return the first slot whose gradient is not plain, or -1."""
    batches = words(plan[PLAN_BATCHES], plan[PLAN_N_BATCHES] * BATCH_WORDS)
    below = 0
    for b in range(plan[PLAN_N_BATCHES]):
        batch = batches[b * BATCH_WORDS : (b + 1) * BATCH_WORDS]
        itemsize = ITEMSIZES[batch[KIND] // 4]
        for i in range(batch[FIRST], batch[FIRST] + batch[COUNT]):
            span = words(plan[PLAN_SPANS] + i * SPAN_WORDS * WORD, SPAN_WORDS)
            if not is_plain(plan, span):
                return span[SPAN_SLOT]
            grad = word(word(plan[PLAN_GRAD_OBJECTS] + span[SPAN_SLOT] * WORD) + plan[DATA])
            span[GRAD] = grad
            if span[SIZE] > 0:
                below = fences_below(plan, grad + span[SIZE] * itemsize, below)
                if below > 0 and word(plan[PLAN_FENCE_ENDS] + WORD * (below - 1)) > grad:
                    return span[SPAN_SLOT]
    return -1


@register_jitable
def bias_correction(log_beta, step):
    """Return 1 - beta**step, without cancellation."""
    return -math.expm1(step * log_beta)


@register_jitable
def write_rows(plan):
    """Compute the scalars that move with the step (see fastadam/step/coefficients.py)."""
    # Where the counters are is known only on the way, so that this loop cannot be vectorised. With Intel's SVML,
    # which some builds of Numba use, that would be with another expm1 than the C library's.
    for i in range(plan[PLAN_N_PACES]):
        row = float64s(plan[PLAN_ROWS] + i * ROW_WORDS * WORD, ROW_WORDS)
        pace = float64s(plan[PLAN_PACES] + i * PACE_WORDS * WORD, PACE_WORDS)
        clock = words(plan[PLAN_PACES] + i * PACE_WORDS * WORD, PACE_WORDS)
        place, code = clock[PLACE], clock[CODE]
        if code == 0:
            step = types.float64(word(place) + 1)
        elif code == 1:
            step = float64s(place, 1)[0] + 1.0
        else:
            step = types.float64(float32s(place, 1)[0]) + 1.0
        row[STEP_SIZE] = pace[LR] / bias_correction(pace[LOG_BETA1], step)
        row[INV_SQRT_BIAS_CORRECTION2] = 1.0 / math.sqrt(bias_correction(pace[LOG_BETA2], step))
        row[DECAY] = 1.0 - pace[LR] * pace[WEIGHT_DECAY]


@register_jitable
def count(plan, batch):
    """Count the step, if this batch is its last."""
    if batch < plan[PLAN_N_BATCHES] - 1:
        return
    counters = words(plan[PLAN_COUNTERS], 2 * plan[PLAN_N_COUNTERS])
    for i in range(plan[PLAN_N_COUNTERS]):
        place, code = counters[2 * i], counters[2 * i + 1]
        if code == 0:
            words(place, 1)[0] += 1
        elif code == 1:
            float64s(place, 1)[0] += types.float64(1)
        else:
            float32s(place, 1)[0] += types.float32(1)


@register_jitable
def maximum(old, new):
    """Return the larger one; a NaN on either side gives NaN."""
    return old if (old >= new or old != old) else new


def make_kernel(kind: int, parallel: bool) -> Callable[[int, int, int], int]:
    """Return the Python function of a variant, for Numba to compile.

    Parameters
    ----------
    kind : int
        Number of the variant (see `fastadam.step.formats.kinds_of`).
    parallel : bool
        Whether it splits the batch over threads.

    Returns
    -------
    callable
        ``kernel(plan_address, batch, check)`` takes the step of a batch, and counts it after the last one. With
        `check` 1 it first looks at the gradients of the whole plan, and if one is not plain, it writes nothing and
        returns that one's slot; with 2 it does no more than that. Else it returns -1. Its name is unlike that of
        any other variant: Numba's cache does not tell apart functions that differ in their options only.
    """
    number_format, l2_on, amsgrad_on = variant_of(kind)
    numbers, widened, narrowed = ACCESS[number_format.name]
    real = number_format.compute.type
    itemsize = number_format.stored.itemsize

    # Numba looks a kernel up in its cache by a pickle of what it closes over. That must come out the same in every
    # process, so closures hold plain functions and numbers only (an intrinsic's pickle is always another).
    # And compiled functions are known by their names: two variants that were cached by different processes would
    # get mixed up in a third one if their inner functions were called the same.
    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__name__ = function.__qualname__ = f"{function.__name__}_{kind}_{_LAYOUT}"
        return function

    operations = (operator.mul, operator.add, operator.sub, operator.truediv, math.sqrt, maximum)
    element = register_jitable(named(make_element(*operations, l2_on=l2_on, amsgrad_on=amsgrad_on)))

    @register_jitable
    @named
    def elements(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, row):
        c0, c1, c2, c3, c4 = real(row[0]), real(row[1]), real(row[2]), real(row[3]), real(row[4])
        c5, c6, c7, c8, c9 = real(row[5]), real(row[6]), real(row[7]), real(row[8]), real(row[9])
        for i in range(params.size):
            old_max = widened(max_exp_avg_sqs[i]) if amsgrad_on else real(0)
            param, exp_avg, exp_avg_sq, max_exp_avg_sq = element(
                widened(params[i]),
                widened(grads[i]),
                widened(exp_avgs[i]),
                widened(exp_avg_sqs[i]),
                old_max,
                c0,
                c1,
                c2,
                c3,
                c4,
                c5,
                c6,
                c7,
                c8,
                c9,
            )
            params[i], exp_avgs[i], exp_avg_sqs[i] = narrowed(param), narrowed(exp_avg), narrowed(exp_avg_sq)
            if amsgrad_on:
                max_exp_avg_sqs[i] = narrowed(max_exp_avg_sq)

    @register_jitable
    @named
    def pieces(plan, batch, low, high):
        """Step elements low to high of a batch, counted across its spans."""
        start = 0
        for i in range(batch[FIRST], batch[FIRST] + batch[COUNT]):
            if start >= high:
                break
            span = words(plan[PLAN_SPANS] + i * SPAN_WORDS * WORD, SPAN_WORDS)
            end = start + span[SIZE]
            if end > low:
                first = max(low - start, 0)
                n = min(high, end) - start - first
                at = first * itemsize
                # A slice that starts at zero is what lets LLVM vectorise the loop over it.
                elements(
                    numbers(span[PARAM] + at, n),
                    numbers(span[GRAD] + at, n),
                    numbers(span[EXP_AVG] + at, n),
                    numbers(span[EXP_AVG_SQ] + at, n),
                    numbers(span[MAX_EXP_AVG_SQ] + at, n),
                    float64s(plan[PLAN_ROWS] + span[ROW] * ROW_WORDS * WORD, ROW_WORDS),
                )
            start = end

    if parallel:

        def kernel(place, b, check):
            plan = words(place, PLAN_WORDS)
            if check:
                unplain = first_unplain(plan)
                if unplain >= 0 or check == 2:
                    return unplain
            if b == 0:
                write_rows(plan)
            batch_place = plan[PLAN_BATCHES] + b * BATCH_WORDS * WORD
            batch = words(batch_place, BATCH_WORDS)
            # As in run_batch of cext/adam.c: more shares than threads, taken as each thread gets to them.
            n = batch[THREADS] * SHARES_PER_THREAD
            share = ((batch[ELEMENTS] + n - 1) // n + 15) // 16 * 16
            batch[TAKEN] = 0
            for _ in prange(batch[THREADS]):
                low = take(batch_place + TAKEN * WORD) * share
                while low < batch[ELEMENTS]:
                    pieces(plan, batch, low, min(low + share, batch[ELEMENTS]))
                    low = take(batch_place + TAKEN * WORD) * share
            count(plan, b)
            return -1
    else:

        def kernel(place, b, check):
            plan = words(place, PLAN_WORDS)
            if check:
                unplain = first_unplain(plan)
                if unplain >= 0 or check == 2:
                    return unplain
            if b == 0:
                write_rows(plan)
            batch = words(plan[PLAN_BATCHES] + b * BATCH_WORDS * WORD, BATCH_WORDS)
            pieces(plan, batch, 0, batch[ELEMENTS])
            count(plan, b)
            return -1

    kernel.__name__ = "adam_parallel" if parallel else "adam_serial"
    return named(kernel)
