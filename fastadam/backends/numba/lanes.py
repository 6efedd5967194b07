"""Float64 numbers side by side, in the processor's vectors, for Numba's kernels. Importing it imports Numba.

Numba has arrays and tuples for them. Neither does: it cannot tell that two arrays lie apart, and takes a tuple's
numbers one by one.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from fastadam.memory.structs import LANES


class LanesType(types.Type):  # type: ignore[misc]
    """Numba's type of `LANES` float64 numbers that are computed with at once."""

    def __init__(self) -> None:
        super().__init__("Lanes")


LANES_TYPE = LanesType()
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


@register_model(LanesType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _VECTOR)


@intrinsic
def load_lanes(typing_context, address, item):
    """Return the numbers of the type `item`, float32 or float64, from an address on, aligned as one number is."""
    size = item.dtype.bitwidth // 8

    def codegen(context, builder, signature, arguments):
        vector = ir.VectorType(context.get_value_type(item.dtype), LANES)
        found = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=size)
        return found if vector == _VECTOR else builder.fpext(found, _VECTOR)

    return LANES_TYPE(types.int64, item), codegen


@intrinsic
def store_lanes(typing_context, address, lanes):
    """Store the numbers from an address on, aligned as one float64 is."""

    def codegen(context, builder, signature, arguments):
        place, found = arguments
        builder.store(found, builder.inttoptr(place, _VECTOR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, LANES_TYPE), codegen


@intrinsic
def all_lanes(typing_context, number):
    """Return the same number in each lane."""

    def codegen(context, builder, signature, arguments):
        found = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            found = builder.insert_element(found, arguments[0], ir.Constant(ir.IntType(32), lane))
        return found

    return LANES_TYPE(types.float64), codegen


def _operation(name):
    """Return the function of two `Lanes` that an operation of LLVM's does."""

    @intrinsic
    def operation(typing_context, a, b):
        def codegen(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments)

        return LANES_TYPE(LANES_TYPE, LANES_TYPE), codegen

    return operation


add, sub, mul = _operation("fadd"), _operation("fsub"), _operation("fmul")
