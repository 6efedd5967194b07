"""What Python and native code share about PyTorch's tensors, as fastadam/torch/ and cext/tensors.c know them.

Fields named ``*_object`` are addresses of Python objects, as are those that point to keys and values:
`fastadam.torch.cache.TensorCache` holds a reference to each, so that no address can become another object's, and
native code may read what it finds there. `fastadam.memory.structs` says how structs are made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastadam.memory.native import FLOAT64, INT64, Field, Struct
from fastadam.memory.structs import ROLES


class TensorOffsets(NamedTuple):
    """Where the parts of a torch tensor lie, in bytes (see `TENSOR_OFFSETS`)."""

    object_impl: int
    first: int
    length: int
    ndim: int
    sizes: int
    strides: int
    offset: int
    keys: int
    storage_data: int
    storage_size: int
    views: int


TENSOR_OFFSETS = Struct(
    "tensor_offsets",
    "Where the parts of a torch tensor lie, in bytes: in its object, in its TensorImpl (the compared bytes: "
    "first and how many, of which those from ndim on describe layout and dtype: number of dimensions, sizes, "
    "strides, offset into the storage, and more up to the keys) and in its storage. All but object_impl are "
    "multiples of 8; the first word is the address of the storage. views has those bits of the keys that are set "
    "where memory does not hold the numbers themselves: negated or conjugated on reading, or all zero.",
    *TensorOffsets._fields,
)

ELEMENT = Struct(
    "element",
    "What numbers tensors of one dtype hold: DLPack's dtype, as in cached_param, the format, how many real "
    "numbers an element is, and its size in bytes.",
    *("dtype", "format", "reals", "itemsize"),
)

GRADIENTS = Struct(
    "gradients",
    "What a list of gradients is read with, and the plan whose spans and batches are written, which have room for "
    "as many as capacity. most is how many numbers are read or scaled at once, without letting other threads of "
    "Python run.",
    *("read_tensor", "tensor_type", "parameter_type"),
    Field("elements", points_to=ELEMENT.dtype),
    "n_elements",
    "plan",
    *("capacity", "most"),
    Field("offsets", TENSOR_OFFSETS.dtype),
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
    "2^16 lanes; device is DLPack's type + 2^32 number. A moment that is not used has the object 0. entry_keys "
    "are the keys under which the state has the step counter and the moments. fingerprints are those of the "
    "parameter, the step counter and the moments, or 0: then each tensor is asked. Where there is more in the "
    "state, masters and scales, beside has n_beside objects and then their keys, and there are fingerprints of "
    "them; without any, such tensors count as changed. Of a gradient as it was last seen there are dtype and size "
    "in bytes, and the words of its layout, or 0.",
    *("param_object", "state_object", "step_object", *(f"{name}_object" for name in ROLES[2:])),
    Field("entry_keys", points_to=INT64),
    *("fingerprints", "param", "step", *ROLES[2:]),
    "ndim",
    Field("dims", points_to=INT64),
    *("dtype", "device", "size", "nbytes", "step_is_float64"),
    *("grad_dtype", "grad_nbytes"),
    Field("grad_layout", points_to=INT64),
    "n_beside",
    Field("beside", points_to=INT64),
    "beside_fingerprints",
)

GROUP_LIST = Struct("group_list", "The list of a group's parameters, and its length.", "list_object", "length")

TENSOR_CACHE = Struct(
    "tensor_cache",
    "All parameters of an optimizer, with the containers that they are found in. read_tensor is DLPack's "
    "function dltensor_from_py_object_no_sync. state_keys and state_values are what the state dict held, in its "
    "order. Out: which gradients are present (bytes), and each step counter.",
    *("read_tensor", "tensor_type", "parameter_type", "none_object", "grad_name"),
    *("state_object", "n_state"),
    Field("state_keys", points_to=INT64),
    Field("state_values", points_to=INT64),
    Field("lists", points_to=GROUP_LIST.dtype),
    "n_lists",
    Field("params", points_to=CACHED_PARAM.dtype),
    "n",
    Field("present", points_to=np.dtype(np.uint8)),
    Field("steps", points_to=FLOAT64),
    Field("offsets", TENSOR_OFFSETS.dtype),
)

ACTIVE_PLAN = Struct(
    "active_plan",
    "The parameters that have a gradient: the plan of their step, each one's span in it or -1, its span that is "
    "IDLE or -1, how many steps the members of each row have taken before, which the plan counts with the others, "
    "and whether the step is so short that other threads of Python wait for it. Where leaves_out is 1, they are "
    "all that can have one, each has a row of its own, and those without a gradient are left out.",
    "plan",
    Field("span_of", points_to=INT64),
    Field("idle_of", points_to=INT64),
    Field("steps_taken", points_to=FLOAT64),
    *("keeps_gil", "leaves_out"),
)
