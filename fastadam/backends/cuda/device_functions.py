"""What CUDA kernels are put together from: arithmetic, loads and stores, for devices and for the simulator.

Importing this module imports numba-cuda. Under the simulator (``NUMBA_ENABLE_CUDASIM=1``) all of it is Python.
"""

from __future__ import annotations

import ctypes
import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice, types

from fastadam.memory import formats
from fastadam.memory.cuda.driver import SIMULATED
from fastadam.memory.formats import Format
from fastadam.step.rounding import make_maximum, make_narrow_bfloat16, make_widen_bfloat16


def select(condition, yes, no):
    """Return one of two numbers."""
    return yes if condition else no


if SIMULATED:

    def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as one that kernels call."""
        return function

    def compiled_apart(function: Callable[..., Any], result: Any, *arguments: Any) -> Callable[..., Any]:
        """Return a function as one that kernels call and that is compiled once, not into each call."""
        return function

    SINGLE = DOUBLE = (operator.mul, operator.add, operator.sub, operator.truediv, np.sqrt)

    def _numbers_at(address: Any, dtype: Any, count: int) -> Any:
        return np.frombuffer(
            (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(int(address)), dtype
        )

    def make_load(kind: Any, count: int) -> Callable[[Any], Any]:
        """Return a function that reads `count` numbers at an address."""
        return lambda address: tuple(_numbers_at(address, kind, count))

    def make_store(kind: Any, count: int) -> Callable[[Any, Any], Any]:
        """Return a function that writes `count` numbers to an address."""

        def store(address: Any, numbers: Any) -> None:
            _numbers_at(address, kind, count)[:] = numbers

        return store

    _adding = threading.Lock()

    def add_word(address: Any, word: Any) -> None:
        """Add to the word at an address, which other threads add to at the same time."""
        with _adding:
            _numbers_at(address, np.int64, 1)[0] += word

    def reinterpret(number: Any, kind: Any) -> Any:
        """Return the number of a type that has the bits of another number of as many bits."""
        return number.view(kind)

    FLOAT32, FLOAT64, WORD, HALF, PAIR = np.float32, np.float64, np.int64, np.uint16, np.uint32
    BYTE, SIGNED_BYTE, SIGNED_HALF, SIGNED_PAIR, LONG = np.uint8, np.int8, np.int16, np.int32, np.uint64

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
        function = getattr(function, "py_func", function)

        def codegen(context, builder, _, given):
            return context.compile_internal(builder, function, signature, given)

        # The arguments of intrinsics have to be written out.
        def with_one(typing_context, a):
            return signature, codegen

        def with_two(typing_context, a, b):
            return signature, codegen

        def with_three(typing_context, a, b, c):
            return signature, codegen

        def with_four(typing_context, a, b, c, d):
            return signature, codegen

        return intrinsic((with_one, with_two, with_three, with_four)[len(arguments) - 1])

    # Each rounded on its own: the compiler may fuse plain operators to multiply-adds, but not these.
    SINGLE = (libdevice.fmul_rn, libdevice.fadd_rn, libdevice.fsub_rn, libdevice.fdiv_rn, libdevice.fsqrt_rn)

    @on_device
    def _dsub_rn(a, b):
        """Return the rounded difference of two doubles, for which libdevice has no function of its own."""
        return libdevice.dadd_rn(a, -b)

    DOUBLE = (libdevice.dmul_rn, libdevice.dadd_rn, _dsub_rn, libdevice.ddiv_rn, libdevice.dsqrt_rn)

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
                pointer, pointed = _pointer(builder, arguments[0], element, count)
                loaded = builder.load(pointer, align=count * kind.bitwidth // 8, typ=pointed)
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
                pointer, pointed = _pointer(builder, arguments[0], element, count)
                value = builder.extract_value(arguments[1], 0)
                if count > 1:
                    value = ir.Constant(pointed, ir.Undefined)
                    for i in range(count):
                        number = builder.extract_value(arguments[1], i)
                        value = builder.insert_element(value, number, ir.Constant(ir.IntType(32), i))
                builder.store(value, pointer, align=count * kind.bitwidth // 8)
                return context.get_dummy_value()

            return types.none(types.int64, given), codegen

        return store

    @intrinsic
    def add_word(typing_context, address, word):
        """Add to the word at an address, which other threads add to at the same time."""

        def codegen(context, builder, signature, arguments):
            pointer, _ = _pointer(builder, arguments[0], context.get_value_type(types.int64), 1)
            builder.atomic_rmw("add", pointer, arguments[1], "monotonic")
            return context.get_dummy_value()

        return types.none(types.int64, types.int64), codegen

    @intrinsic
    def reinterpret(typing_context, number, kind):
        """Return the number of a type that has the bits of another number of as many bits."""

        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return kind.dtype(number, kind), codegen

    FLOAT32, FLOAT64, WORD, HALF, PAIR = types.float32, types.float64, types.int64, types.uint16, types.uint32
    BYTE, SIGNED_BYTE, SIGNED_HALF, SIGNED_PAIR = types.uint8, types.int8, types.int16, types.int32
    LONG = types.uint64

    @on_device
    def widen_float16(half):
        """Return the float32 of the same value as these 16 bits."""
        return libdevice.half2float(types.int16(half))

    @on_device
    def narrow_float16(number):
        """Return the bits of the nearest float16, ties to even."""
        return types.uint16(libdevice.float2half_rn(number))


@on_device
def float_of(bits):
    """Return the float32 that has these 32 bits."""
    return reinterpret(bits, FLOAT32)


@on_device
def bits_of(number):
    """Return the 32 bits of a float32."""
    return reinterpret(number, PAIR)


@on_device
def truncated(number):
    """Return the whole part of a float32 that 32 bits can hold."""
    return SIGNED_PAIR(number)


chosen = on_device(select)
maximum = on_device(make_maximum(chosen))
widen_bfloat16 = on_device(make_widen_bfloat16(PAIR, float_of))
narrow_bfloat16 = on_device(make_narrow_bfloat16(HALF, PAIR, bits_of, chosen))


def make_find(row_bytes: int, first_block_at: int) -> Any:
    """Return ``find(rows, n_rows, block)``: the address of the row of a table that a block of threads belongs to.

    A row says which of the blocks is its first; its blocks are those from that to the next row's.
    """
    load_word = make_load(WORD, 1)

    @on_device
    def find(rows, n_rows, block):
        # The last row whose first block is not behind this one.
        low, high = WORD(0), n_rows
        while high - low > WORD(1):
            middle = (low + high) >> WORD(1)
            if load_word(rows + middle * row_bytes + first_block_at)[0] <= block:
                low = middle
            else:
                high = middle
        return rows + low * row_bytes

    return find


@on_device
def keep(number):
    """Return the number as it is: it lies in memory as it is computed with."""
    return number


class Access:
    """How the kernels read and write numbers of one format: `count` of them at an address, as a tuple."""

    def __init__(self, number_format: Format) -> None:
        widened, narrowed = {
            formats.BFLOAT16: (widen_bfloat16, narrow_bfloat16),
            formats.FLOAT16: (widen_float16, narrow_float16),
        }.get(number_format, (keep, keep))
        raw = {formats.FLOAT32: FLOAT32, formats.FLOAT64: FLOAT64}.get(number_format, HALF)
        self.load_one = self._mapped_load(make_load(raw, 1), widened)
        self.store_one = self._mapped_store(make_store(raw, 1), narrowed)
        if number_format is formats.FLOAT32:
            self.load_many, self.store_many = make_load(FLOAT32, 4), make_store(FLOAT32, 4)
        elif number_format is formats.FLOAT64:
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
