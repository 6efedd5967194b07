"""The kernels of the CUDA backend. Importing this module imports numba-cuda.

There are two, each in every variant. *flat* steps one span, which its arguments describe; *table* steps any number
of spans, which it reads from a table in device memory. Both take addresses and numbers only, so that a launch has
no arrays to take apart. The table's has a twin that moves averages of the parameters, too.

A thread steps 16 bytes of each array at once where all addresses allow it, else one number, by the same
operations. Under Numba's CUDA simulator (``NUMBA_ENABLE_CUDASIM=1``) the kernels are plain Python, and addresses
are those of host memory.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from fastadam.backends.cuda.device_functions import (
    DOUBLE,
    FLOAT32,
    FLOAT64,
    SINGLE,
    WORD,
    Access,
    chosen,
    compiled_apart,
    make_find,
    make_load,
    make_store,
    maximum,
    on_device,
)
from fastadam.memory.cuda.driver import SIMULATED
from fastadam.memory.formats import Format
from fastadam.memory.structs import AVERAGE, ROLES
from fastadam.step.after import make_average
from fastadam.step.coefficients import SMALLEST_NORMAL, Row
from fastadam.step.element import make_element
from fastadam.step.rounding import make_flush
from fastadam.step.variants import Variant, variant_of

# Threads of a block. Each thread of the simulator is one of Python's.
BLOCK = 8 if SIMULATED else 256
VECTOR_BYTES = 16

# A row of the table. A span's blocks are those from its first_block to the next one's.
TABLE = np.dtype([(name, np.int64) for name in (*ROLES, "size", "vectors", "row", "first_block")])
# The same where averages move; there the row of coefficients ends with their weight.
AVERAGES_TABLE = np.dtype([*TABLE.descr, (AVERAGE, np.int64)])
# Where in them each field is, in bytes.
_namedtuple: Any = collections.namedtuple  # type checkers want to see the fields written out
AT = _namedtuple("AT", AVERAGES_TABLE.names)(*(AVERAGES_TABLE.fields[name][1] for name in AVERAGES_TABLE.names))
N_WORDS = len(ROLES) + 3  # of a span that goes along with the launch: addresses, size, vectors, scale
N_COEFFICIENTS = len(Row._fields)


def format_of(variant: Variant) -> Format:
    """Return the format of all arrays of a variant.

    Raises
    ------
    ValueError
        If there are several: those are for `fastadam.backends.cuda.general_kernels`.
    """
    found = variant.common_format
    if found is None:
        names = ", ".join(f"{role} in {each.name}" for role, each in zip(ROLES, variant.formats, strict=True))
        raise ValueError(f"these kernels step spans whose arrays are in one format, got {names}")
    return found


def width(number_format: Format) -> int:
    """Return how many numbers of a format one thread steps at once."""
    return VECTOR_BYTES // number_format.stored.itemsize


def make_lanes(element: Any, count: int) -> Any:
    """Return a function that steps tuples of `count` numbers and returns the new ones; count is a power of two."""
    if count == 1:

        @on_device
        def one(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
            new = element((param[0], grad[0], exp_avg[0], exp_avg_sq[0], max_exp_avg_sq[0]), row)
            return (new[0],), (new[1],), (new[2],), (new[3],)

        return one
    half = count // 2
    lanes = make_lanes(element, half)

    @on_device
    def both(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
        low = lanes(param[:half], grad[:half], exp_avg[:half], exp_avg_sq[:half], max_exp_avg_sq[:half], row)
        high = lanes(param[half:], grad[half:], exp_avg[half:], exp_avg_sq[half:], max_exp_avg_sq[half:], row)
        return low[0] + high[0], low[1] + high[1], low[2] + high[2], low[3] + high[3]

    return both


def make_element_of(variant: Variant) -> Any:
    """Return a function of five numbers and a row of coefficients, which returns four new numbers."""
    single = variant.compute == np.float32
    operations = SINGLE if single else DOUBLE
    flags = {"l2_on": variant.l2_on, "decoupled_on": variant.decoupled_on, "amsgrad_on": variant.amsgrad_on}
    flush = on_device(make_flush(chosen, abs, variant.compute.type(0)))
    element = on_device(make_element(*operations, maximum, flush, **flags))

    def of_tuples(numbers, row):
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq = numbers
        return element(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row)

    real = types.float32 if single else types.float64
    return compiled_apart(
        of_tuples,
        types.UniTuple(real, 4),
        types.UniTuple(real, len(ROLES)),
        types.NamedUniTuple(real, N_COEFFICIENTS, Row),
    )


def row_layout(compute: np.dtype[Any], averages: bool) -> tuple[int, int]:
    """Return where the weight of averages is in a row of coefficients, if they are kept, and how long a row is."""
    weight_at = compute.itemsize * N_COEFFICIENTS
    return weight_at, weight_at + compute.itemsize * averages


def make_scaled(compute: np.dtype[Any]) -> Any:
    """Return ``scaled(grad_scale, scale)``: what gradients are multiplied by, a part of which is at an address."""
    single = compute == np.float32
    mul, load_scalar = (SINGLE if single else DOUBLE)[0], make_load(FLOAT32 if single else FLOAT64, 1)

    @on_device
    def scaled(grad_scale, scale):
        if scale != WORD(0):  # else the host knew all of it
            grad_scale = mul(grad_scale, load_scalar(scale)[0])
        return grad_scale

    return scaled


def make_read_row(compute: np.dtype[Any]) -> Any:
    """Return ``read_row(scalars, scale)``: the coefficients at an address, as kernels compute with them."""
    single, itemsize = compute == np.float32, compute.itemsize
    mul, load_scalar = (SINGLE if single else DOUBLE)[0], make_load(FLOAT32 if single else FLOAT64, 1)
    scaled, smallest_normal = make_scaled(compute), SMALLEST_NORMAL[compute]
    at = Row(*(itemsize * i for i in range(N_COEFFICIENTS)))

    @on_device
    def read_row(scalars, scale):
        return Row(
            step_size=load_scalar(scalars + at.step_size)[0],
            inv_sqrt_bias_correction2=load_scalar(scalars + at.inv_sqrt_bias_correction2)[0],
            decay_rate=load_scalar(scalars + at.decay_rate)[0],
            tiny=mul(load_scalar(scalars + at.tiny)[0], smallest_normal),
            beta1=load_scalar(scalars + at.beta1)[0],
            one_minus_beta1=load_scalar(scalars + at.one_minus_beta1)[0],
            beta2=load_scalar(scalars + at.beta2)[0],
            one_minus_beta2=load_scalar(scalars + at.one_minus_beta2)[0],
            eps=load_scalar(scalars + at.eps)[0],
            l2=load_scalar(scalars + at.l2)[0],
            grad_scale=scaled(load_scalar(scalars + at.grad_scale)[0], scale),
        )

    return read_row


def make_averages(compute: np.dtype[Any], count: int) -> Any:
    """Return a function that moves tuples of `count` averages; count is a power of two."""
    if count == 1:
        mul, add, sub, *_ = SINGLE if compute == np.float32 else DOUBLE
        moved, begins = on_device(make_average(add, sub, mul)), compute.type(1)

        @on_device
        def one(emas, params, weight):
            return (chosen(weight == begins, params[0], moved(emas[0], params[0], weight)),)

        return one
    half = count // 2
    averages = make_averages(compute, half)

    @on_device
    def both(emas, params, weight):
        return averages(emas[:half], params[:half], weight) + averages(emas[half:], params[half:], weight)

    return both


def _make_move(number_format: Format) -> Any:
    """Return ``move(param, ema, size, vectors, thread, weight)``, one thread's share in the averages of a span.

    It reads the parameters as they are stored by then.
    """
    single, real = number_format.compute == np.float32, number_format.compute.itemsize
    access, kind = Access(number_format), FLOAT32 if single else FLOAT64
    load_one, load_many, itemsize = access.load_one, access.load_many, number_format.stored.itemsize
    lanes, at_once = width(number_format), VECTOR_BYTES // real
    second = lanes - at_once  # numbers of 16 bits: two vectors of averages to one of parameters
    load_emas, store_emas, load_ema, store_ema = (
        *(make_load(kind, at_once), make_store(kind, at_once)),
        *(make_load(kind, 1), make_store(kind, 1)),
    )

    averages_of_many, average_of_one = (make_averages(number_format.compute, n) for n in (at_once, 1))

    @on_device
    def move(param, ema, size, vectors, thread, weight):
        if thread < vectors:
            params, at = load_many(param + thread * VECTOR_BYTES), ema + thread * (lanes * real)
            store_emas(at, averages_of_many(load_emas(at), params[:at_once], weight))
            if second > 0:
                behind = at + VECTOR_BYTES
                store_emas(behind, averages_of_many(load_emas(behind), params[second:], weight))
        elif thread - vectors + vectors * lanes < size:
            i = thread - vectors + vectors * lanes
            at = ema + i * real
            store_ema(at, average_of_one(load_ema(at), load_one(param + i * itemsize), weight))

    return move


@functools.cache
def make_kernels(number: int, averages: bool = False) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the Python functions of a variant's two kernels, for numba-cuda to compile.

    Parameters
    ----------
    number : int
        A variant (see `fastadam.step.variants`) whose arrays are in one format.
    averages : bool
        Whether *table* moves averages, too, or in a variant that is idle, alone: then it reads rows of
        `AVERAGES_TABLE`, and the weight of the averages behind each row of coefficients. There is no such *flat*.

    Returns
    -------
    flat : callable
        ``flat(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, scale, step_size, ...)``: the words
        of a span, then the coefficients in the compute dtype. `vectors` says how many runs of 16 bytes from the
        start on are stepped at once; each takes a thread, and so does each number behind them. `scale` is the
        address of a number of the compute dtype that `grad_scale` is multiplied by, or 0.
    table : callable
        ``table(spans, n_spans, rows, scale)``: the addresses of rows of `TABLE` and of rows of coefficients in the
        compute dtype, and `scale` as above. It takes the blocks that the table counts.
    """
    variant = variant_of(number)
    number_format, amsgrad_on = format_of(variant), variant.amsgrad_on
    itemsize = number_format.stored.itemsize
    lanes = width(number_format)
    single = variant.compute == np.float32
    element = make_element_of(variant)
    access = Access(number_format)
    load_one, store_one, load_many, store_many = (
        access.load_one,
        access.store_one,
        access.load_many,
        access.store_many,
    )
    step_one, step_many = make_lanes(element, 1), make_lanes(element, lanes)
    idle, move = variant.idle, _make_move(number_format)
    load_word = make_load(WORD, 1)
    load_scalar = make_load(FLOAT32 if single else FLOAT64, 1)
    mul, smallest_normal = (SINGLE if single else DOUBLE)[0], SMALLEST_NORMAL[variant.compute]
    scaled, read_row = make_scaled(variant.compute), make_read_row(variant.compute)
    weight_at, row_bytes = row_layout(variant.compute, averages)
    find = make_find((AVERAGES_TABLE if averages else TABLE).itemsize, AT.first_block)

    @on_device
    def step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, thread, row):
        """Take the share of one thread in the step of a span."""
        if thread < vectors:
            at = thread * VECTOR_BYTES
            old = load_many(param + at)
            old_max = load_many(max_exp_avg_sq + at) if amsgrad_on else old
            new = step_many(
                old, load_many(grad + at), load_many(exp_avg + at), load_many(exp_avg_sq + at), old_max, row
            )
            store_many(param + at, new[0])
            store_many(exp_avg + at, new[1])
            store_many(exp_avg_sq + at, new[2])
            if amsgrad_on:
                store_many(max_exp_avg_sq + at, new[3])
        elif thread - vectors + vectors * lanes < size:
            at = (thread - vectors + vectors * lanes) * itemsize
            old = load_one(param + at)
            old_max = load_one(max_exp_avg_sq + at) if amsgrad_on else old
            new = step_one(
                old, load_one(grad + at), load_one(exp_avg + at), load_one(exp_avg_sq + at), old_max, row
            )
            store_one(param + at, new[0])
            store_one(exp_avg + at, new[1])
            store_one(exp_avg_sq + at, new[2])
            if amsgrad_on:
                store_one(max_exp_avg_sq + at, new[3])

    def flat(
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        max_exp_avg_sq,
        size,
        vectors,
        scale,
        step_size,
        inv_sqrt_bias_correction2,
        decay_rate,
        tiny,
        grad_scale,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        eps,
        l2,
    ):
        thread = WORD(cuda.blockIdx.x) * WORD(BLOCK) + WORD(cuda.threadIdx.x)
        row = Row(
            step_size=step_size,
            inv_sqrt_bias_correction2=inv_sqrt_bias_correction2,
            decay_rate=decay_rate,
            tiny=mul(tiny, smallest_normal),
            beta1=beta1,
            one_minus_beta1=one_minus_beta1,
            beta2=beta2,
            one_minus_beta2=one_minus_beta2,
            eps=eps,
            l2=l2,
            grad_scale=scaled(grad_scale, scale),
        )
        step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, thread, row)

    def table(spans, n_spans, rows, scale):
        block = WORD(cuda.blockIdx.x)
        span = find(spans, n_spans, block)
        thread = (block - load_word(span + AT.first_block)[0]) * WORD(BLOCK) + WORD(cuda.threadIdx.x)
        scalars = rows + load_word(span + AT.row)[0] * row_bytes
        row = read_row(scalars, scale)
        if not idle:
            step(
                load_word(span + AT.param)[0],
                load_word(span + AT.grad)[0],
                load_word(span + AT.exp_avg)[0],
                load_word(span + AT.exp_avg_sq)[0],
                load_word(span + AT.max_exp_avg_sq)[0],
                load_word(span + AT.size)[0],
                load_word(span + AT.vectors)[0],
                thread,
                row,
            )
        if averages:
            move(
                load_word(span + AT.param)[0],
                load_word(span + AT.ema)[0],
                load_word(span + AT.size)[0],
                load_word(span + AT.vectors)[0],
                thread,
                load_scalar(scalars + weight_at)[0],
            )

    return flat, table


def signatures(number: int) -> tuple[Any, Any]:
    """Return the types of the arguments of a variant's two kernels."""
    real = types.float32 if variant_of(number).compute == np.float32 else types.float64
    words = (types.int64,) * N_WORDS
    return types.void(*words, *(real,) * N_COEFFICIENTS), types.void(*(types.int64,) * 4)
