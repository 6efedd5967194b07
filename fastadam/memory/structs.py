"""The memory that Python and native code share: one table of structs and constants.

The dtypes of NumPy's structured arrays are made from it here, ``cext/structs.h`` is written from it by ``python
cext/header.py --write`` (a test compares the two), and Numba's kernels read structs through the same dtypes. Every
field is 64 bits wide, so that no compiler has anything to pad.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array, address
from fastadam.memory.formats import FORMATS

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
    points_to : dict
        From the names of fields that hold addresses of arrays to the dtypes of those.
    """

    def __init__(self, name: str, says: str, *fields: str | Field) -> None:
        self.name, self.says = name, says
        self.fields = tuple(Field(each) if isinstance(each, str) else each for each in fields)
        self.dtype = np.dtype([(each.name, each.type) for each in self.fields])
        self.points_to = {each.name: each.points_to for each in self.fields if each.points_to is not None}
        TABLE[name] = self


class Block:
    """One struct in memory, which keeps alive what its fields point at.

    ``block["n"]`` reads a field, and ``block["n"] = 3`` sets one that holds a number or the address of an object;
    addresses of arrays are set by `point`.

    Parameters
    ----------
    struct : Struct

    Attributes
    ----------
    values : ndarray, shape ()
        The struct.
    address : int
        What native code gets; good as long as this object lives.
    """

    def __init__(self, struct: Struct) -> None:
        self._struct = struct
        self.values: Array = np.zeros((), struct.dtype)
        self.address = address(self.values)
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._struct.points_to:
            raise TypeError(f"{self._struct.name}.{name} is the address of an array; set it with point()")
        self.values[name] = value

    def point(self, name: str, array: Array) -> None:
        """Set the field `name` to the address of an array, and keep the array alive as long as it points there.

        Raises
        ------
        KeyError
            If the field does not hold the address of an array.
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
        # In this order: whenever an interrupt comes, what the field points at is alive.
        before = self._kept.get(name)
        self._kept[name] = array
        self.values[name] = address(array)
        del before

    def twin(self) -> Block:
        """Return another struct with the same values, which keeps the same arrays alive."""
        other = Block(self._struct)
        other._kept.update(self._kept)
        other.values[...] = self.values
        return other


class Constants(NamedTuple):
    """Constants that both sides know; in C their names begin with ``FASTADAM_``."""

    says: str
    values: dict[str, int]


# What cext/header.py writes: structs by name, and constants, in this order.
TABLE: dict[str, Struct] = {}
CONSTANTS: list[Constants] = []


def _constants(says: str, **values: int) -> tuple[int, ...]:
    CONSTANTS.append(Constants(says, values))
    return tuple(values.values())


def _reals(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, FLOAT64) for name in names)


TAKEN, CHANGED, OTHER_GRADIENTS, OTHER_STEPS = _constants(
    "What an attempt at a step returns. TAKEN: all that was asked for is done. From 0 on: the slot, or the "
    "parameter, whose gradient Python has to look at. The others are of PyTorch tensors: something is not what it "
    "was, other gradients are present, step counters are others than those that the rows were computed for. Where "
    "it is not TAKEN, nothing was written.",
    TAKEN=-1,
    CHANGED=-2,
    OTHER_GRADIENTS=-3,
    OTHER_STEPS=-4,
)

INSPECT, REDUCE, APPLY = _constants(
    "The stages of a step, which are run in this order: look at the gradients' objects and note where their "
    "numbers are; compute what has to be known of the whole before the first element is written, the rows of "
    "scalars; step all elements, and count the step.",
    INSPECT=1,
    REDUCE=2,
    APPLY=4,
)

COUNTER_INT64, COUNTER_FLOAT64, COUNTER_FLOAT32 = _constants(
    "The types of step counters.", COUNTER_INT64=0, COUNTER_FLOAT64=1, COUNTER_FLOAT32=2
)
(FLOAT32_END,) = _constants("Where a float32 counter ends: it counts no further.", FLOAT32_END=2**24)

_constants(
    "The formats of numbers (fastadam/memory/formats.py).", **{each.name.upper(): each.code for each in FORMATS}
)

# fastadam/step/variants.py packs and unpacks them.
AMSGRAD, L2, COMPUTE_AT, FORMATS_AT, FORMAT_BITS = _constants(
    "A compiled variant as one number: flags in the lowest 16 bits, then the format that is computed in, then "
    "those of the parameter, the gradient and the moments, in the order of the fields of a span.",
    AMSGRAD=1,
    L2=2,
    COMPUTE_AT=16,
    FORMATS_AT=24,
    FORMAT_BITS=8,
)

(BLOCK,) = _constants(
    "Elements of a block. Blocks are counted from the first element of each parameter, and threads share out "
    "whole ones. A power of two: so large that what is kept for each block is little beside its elements, so "
    "small that shares come out even. The smallest share of a batch that has several threads is 16 blocks.",
    BLOCK=1024,
)
(SHARES_PER_THREAD,) = _constants(
    "Shares of a batch for each thread, taken as the threads get to them: one that has to wait for its processor "
    "does not hold up the others.",
    SHARES_PER_THREAD=8,
)
(CHUNK,) = _constants(
    "Elements that are widened at a time, where they lie in memory in less than they are computed with: the five "
    "arrays of them fit the first-level cache, with what they were read from. A divisor of BLOCK.",
    CHUNK=512,
)

C_CONTIGUOUS, ALIGNED, WRITEABLE = _constants(
    "NumPy's public flag bits (NPY_ARRAY_*).", C_CONTIGUOUS=0x1, ALIGNED=0x100, WRITEABLE=0x400
)


class Varying(NamedTuple):
    """The scalars of the formula that move with the step."""

    step_size: float
    inv_sqrt_bias_correction2: float
    decay: float


class Constant(NamedTuple):
    """The scalars of the formula that options alone decide."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    eps: float
    l2: float
    grad_scale: float


class Rates(NamedTuple):
    """What the varying scalars are computed from, beside the number of the step."""

    lr: float
    log_beta1: float
    log_beta2: float
    weight_decay: float


ROW = Struct(
    "row",
    "The scalars that a step applies to a set of parameters; kernels narrow each to their compute dtype, once.",
    *_reals(*Varying._fields, *Constant._fields),
)

COUNTER = Struct("counter", "A step counter: its address, and its type (FASTADAM_COUNTER_*).", "address", "type")

ROW_INPUTS = Struct(
    "row_inputs",
    "What the varying scalars of a row are computed from, with the counter of the steps that it has taken.",
    *_reals(*Rates._fields),
    Field("counter", COUNTER.dtype),
)

# The arrays that a step goes through side by side.
ROLES = ("param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
SPAN = Struct(
    "span",
    "A contiguous run of real numbers that shares one row: addresses, a length, the row, and the caller's slot. "
    "It is one parameter where n_starts is 0; else n_starts of them, one after another, and starts is the address "
    "of where each begins, as int64 counted from the span's first element.",
    *ROLES,
    "size",
    "row",
    "slot",
    "starts",
    "n_starts",
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
