"""What Numba's kernels read and write: structs and numbers at addresses. Importing this module imports Numba.

Structs are those of `fastadam.memory.structs`, by their NumPy dtypes: fields are read and written by name.
"""

from __future__ import annotations

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable


@intrinsic
def _record(typing_context, address, i, dtype):
    result = dtype.dtype

    def codegen(context, builder, signature, arguments):
        start, number, _ = arguments
        offset = builder.mul(number, ir.Constant(number.type, result.size))
        return builder.inttoptr(builder.add(start, offset), context.get_value_type(result))

    return result(types.int64, types.int64, dtype), codegen


@register_jitable
def record(address, i, dtype):
    """Return struct `i` of those at an address, over that memory; `dtype` is a NumPy dtype."""
    return _record(address, i, dtype)


@intrinsic
def pointer(typing_context, address, item):
    """Turn an address into a pointer to numbers of the type `item`."""
    result = types.CPointer(item.dtype)

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, item), codegen


@register_jitable
def numbers(address, n, item):
    """Return the `n` numbers of the type `item` at an address, as an array over that memory."""
    return carray(pointer(address, item), n)


@register_jitable
def word(address):
    """Return the word of 64 bits at an address."""
    return carray(pointer(address, types.int64), 1)[0]


@register_jitable
def integer(address):
    """Return the C int at an address."""
    return carray(pointer(address, types.int32), 1)[0]


@intrinsic
def take(typing_context, address):
    """Return the word at an address, and leave one more there: no two threads get the same number."""

    def codegen(context, builder, signature, arguments):
        word = context.get_value_type(types.int64)
        pointer = builder.inttoptr(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", pointer, word(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def fetch(typing_context, address):
    """Have the line of memory at an address on its way to the cache; there need be none."""

    def codegen(context, builder, signature, arguments):
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        )
        read, keep, data = ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)
        builder.call(prefetch, [builder.inttoptr(arguments[0], byte), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def make_room(nbytes):
    """Return a function that returns the address of memory on the stack, good until its caller returns."""

    @intrinsic
    def room(typing_context):
        def codegen(context, builder, signature, arguments):
            memory = cgutils.alloca_once(builder, ir.IntType(8), size=ir.Constant(ir.IntType(32), nbytes))
            memory.align = 64
            return builder.ptrtoint(memory, context.get_value_type(types.int64))

        return types.int64(), codegen

    return room


@intrinsic
def reinterpret(typing_context, bits, target):
    """Return the number of the type `target` that has the bits of another number of as many bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return target.dtype(bits, target), codegen
