"""The memory that Python and native code share: one table of structs and constants.

The dtypes of NumPy's structured arrays are made from it here, ``cext/structs.h`` is written from it by ``python
cext/header.py`` (a test compares the two), and Numba's kernels read structs through the same dtypes. Every field
is 64 bits wide, so that no compiler has anything to pad.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array, address

INT64, FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)


class Field(NamedTuple):
    """One field of a struct.

    Attributes
    ----------
    name : str
    type : dtype
        int64, float64, or that of a struct that lies within.
    points_to : dtype or None
        Of the array whose address the field holds; None for numbers, and for addresses of objects and of numbers
        in any format.
    """

    name: str
    type: np.dtype[Any] = INT64
    points_to: np.dtype[Any] | None = None


class Struct:
    """A C struct, ``fastadam_NAME``.

    Parameters
    ----------
    name : str
    says : str
        What it is, for the C header.
    *fields : str or Field
        In order; a name alone is an int64.

    Attributes
    ----------
    dtype : dtype
        Of structured arrays with the same layout.
    """

    def __init__(self, name: str, says: str, *fields: str | Field) -> None:
        self.name, self.says = name, says
        self.fields = tuple(Field(each) if isinstance(each, str) else each for each in fields)
        self.dtype = np.dtype([(each.name, each.type) for each in self.fields])
        self.points_to = {each.name: each.points_to for each in self.fields if each.points_to is not None}
        TABLE[name] = self


TABLE: dict[str, Struct] = {}


def _reals(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, FLOAT64) for name in names)


class Block:
    """One struct in memory, which keeps alive what its fields point at.

    Parameters
    ----------
    struct : Struct

    Attributes
    ----------
    values : ndarray, shape ()
        The struct; numbers are set as ``block.values["n"] = 3``.
    address : int
        What native code gets.
    """

    def __init__(self, struct: Struct) -> None:
        self._struct = struct
        self.values: Array = np.zeros((), struct.dtype)
        self.address = address(self.values)
        self._kept: dict[str, Array] = {}

    def point(self, name: str, array: Array) -> None:
        """Set the field `name` to the address of an array, and keep the array alive as long as it points there.

        Raises
        ------
        TypeError
            If the array has another dtype than native code reads there.
        ValueError
            If it is not C-contiguous.
        """
        wanted = self._struct.points_to[name]
        if array.dtype != wanted:
            raise TypeError(f"{self._struct.name}.{name} points to {wanted}, not to {array.dtype}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{self._struct.name}.{name} needs a C-contiguous array, got strides {array.strides}")
        self._kept[name] = array
        self.values[name] = address(array)


# The scalars of the formula: those that move with the step, then those that do not.
VARYING = ("step_size", "inv_sqrt_bias_correction2", "decay")
CONSTANT = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "eps", "l2", "grad_scale")
ROW = Struct(
    "row",
    "The scalars that a step applies to a set of parameters; kernels narrow each to their compute dtype, once.",
    *_reals(*VARYING, *CONSTANT),
)

COUNTER = Struct("counter", "A step counter: its address, and its type (FASTADAM_COUNTER_*).", "address", "type")

# What the varying scalars of a row are computed from, beside the number of the step.
RATES = ("lr", "log_beta1", "log_beta2", "weight_decay")
ROW_INPUTS = Struct(
    "row_inputs",
    "What the varying scalars of a row are computed from, with the counter of the steps that it has taken.",
    *_reals(*RATES),
    Field("counter", COUNTER.dtype),
)

# The arrays that a step goes through side by side.
ROLES = ("param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
SPAN = Struct(
    "span",
    "A contiguous run of real numbers that shares one row: addresses, a length, the row, and the caller's slot.",
    *ROLES,
    "size",
    "row",
    "slot",
)

BATCH = Struct(
    "batch",
    "Consecutive spans that one compiled variant steps. next_share is for the threads of the Numba kernels.",
    *("variant", "first", "count", "elements", "threads", "next_share"),
)

SLOT = Struct(
    "slot",
    "An array that gets one gradient: its array object, and the dtype object that it and its gradient must have.",
    "param_object",
    "dtype_object",
)

ARRAY_OFFSETS = Struct(
    "array_offsets",
    "Where the fields of a NumPy array object lie, in bytes from its start, and the address of the type ndarray.",
    *("array_type", "type", "data", "ndim", "dims", "dtype", "flags"),
)

PLAN = Struct(
    "plan",
    "A step: its spans in batches, the rows of scalars, and what is counted when it is taken. The first "
    "n_row_inputs rows are computed, the others are taken as they are. grad_objects has the object of each slot's "
    "gradient; the step writes memory between written_starts and written_ends, sorted and apart.",
    Field("spans", points_to=SPAN.dtype),
    Field("rows", points_to=ROW.dtype),
    Field("row_inputs", points_to=ROW_INPUTS.dtype),
    "n_row_inputs",
    Field("batches", points_to=BATCH.dtype),
    "n_batches",
    Field("counters", points_to=COUNTER.dtype),
    "n_counters",
    Field("slots", points_to=SLOT.dtype),
    "grad_objects",
    Field("written_starts", points_to=INT64),
    Field("written_ends", points_to=INT64),
    "n_written",
    Field("offsets", ARRAY_OFFSETS.dtype),
)
