"""Lists of gradients on the host, read by native code: their norm, and their scaling."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.backends import c
from fastadam.memory.arrays import Array
from fastadam.memory.formats import FORMATS
from fastadam.memory.native import Block, places_of
from fastadam.memory.structs import (
    BATCH,
    FORMAT_BITS,
    FORMATS_AT,
    MEASURE,
    MEASURES,
    NORM,
    PLAN,
    READ,
    REDUCE,
    REFUSED,
    REFUSES,
    SCALE,
    SPAN,
)
from fastadam.memory.tensor_structs import ELEMENT, GRADIENTS
from fastadam.step import threads
from fastadam.step.norm import Norm
from fastadam.torch.active import ELEMENTS_WITH_GIL
from fastadam.torch.devices import thread_limit
from fastadam.torch.native_attempt import tensor_reader
from fastadam.torch.tensor_offsets import tensor_offsets
from fastadam.torch.tensors import DTYPES, dlpack_dtype

LEAST_ROOM = 64
_ITEMSIZES = np.array([each.stored.itemsize for each in FORMATS])
_DTYPES = [getattr(torch, each.name) for each in FORMATS]
_GRAD_AT, _FORMAT_MASK = FORMATS_AT + FORMAT_BITS, (1 << FORMAT_BITS) - 1
# Where the words of structs are; the variant is a batch's first.
_BATCH_WORDS = len(BATCH.fields)
(_N_BATCHES,) = places_of(PLAN, "n_batches")
_WANTED, _MAX_NORM, _NORM, _SCALE = places_of(NORM, "wanted", "max_norm", "norm", "scale")


class NotNativeError(Exception):
    """Native code cannot read these gradients."""


@functools.cache
def _elements() -> Array:
    """Return what native code has to know of dtypes."""
    table = np.zeros(len(DTYPES), ELEMENT.dtype)
    for entry, (dtype, element) in zip(table, DTYPES.items(), strict=True):
        one = torch.empty(1, dtype=dtype, device="cpu")
        entry["dtype"], entry["format"] = dlpack_dtype(one), element.format.code
        entry["reals"], entry["itemsize"] = element.reals, one.element_size()
    return table


class _Room:
    """Room for a list of gradients as spans of a plan, which has their addresses while it is in use.

    Parameters
    ----------
    size : int
        How many there can be.

    Attributes
    ----------
    size : int
    norm : Norm
    """

    def __init__(self, size: int) -> None:
        self.size, self.norm = size, Norm()
        self._spans, self._batches = np.zeros(size, SPAN.dtype), np.zeros(size, BATCH.dtype)
        self._plan, self._block = Block(PLAN), Block(GRADIENTS)
        self._plan.point("spans", self._spans)
        self._plan.point("batches", self._batches)
        self._plan.point("norm", self.norm.block.values)
        block = self._block
        block["read_tensor"], block["offsets"] = tensor_reader(), tensor_offsets()
        block["tensor_type"], block["parameter_type"] = id(Tensor), id(torch.nn.Parameter)
        block.point("elements", _elements())
        block["n_elements"], block["plan"] = len(_elements()), self._plan.address
        block["capacity"], block["most"] = size, ELEMENTS_WITH_GIL
        self._read_and_run = functools.partial(
            c.lib.fastadam_run_on_gradients, c.ffi.cast("fastadam_gradients *", block.address)
        )
        self._run = functools.partial(c.lib.fastadam_run, c.ffi.cast("fastadam_plan *", self._plan.address))
        # Read and written faster than arrays.
        self.numbers: Any = self.norm.block.values.reshape(1).view(np.float64).data
        self.words: Any = self.norm.block.values.reshape(1).view(np.int64).data
        self._plan_words: Any = self._plan.values.reshape(1).view(np.int64).data
        self._variants: Any = self._batches.view(np.int64).data

    def run(self, grads: list[Tensor], stages: int) -> int:
        """Run stages over gradients, which the caller keeps; return what `fastadam.memory.structs` has for that.

        Raises
        ------
        NotNativeError
            If one of them is not what native code reads; nothing was written then.
        """
        outcome: int = self._read_and_run(id(grads), stages)
        if outcome >= 0:
            raise NotNativeError
        if outcome != READ:
            return outcome
        self._share_out(self._batches[: self._plan["n_batches"]], bool(stages & SCALE))
        return int(self._run(stages))

    def _share_out(self, batches: Array, writes: bool) -> None:
        """Give each batch its threads: one, where two of them would write the same memory."""
        limit = thread_limit(None)
        if writes:
            spans = self._spans[: batches["count"].sum()]
            formats = batches["variant"] >> _GRAD_AT & _FORMAT_MASK
            itemsizes = np.repeat(_ITEMSIZES[formats], batches["count"])
            used = spans["size"] > 0
            starts, nbytes = spans["grad"][used], (spans["size"] * itemsizes)[used]
            order = np.argsort(starts)
            if np.any((starts + nbytes)[order][:-1] > starts[order][1:]):
                limit = 1
        batches["threads"] = [threads.threads_for(each, limit) for each in batches["elements"].tolist()]
        self.norm.reserve(int(batches["threads"].max()))

    def dtype(self) -> torch.dtype:
        """Return the dtype of the norm of the gradients that were read: that which theirs have in common."""
        n = self._plan_words[_N_BATCHES]
        dtypes = [_DTYPES[self._variants[i * _BATCH_WORDS] >> _GRAD_AT & _FORMAT_MASK] for i in range(n)]
        return dtypes[0] if n == 1 else functools.reduce(torch.promote_types, dtypes)


# Those that are not in use: who needs one takes it out, so that no other thread and no signal's handler has it.
_rooms: deque[_Room] = deque(maxlen=8)


def _room_for(grads: Sequence[Tensor]) -> _Room:
    try:
        room = _rooms.pop()
    except IndexError:
        room = None
    if room is None or room.size < len(grads):
        if not tensor_reader():
            raise NotNativeError
        room = _Room(max(LEAST_ROOM, 2 * len(grads)))
    return room


def total_norm(
    grads: list[Tensor], *, max_norm: float | None = None, error_if_nonfinite: bool = False
) -> tuple[float, float, torch.dtype]:
    """Compute the norm of gradients, and clip them in place where `max_norm` is not None.

    Returns
    -------
    norm : float
    scale : float
        What they were multiplied by.
    dtype : torch.dtype
        Of the norm as torch returns it.

    Raises
    ------
    NotNativeError
        If one of them is not what native code reads; nothing was written then.
    ArithmeticError
        If the norm is not finite, and that is an error; nothing was written then.
    """
    room = _room_for(grads)
    room.words[_WANTED] = MEASURES | REFUSES if error_if_nonfinite else MEASURES
    room.numbers[_MAX_NORM] = math.inf if max_norm is None else max_norm
    outcome = room.run(grads, MEASURE | REDUCE | (0 if max_norm is None else SCALE))
    found = room.numbers[_NORM], room.numbers[_SCALE], room.dtype()
    _rooms.append(room)
    if outcome == REFUSED:
        raise ArithmeticError
    return found


def scale(grads: list[Tensor], factor: float) -> None:
    """Multiply gradients by a factor, in place.

    Raises
    ------
    NotNativeError
        If one of them is not what native code reads; nothing was written then.
    """
    room = _room_for(grads)
    room.words[_WANTED], room.numbers[_SCALE] = 0, factor
    room.run(grads, SCALE)
    _rooms.append(room)
