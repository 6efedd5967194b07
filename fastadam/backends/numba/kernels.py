"""The kernels of the Numba backend. Importing this module imports Numba.

A kernel finds everything from the address of a plan. The functions here do what those in cext/ do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from numba import prange, types
from numba.extending import register_jitable

from fastadam.backends.numba import compact, inspect, norm
from fastadam.backends.numba.after import average_strip, set_weight, zero, zero_all, zeroes_at_once
from fastadam.backends.numba.codecs import CHUNK_BYTES, load, rooms, select, store
from fastadam.backends.numba.inspect import BATCH_DTYPE, FORMAT_MASK, SPAN_DTYPE
from fastadam.backends.numba.memory import numbers, record, take, word
from fastadam.backends.numba.sharing import NEXT_SHARE, part_of_span, share_size
from fastadam.backends.numba.sources import name_for_cache
from fastadam.memory import formats
from fastadam.memory.structs import (
    AFTER,
    APPLY,
    CHUNK,
    COUNTER,
    COUNTER_FLOAT64,
    COUNTER_INT64,
    FORMAT_BITS,
    FORMATS_AT,
    INSPECT,
    MEASURE,
    NORM,
    PLAN,
    REDUCE,
    ROLES,
    ROW,
    ROW_INPUTS,
    STRIP,
    TAKEN,
)
from fastadam.step import bias_correction as corrections
from fastadam.step import coefficients
from fastadam.step.coefficients import SMALLEST_NORMAL, Row
from fastadam.step.element import make_element
from fastadam.step.rounding import keep, make_flush, make_maximum
from fastadam.step.variants import variant_of, variants_of

bias_correction = register_jitable(corrections.bias_correction)
flushes_at = register_jitable(coefficients.flushes_at)
PLAN_DTYPE, ROW_DTYPE, ROW_INPUTS_DTYPE, COUNTER_DTYPE = PLAN.dtype, ROW.dtype, ROW_INPUTS.dtype, COUNTER.dtype
NORM_DTYPE, AFTER_DTYPE, BATCH_BYTES = NORM.dtype, AFTER.dtype, BATCH_DTYPE.itemsize
PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ = range(len(ROLES))
# The kernels of any formats that users have and that are computed with in float32, and of all that only a step
# writes, beside float32 and float64.
ANY, COMPACT = formats.BFLOAT16, formats.INT8


def kernel_variant(number: int) -> int:
    """Return the variant whose kernel steps a variant: one or two for all formats that have to be widened."""
    variant = variant_of(number)
    plain = variant.common_format
    if variant.is_compact or (plain is None and variant.compute == formats.FLOAT64.stored):
        own = formats.FLOAT64 if variant.compute == formats.FLOAT64.stored else formats.FLOAT32
        codes = [own.code] * EXP_AVG + [COMPACT.code] * (len(ROLES) - EXP_AVG)
        return int(variants_of([[code] for code in codes], variant.flags)[0])
    if plain is None or plain.stored != variant.compute:
        plain = ANY
    return int(variants_of(plain.code, variant.flags))


@register_jitable
def next_step(counter):
    """Return the number of the step that comes after those that were counted."""
    if counter.type == COUNTER_INT64:
        return types.float64(word(counter.address) + 1)
    if counter.type == COUNTER_FLOAT64:
        return numbers(counter.address, 1, types.float64)[0] + 1.0
    return types.float64(numbers(counter.address, 1, types.float32)[0]) + 1.0


@register_jitable
def is_like(inputs, other):
    """Whether the varying scalars of two rows, for the same step, are the same, and their random bits."""
    return (
        inputs.lr == other.lr
        and inputs.log_beta1_high == other.log_beta1_high
        and inputs.log_beta1_low == other.log_beta1_low
        and inputs.log_beta2_high == other.log_beta2_high
        and inputs.log_beta2_low == other.log_beta2_low
        and inputs.weight_decay == other.weight_decay
        and inputs.tiny == other.tiny
        and inputs.sign == other.sign
        and inputs.seed == other.seed
    )


@register_jitable
def copy_varying(plan, i, other):
    """Let a row have what varies of another one, its weight and its key."""
    row, known = record(plan.rows, i, ROW_DTYPE), record(plan.rows, other, ROW_DTYPE)
    row.step_size = known.step_size
    row.inv_sqrt_bias_correction2 = known.inv_sqrt_bias_correction2
    row.decay_rate = known.decay_rate
    row.tiny = known.tiny
    row.grad_scale = known.grad_scale
    weights = numbers(plan.ema_weights, plan.n_row_inputs, types.float64)
    weights[i] = weights[other]
    keys = numbers(plan.random_keys, plan.n_row_inputs, types.int64)
    keys[i] = keys[other]


@register_jitable
def reduce(plan):
    """Compute the scalars that move with the step (see fastadam/step/coefficients.py); the norm is known."""
    wanted = record(plan.norm, 0, NORM_DTYPE)
    wanted.scale = wanted.coefficient / wanted.divisor
    last, last_step = -1, 0.0  # of the row that was computed last
    for i in range(plan.n_row_inputs):
        row, inputs = record(plan.rows, i, ROW_DTYPE), record(plan.row_inputs, i, ROW_INPUTS_DTYPE)
        if inputs.left_out and not record(plan.after, 0, AFTER_DTYPE).averages:
            continue
        step = next_step(inputs.counter)
        if last >= 0 and step == last_step and is_like(inputs, record(plan.row_inputs, last, ROW_INPUTS_DTYPE)):
            copy_varying(plan, i, last)
            continue
        last, last_step = i, step
        row.step_size = inputs.lr / bias_correction(inputs.log_beta1_high, inputs.log_beta1_low, step)
        row.inv_sqrt_bias_correction2 = 1.0 / math.sqrt(
            bias_correction(inputs.log_beta2_high, inputs.log_beta2_low, step)
        )
        row.decay_rate = inputs.lr * inputs.weight_decay
        row.tiny = inputs.tiny if flushes_at(step) else 0.0
        row.grad_scale = inputs.sign * wanted.scale
        set_weight(plan, i, step)
        key = compact.random_key(inputs.seed, types.int64(step))
        numbers(plan.random_keys, plan.n_row_inputs, types.int64)[i] = types.int64(key)


@register_jitable
def count(plan, batch):
    """Count the step, if this batch is its last; gradients that are to be zero, and are not so yet, become it."""
    if batch < plan.n_batches - 1:
        return
    zero_all(plan)
    for i in range(plan.n_counters):
        if i < plan.n_row_inputs and record(plan.row_inputs, i, ROW_INPUTS_DTYPE).left_out:
            continue
        counter = record(plan.counters, i, COUNTER_DTYPE)
        if counter.type == COUNTER_INT64:
            numbers(counter.address, 1, types.int64)[0] += 1
        elif counter.type == COUNTER_FLOAT64:
            numbers(counter.address, 1, types.float64)[0] += types.float64(1)
        else:
            numbers(counter.address, 1, types.float32)[0] += types.float32(1)


def make_kernel(number: int, parallel: bool, measures: bool = False) -> Callable[[int, int, int], int]:
    """Return the Python function of a kernel, for Numba to compile.

    Parameters
    ----------
    number : int
        A variant (see `kernel_variant`).
    parallel : bool
        Whether it splits the batch over threads.
    measures : bool, default False
        Whether it computes the norm, too; it does so on one thread, and is not `parallel` then.

    Returns
    -------
    callable
        ``kernel(plan_address, batch, stages)`` runs stages (see `fastadam.step.backend.Backend.bind`): INSPECT,
        MEASURE (where it `measures`) and REDUCE for the whole plan, APPLY for one batch, after the last of which
        the step is counted. Its name is unlike that of any other: Numba's cache does not tell apart functions that
        differ in their options only.
    """
    variant = variant_of(number)
    amsgrad_on = variant.amsgrad_on
    flags = {"l2_on": variant.l2_on, "decoupled_on": variant.decoupled_on, "amsgrad_on": amsgrad_on}
    real = variant.compute.type
    smallest_normal = SMALLEST_NORMAL[variant.compute]
    itemsize = variant.compute.itemsize
    is_compact, in_double = variant.is_compact, variant.compute == formats.FLOAT64.stored
    needs_room = variant.formats[0] is ANY
    average = compact.average_master_strip if is_compact else average_strip

    # Numba looks a kernel up in its cache by a pickle of what it closes over. That must come out the same in every
    # process, so closures hold plain functions and numbers only (an intrinsic's pickle is always another).
    # And compiled functions are known by their names, so inner ones need names of their own, too.
    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        return name_for_cache(function, number)

    maximum = register_jitable(named(make_maximum(select)))
    flush = register_jitable(named(make_flush(select, abs, real(0))))
    operations = (operator.mul, operator.add, operator.sub, operator.truediv, math.sqrt, maximum)

    def loop(name, flush):
        """Return the loop over elements that lie in memory as they are computed with."""
        element = make_element(*operations, flush, **flags)
        element.__name__ = f"element_{name}"
        element = register_jitable(named(element))

        def elements(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, row):
            for i in range(params.size):
                old_max = max_exp_avg_sqs[i] if amsgrad_on else real(0)
                params[i], exp_avgs[i], exp_avg_sqs[i], max_exp_avg_sq = element(
                    params[i], grads[i], exp_avgs[i], exp_avg_sqs[i], old_max, row
                )
                if amsgrad_on:
                    max_exp_avg_sqs[i] = max_exp_avg_sq

        elements.__name__ = f"elements_{name}"
        return register_jitable(named(elements))

    plain, flushing = loop("plain", register_jitable(keep)), loop("flushing", flush)

    @register_jitable
    @named
    def elements(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, row):
        """Step elements; loops are apart for steps that set small moments to zero, and those that do not."""
        if row.tiny > 0:
            flushing(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, row)
        else:
            plain(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, row)

    @register_jitable
    @named
    def row_of(plan, span):
        found = record(plan.rows, span.row, ROW_DTYPE)
        return Row(
            step_size=real(found.step_size),
            inv_sqrt_bias_correction2=real(found.inv_sqrt_bias_correction2),
            decay_rate=real(found.decay_rate),
            tiny=real(found.tiny) * smallest_normal,
            beta1=real(found.beta1),
            one_minus_beta1=real(found.one_minus_beta1),
            beta2=real(found.beta2),
            one_minus_beta2=real(found.one_minus_beta2),
            eps=real(found.eps),
            l2=real(found.l2),
            grad_scale=real(found.grad_scale),
        )

    if variant.idle:

        @register_jitable
        @named
        def step(plan, codes, span, first, last, room):
            """Do nothing with elements that have no gradient."""
    elif is_compact:
        step = compact.make_step(elements, row_of, amsgrad_on, in_double, named)
    elif needs_room:

        @register_jitable
        @named
        def step(plan, codes, span, first, last, room):
            """Step elements first to last of a span, in chunks of float32."""
            row = row_of(plan, span)
            for at in range(first, last, CHUNK):
                n = min(CHUNK, last - at)
                params = load(codes[PARAM], span.param, at, n, room)
                grads = load(codes[GRAD], span.grad, at, n, room + GRAD * CHUNK_BYTES)
                exp_avgs = load(codes[EXP_AVG], span.exp_avg, at, n, room + EXP_AVG * CHUNK_BYTES)
                exp_avg_sqs = load(codes[EXP_AVG_SQ], span.exp_avg_sq, at, n, room + EXP_AVG_SQ * CHUNK_BYTES)
                largest = exp_avg_sqs
                if amsgrad_on:
                    largest = load(
                        codes[MAX_EXP_AVG_SQ], span.max_exp_avg_sq, at, n, room + MAX_EXP_AVG_SQ * CHUNK_BYTES
                    )
                elements(params, grads, exp_avgs, exp_avg_sqs, largest, row)
                store(codes[PARAM], span.param, at, params)
                store(codes[EXP_AVG], span.exp_avg, at, exp_avgs)
                store(codes[EXP_AVG_SQ], span.exp_avg_sq, at, exp_avg_sqs)
                if amsgrad_on:
                    store(codes[MAX_EXP_AVG_SQ], span.max_exp_avg_sq, at, largest)
    else:

        @register_jitable
        @named
        def step(plan, codes, span, first, last, room):
            """Step elements first to last of a span where they lie."""
            n, at = last - first, first * itemsize
            elements(
                numbers(span.param + at, n, real),
                numbers(span.grad + at, n, real),
                numbers(span.exp_avg + at, n, real),
                numbers(span.exp_avg_sq + at, n, real),
                numbers(span.max_exp_avg_sq + at, n, real),
                row_of(plan, span),
            )

    @register_jitable
    @named
    def strips(plan, codes, span, first, last, room):
        """Step elements first to last of a span, and do with each strip of them what is to be done after."""
        after = record(plan.after, 0, AFTER_DTYPE)
        zeroes = zeroes_at_once(plan)
        strip = STRIP if after.averages or zeroes else last - first
        weight = real(numbers(plan.ema_weights + 8 * span.row, 1, types.float64)[0]) if after.averages else real(0)
        while first < last:
            end = min(first + strip, last)
            step(plan, codes, span, first, end, room)
            if after.averages:
                average(codes[PARAM], span, first, end, weight, room)
            if zeroes:
                zero(codes[GRAD], span.grad, first, end)
            first = end

    @register_jitable
    @named
    def share(address, b, low, high, room):
        """Step elements low to high of a batch, counted across its spans, or what borders make of it."""
        plan = record(address, 0, PLAN_DTYPE)
        batch = record(plan.batches, b, BATCH_DTYPE)
        formats = batch.variant >> FORMATS_AT
        codes = (
            formats & FORMAT_MASK,
            formats >> FORMAT_BITS & FORMAT_MASK,
            formats >> 2 * FORMAT_BITS & FORMAT_MASK,
            formats >> 3 * FORMAT_BITS & FORMAT_MASK,
            formats >> 4 * FORMAT_BITS & FORMAT_MASK,
        )
        start = 0
        for i in range(batch.first, batch.first + batch.count):
            if start >= high:
                break
            span = record(plan.spans, i, SPAN_DTYPE)
            if low < start + span.size:
                first, last = part_of_span(span, start, low, high)
                if first < last:
                    strips(plan, codes, span, first, last, room)
            start += span.size

    if parallel:

        def kernel(address, b, stages):
            plan = record(address, 0, PLAN_DTYPE)
            if stages & INSPECT:
                outcome = inspect.inspect(plan)
                if outcome != TAKEN:
                    return outcome
            if stages & REDUCE:
                reduce(plan)
            if stages & APPLY:
                batch = record(plan.batches, b, BATCH_DTYPE)
                next_share = plan.batches + b * BATCH_BYTES + NEXT_SHARE
                size, elements = share_size(batch), batch.elements
                batch.next_share = 0
                for _ in prange(batch.threads):  # to which Numba hands numbers, not records
                    room = compact.rooms() if is_compact else rooms() if needs_room else 0
                    low = take(next_share) * size
                    while low < elements:
                        share(address, b, low, low + size, room)
                        low = take(next_share) * size
                count(plan, b)
            return TAKEN
    else:

        def kernel(address, b, stages):
            plan = record(address, 0, PLAN_DTYPE)
            if stages & INSPECT:
                outcome = inspect.inspect(plan)
                if outcome != TAKEN:
                    return outcome
            if measures and stages & MEASURE:
                norm.measure_all(address)
            if stages & REDUCE:
                if measures:
                    outcome = norm.reduce_norm(plan)
                    if outcome != TAKEN:
                        return outcome
                reduce(plan)
            if stages & APPLY:
                batch = record(plan.batches, b, BATCH_DTYPE)
                room = compact.rooms() if is_compact else rooms() if needs_room else 0
                share(address, b, 0, batch.elements, room)
                count(plan, b)
            return TAKEN

    kernel.__name__ = "adam_parallel" if parallel else "adam_measuring" if measures else "adam_serial"
    return named(kernel)
