"""The kernels of the CUDA backend. Importing this module imports numba-cuda.

There are two, each in every variant. *flat* steps one span, which its arguments describe; *table* steps any number
of spans, which it reads from a table in device memory. Both take addresses and numbers only, so that a launch has
no arrays to take apart.

A thread steps 16 bytes of each array at once where all five addresses allow it, else one number, by the same
operations. Under Numba's CUDA simulator (``NUMBA_ENABLE_CUDASIM=1``) the kernels are plain Python, and addresses
are those of host memory.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice, types

from fastadam.memory.cuda.driver import SIMULATED
from fastadam.step.coefficients import COEFFICIENTS
from fastadam.step.element import make_element
from fastadam.step.formats import Format, variant_of

# Threads of a block. Each thread of the simulator is one of Python's.
BLOCK = 8 if SIMULATED else 256
VECTOR_BYTES = 16

# The words of a row of the table. A span's blocks are those from its first_block to the next one's.
PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, SIZE, VECTORS, ROW, FIRST_BLOCK = range(9)
TABLE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "param",
            "grad",
            "exp_avg",
            "exp_avg_sq",
            "max_exp_avg_sq",
            "size",
            "vectors",
            "row",
            "first_block",
        )
    ]
)
TABLE_WORDS = TABLE.itemsize // 8
N_COEFFICIENTS = len(COEFFICIENTS.names or ())


def width(number_format: Format) -> int:
    """Return how many numbers of a format one thread steps at once."""
    return VECTOR_BYTES // number_format.stored.itemsize


def maximum(old, new):
    """Return the larger one; a NaN on either side gives NaN."""
    return old if (old >= new or old != old) else new


if SIMULATED:

    def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as one that kernels call."""
        return function

    def compiled_apart(function: Callable[..., Any], result: Any, *arguments: Any) -> Callable[..., Any]:
        """Return a function as one that kernels call and that is compiled once, not into each call."""
        return function

    _SINGLE = _DOUBLE = (operator.mul, operator.add, operator.sub, operator.truediv, np.sqrt)

    def _place(address: Any, dtype: Any, count: int) -> Any:
        return np.frombuffer(
            (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(int(address)), dtype
        )

    def make_load(kind: Any, count: int) -> Callable[[Any], Any]:
        """Return a function that reads `count` numbers at an address."""
        return lambda address: tuple(_place(address, kind, count))

    def make_store(kind: Any, count: int) -> Callable[[Any, Any], Any]:
        """Return a function that writes `count` numbers to an address."""

        def store(address: Any, numbers: Any) -> None:
            _place(address, kind, count)[:] = numbers

        return store

    def reinterpret(number: Any, kind: Any) -> Any:
        """Return the number of a type that has the bits of another number of as many bits."""
        return number.view(kind)

    FLOAT32, FLOAT64, WORD, HALF, PAIR = np.float32, np.float64, np.int64, np.uint16, np.uint32

    def widen_float16(half):
        """Return the float32 of the same value as these 16 bits."""
        return np.float32(half.view(np.float16))

    def narrow_float16(number):
        """Return the bits of the nearest float16, ties to even."""
        return np.float16(number).view(np.uint16)

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    # Inlined before types are inferred, which needs no device; a device function of its own would.
    on_device = cuda.jit(device=True, inline="always")

    def compiled_apart(function: Callable[..., Any], result: Any, *arguments: Any) -> Any:
        """Return a function as one that kernels call and that is compiled once, not into each call.

        Where a kernel has many calls, that saves most of the time of compilation; in the end NVVM inlines them.
        """
        signature = result(*arguments)

        def codegen(context, builder, _, given):
            return context.compile_internal(builder, function, signature, given)

        @intrinsic
        def call_with_one(typing_context, first):
            return signature, codegen

        @intrinsic
        def call_with_two(typing_context, first, second):
            return signature, codegen

        return call_with_one if len(arguments) == 1 else call_with_two

    # Each rounded on its own: the compiler may fuse plain operators to multiply-adds, but not these.
    _SINGLE = (libdevice.fmul_rn, libdevice.fadd_rn, libdevice.fsub_rn, libdevice.fdiv_rn, libdevice.fsqrt_rn)

    @on_device
    def _dsub_rn(a, b):
        """Return the rounded difference of two doubles, for which libdevice has no function of its own."""
        return libdevice.dadd_rn(a, -b)

    _DOUBLE = (libdevice.dmul_rn, libdevice.dadd_rn, _dsub_rn, libdevice.ddiv_rn, libdevice.dsqrt_rn)

    def _pointer(builder: Any, address: Any, element: Any, count: int) -> Any:
        # Address space 1 is global memory.
        pointed = ir.VectorType(element, count) if count > 1 else element
        return builder.inttoptr(address, ir.PointerType(pointed, addrspace=1)), pointed

    def make_load(kind: Any, count: int) -> Any:
        """Return a function that reads `count` numbers at an address, with one instruction."""

        @intrinsic
        def load(typing_context, address):
            result = types.UniTuple(kind, count)

            def codegen(context, builder, signature, arguments):
                element = context.get_value_type(kind)
                place, pointed = _pointer(builder, arguments[0], element, count)
                loaded = builder.load(place, align=count * kind.bitwidth // 8, typ=pointed)
                numbers = [loaded]
                if count > 1:
                    numbers = [
                        builder.extract_element(loaded, ir.Constant(ir.IntType(32), i)) for i in range(count)
                    ]
                return context.make_tuple(builder, result, numbers)

            return result(types.int64), codegen

        return load

    def make_store(kind: Any, count: int) -> Any:
        """Return a function that writes `count` numbers to an address, with one instruction."""

        @intrinsic
        def store(typing_context, address, numbers):
            given = types.UniTuple(kind, count)

            def codegen(context, builder, signature, arguments):
                element = context.get_value_type(kind)
                place, pointed = _pointer(builder, arguments[0], element, count)
                value = builder.extract_value(arguments[1], 0)
                if count > 1:
                    value = ir.Constant(pointed, ir.Undefined)
                    for i in range(count):
                        number = builder.extract_value(arguments[1], i)
                        value = builder.insert_element(value, number, ir.Constant(ir.IntType(32), i))
                builder.store(value, place, align=count * kind.bitwidth // 8)
                return context.get_dummy_value()

            return types.none(types.int64, given), codegen

        return store

    @intrinsic
    def reinterpret(typing_context, number, kind):
        """Return the number of a type that has the bits of another number of as many bits."""

        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return kind.dtype(number, kind), codegen

    FLOAT32, FLOAT64, WORD, HALF, PAIR = types.float32, types.float64, types.int64, types.uint16, types.uint32

    @on_device
    def widen_float16(half):
        """Return the float32 of the same value as these 16 bits."""
        return libdevice.half2float(types.int16(half))

    @on_device
    def narrow_float16(number):
        """Return the bits of the nearest float16, ties to even."""
        return types.uint16(libdevice.float2half_rn(number))


@on_device
def widen_bfloat16(half):
    """Return the float32 of which these 16 bits are the upper half."""
    return reinterpret(PAIR(PAIR(half) << PAIR(16)), FLOAT32)


@on_device
def narrow_bfloat16(number):
    """Return the bits of the nearest bfloat16, ties to even."""
    bits = reinterpret(number, PAIR)
    odd = PAIR((bits >> PAIR(16)) & PAIR(1))
    rounded = PAIR(bits + PAIR(0x7FFF) + odd)
    return HALF(0x7FC0) if number != number else HALF(rounded >> PAIR(16))


@on_device
def keep(number):
    """Return the number as it is: it lies in memory as it is computed with."""
    return number


class _Access:
    """How the kernels read and write numbers of one format: `count` of them at an address, as a tuple."""

    def __init__(self, number_format: Format) -> None:
        name = number_format.name
        widened, narrowed = {
            "bfloat16": (widen_bfloat16, narrow_bfloat16),
            "float16": (widen_float16, narrow_float16),
        }.get(name, (keep, keep))
        raw = {"float32": FLOAT32, "float64": FLOAT64}.get(name, HALF)
        self.load_one = self._mapped_load(make_load(raw, 1), widened)
        self.store_one = self._mapped_store(make_store(raw, 1), narrowed)
        if name == "float32":
            self.load_many, self.store_many = make_load(FLOAT32, 4), make_store(FLOAT32, 4)
        elif name == "float64":
            self.load_many, self.store_many = make_load(FLOAT64, 2), make_store(FLOAT64, 2)
        else:  # vectors of 16-bit integers would be taken apart, so two numbers lie in each one of 32 bits
            self.load_many = self._load_pairs(make_load(PAIR, 4), widened)
            self.store_many = self._store_pairs(make_store(PAIR, 4), narrowed)

    @staticmethod
    def _mapped_load(load: Any, widened: Any) -> Any:
        @on_device
        def load_one(address):
            return (widened(load(address)[0]),)

        return load_one

    @staticmethod
    def _mapped_store(store: Any, narrowed: Any) -> Any:
        @on_device
        def store_one(address, numbers):
            store(address, (narrowed(numbers[0]),))

        return store_one

    @staticmethod
    def _load_pairs(load: Any, widened: Any) -> Any:
        @on_device
        def both(pair):
            return widened(HALF(pair & PAIR(0xFFFF))), widened(HALF(pair >> PAIR(16)))

        def load_many(address):
            a, b, c, d = load(address)
            return both(a) + both(b) + both(c) + both(d)

        return compiled_apart(load_many, types.UniTuple(types.float32, 8), types.int64)

    @staticmethod
    def _store_pairs(store: Any, narrowed: Any) -> Any:
        @on_device
        def pair(low, high):
            return PAIR(PAIR(narrowed(low)) | PAIR(PAIR(narrowed(high)) << PAIR(16)))

        def store_many(address, n):
            store(address, (pair(n[0], n[1]), pair(n[2], n[3]), pair(n[4], n[5]), pair(n[6], n[7])))

        return compiled_apart(store_many, types.none, types.int64, types.UniTuple(types.float32, 8))


def _make_lanes(element: Any, count: int) -> Any:
    """Return a function that steps tuples of `count` numbers and returns the new ones; count is a power of two."""
    if count == 1:

        @on_device
        def one(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
            new = element((param[0], grad[0], exp_avg[0], exp_avg_sq[0], max_exp_avg_sq[0]), row)
            return (new[0],), (new[1],), (new[2],), (new[3],)

        return one
    half = count // 2
    lanes = _make_lanes(element, half)

    @on_device
    def both(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
        low = lanes(param[:half], grad[:half], exp_avg[:half], exp_avg_sq[:half], max_exp_avg_sq[:half], row)
        high = lanes(param[half:], grad[half:], exp_avg[half:], exp_avg_sq[half:], max_exp_avg_sq[half:], row)
        return low[0] + high[0], low[1] + high[1], low[2] + high[2], low[3] + high[3]

    return both


def _make_element(number_format: Format, l2_on: bool, amsgrad_on: bool) -> Any:
    """Return a function of five numbers and a row of coefficients, which returns four new numbers."""
    single = number_format.compute == np.float32
    operations = _SINGLE if single else _DOUBLE
    element = on_device(make_element(*operations, on_device(maximum), l2_on=l2_on, amsgrad_on=amsgrad_on))

    def of_tuples(numbers, row):
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq = numbers
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 = row
        return element(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9)

    real = types.float32 if single else types.float64
    return compiled_apart(
        of_tuples, types.UniTuple(real, 4), types.UniTuple(real, 5), types.UniTuple(real, N_COEFFICIENTS)
    )


@functools.cache
def make_kernels(kind: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the Python functions of a variant's two kernels, for numba-cuda to compile.

    Parameters
    ----------
    kind : int
        Number of the variant (see `fastadam.step.formats.kinds_of`).

    Returns
    -------
    flat : callable
        ``flat(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, step_size, ...)``: the words of a
        span, then the coefficients in the compute dtype. `vectors` says how many runs of 16 bytes from the start
        on are stepped at once. It takes ``threads_of(size, vectors, kind)`` threads.
    table : callable
        ``table(spans, n_spans, rows)``: the addresses of rows of `TABLE` and of rows of coefficients in the
        compute dtype. It takes the blocks that the table counts.
    """
    number_format, l2_on, amsgrad_on = variant_of(kind)
    itemsize = number_format.stored.itemsize
    lanes = width(number_format)
    single = number_format.compute == np.float32
    element = _make_element(number_format, l2_on, amsgrad_on)
    access = _Access(number_format)
    load_one, store_one, load_many, store_many = (
        access.load_one,
        access.store_one,
        access.load_many,
        access.store_many,
    )
    step_one, step_many = _make_lanes(element, 1), _make_lanes(element, lanes)
    load_word = make_load(WORD, 1)
    load_coefficient = make_load(FLOAT32 if single else FLOAT64, 1)
    real_bytes = number_format.compute.itemsize

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
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9
    ):
        thread = WORD(cuda.blockIdx.x) * WORD(BLOCK) + WORD(cuda.threadIdx.x)
        row = (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9)
        step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, thread, row)

    def table(spans, n_spans, rows):
        block = WORD(cuda.blockIdx.x)
        # The last span whose first block is not behind this one.
        low, high = WORD(0), n_spans
        while high - low > WORD(1):
            middle = (low + high) >> WORD(1)
            if load_word(spans + (middle * TABLE_WORDS + FIRST_BLOCK) * 8)[0] <= block:
                low = middle
            else:
                high = middle
        span = spans + low * (TABLE_WORDS * 8)
        thread = (block - load_word(span + FIRST_BLOCK * 8)[0]) * WORD(BLOCK) + WORD(cuda.threadIdx.x)
        c = rows + load_word(span + ROW * 8)[0] * (N_COEFFICIENTS * real_bytes)
        row = (
            load_coefficient(c)[0],
            load_coefficient(c + real_bytes)[0],
            load_coefficient(c + 2 * real_bytes)[0],
            load_coefficient(c + 3 * real_bytes)[0],
            load_coefficient(c + 4 * real_bytes)[0],
            load_coefficient(c + 5 * real_bytes)[0],
            load_coefficient(c + 6 * real_bytes)[0],
            load_coefficient(c + 7 * real_bytes)[0],
            load_coefficient(c + 8 * real_bytes)[0],
            load_coefficient(c + 9 * real_bytes)[0],
        )
        step(
            load_word(span + PARAM * 8)[0],
            load_word(span + GRAD * 8)[0],
            load_word(span + EXP_AVG * 8)[0],
            load_word(span + EXP_AVG_SQ * 8)[0],
            load_word(span + MAX_EXP_AVG_SQ * 8)[0],
            load_word(span + SIZE * 8)[0],
            load_word(span + VECTORS * 8)[0],
            thread,
            row,
        )

    return flat, table


def signatures(kind: int) -> tuple[Any, Any]:
    """Return the types of the arguments of a variant's two kernels."""
    real = types.float32 if variant_of(kind)[0].compute == np.float32 else types.float64
    words = (types.int64,) * (VECTORS + 1)
    return types.void(*words, *(real,) * N_COEFFICIENTS), types.void(*(types.int64,) * 3)


def quiet(function: Callable[..., None]) -> Callable[..., None]:
    """Return a kernel for the simulator in which non-finite numbers propagate silently, as on a device.

    It is made here, as the simulator exchanges the name ``cuda`` in the module of what it runs.
    """

    def kernel(*arguments: Any) -> None:
        with np.errstate(all="ignore"):
            function(*arguments)

    return kernel
