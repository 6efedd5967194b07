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


# PyTorch's tensors, as fastadam/torch/ and cext/tensors.c know them. Fields named *_object are addresses of Python
# objects, and none of them is a reference: each step finds its objects anew in the optimizer's lists and dicts,
# and only compares addresses.

# What an attempt at a step may find, beside the position of a parameter whose gradient needs care.
TAKEN, CHANGED, OTHER_GRADIENTS, OTHER_STEPS = -1, -2, -3, -4
# A float32 step counter counts no further than this.
FLOAT32_END = 2**24


class TensorOffsets(NamedTuple):
    """Where the parts of a torch tensor lie, in bytes (see `TENSOR_OFFSETS`)."""

    object_impl: int
    first: int
    length: int
    ndim: int
    sizes: int
    strides: int
    tail: int
    storage_data: int
    storage_size: int


TENSOR_OFFSETS = Struct(
    "tensor_offsets",
    "Where the parts of a torch tensor lie, in bytes: in its object, in its TensorImpl (the compared bytes: "
    "first and how many, of which those from ndim on describe layout and dtype; sizes, strides, and what follows "
    "them) and in its storage. All but object_impl are multiples of 8; the first word is the address of the "
    "storage. If length is 0, they are not known, and every tensor is asked.",
    *TensorOffsets._fields,
)

FINGERPRINT = Struct(
    "fingerprint",
    "What tells whether a tensor is what it was: where its TensorImpl is, and where the words that describe its "
    "layout and dtype are kept, which many tensors share: the less memory a step reads, the faster it is. After "
    "it stand the words of the TensorImpl that are its own, and those of its storage from the address to the "
    "size.",
    "impl",
    Field("layout", points_to=INT64),
)

CACHED_PARAM = Struct(
    "cached_param",
    "A parameter as it was last seen: the objects, where their numbers lie, and the layout that it shares with "
    "its gradient and moments. dims holds ndim lengths, then ndim strides. dtype is DLPack's: code + 2^8 bits + "
    "2^16 lanes; device is DLPack's type + 2^32 number. A moment that is not used has the object 0. fingerprints "
    "are those of the parameter, the step counter and the moments, or 0: then each tensor is asked.",
    *("param_object", "state_object", "step_object", *(f"{name}_object" for name in ROLES[2:])),
    *("fingerprints", "param", "step", *ROLES[2:]),
    "ndim",
    Field("dims", points_to=INT64),
    *("dtype", "device", "size", "nbytes", "step_is_float64"),
)

GROUP_LIST = Struct("group_list", "The list of a group's parameters, and its length.", "list_object", "length")

TENSOR_CACHE = Struct(
    "tensor_cache",
    "All parameters of an optimizer, with the containers that they are found in. read_tensor is DLPack's "
    "function dltensor_from_py_object_no_sync. state_keys and state_values are what the state dict held, in its "
    "order. Out: which gradients are present (bytes), each step counter, and new references to the gradients, "
    "until they are released.",
    *(
        "read_tensor",
        "tensor_type",
        "parameter_type",
        "none_object",
        "grad_name",
        "state_names",
        "is_neg",
        "is_conj",
    ),
    *("state_object", "n_state"),
    Field("state_keys", points_to=INT64),
    Field("state_values", points_to=INT64),
    Field("lists", points_to=GROUP_LIST.dtype),
    "n_lists",
    Field("params", points_to=CACHED_PARAM.dtype),
    "n",
    Field("present", points_to=np.dtype(np.uint8)),
    Field("steps", points_to=FLOAT64),
    Field("grads", points_to=INT64),
    Field("offsets", TENSOR_OFFSETS.dtype),
)

ACTIVE_PLAN = Struct(
    "active_plan",
    "The parameters that have a gradient: the plan of their step, each one's span in it or -1, and how many "
    "steps the members of each row have taken before, which the plan counts with the others.",
    "plan",
    Field("span_of", points_to=INT64),
    Field("steps_taken", points_to=FLOAT64),
)
