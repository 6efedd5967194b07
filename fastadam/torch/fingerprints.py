"""Fingerprints of tensors: what tells native code in a few nanoseconds whether a tensor is what it was.

The bytes of the object behind a tensor (torch calls it TensorImpl) do: if they, and the address and size in its
storage, are the same as when the tensor was last looked at through its methods, then so is everything about it.
Where they lie is found out by `fastadam.torch.tensor_offsets`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastadam.memory.arrays import Array, address
from fastadam.memory.structs import MOMENTS
from fastadam.memory.tensor_structs import FINGERPRINT, TensorOffsets
from fastadam.torch.tensors import lies_like, same_layout

WORD = 8
MOST_DIMS = 5  # more are not kept within a TensorImpl


class Fingerprint(NamedTuple):
    """What tells whether a tensor is what it was.

    Attributes
    ----------
    numbers : tuple of int
        Its TensorImpl, its storage, the address in that, and the size.
    own : bytes
        Of the TensorImpl, from the address of the storage to the layout.
    layout : bytes
        Of the TensorImpl: number of dimensions, lengths and strides (zero where not in use), offset, dtype and
        properties. The same for all tensors that are alike.
    owner : bytes
        Of the storage, from the address to the size: what owns the memory is between them.
    """

    numbers: tuple[int, ...]
    own: bytes
    layout: bytes
    owner: bytes


class Noted(NamedTuple):
    """Where the fingerprints of a parameter and its state are, good as long as `Fingerprints` lives.

    Attributes
    ----------
    first : int
        The address of the first `FINGERPRINT`.
    grad_layout : int
        Of the words that describe a gradient like the one noted, or 0.
    beside : int
        Of the first of what is beside the moments, or 0.
    """

    first: int
    grad_layout: int
    beside: int


NOTHING = Noted(0, 0, 0)


def words_at(start: int, count: int) -> list[int]:
    """Return words of memory as unsigned numbers; whoever asks knows that they are alive."""
    return list((ctypes.c_uint64 * count).from_address(start))


def fingerprint(tensor: Tensor, offsets: TensorOffsets) -> Fingerprint:
    """Return what tells whether a tensor is what it was, as far as its methods know."""
    storage = tensor.untyped_storage()
    # Asking for the address ends sharing with copies made on writing, so it comes first.
    data = storage.data_ptr()
    return _fingerprint_at((tensor._cdata, storage._cdata, data, storage.nbytes()), offsets)


def read_again(tensor: Tensor, offsets: TensorOffsets) -> Fingerprint:
    """Return the same as `fingerprint`, from memory alone, as native code reads it."""
    (impl,) = words_at(id(tensor) + offsets.object_impl, 1)
    (storage,) = words_at(impl + offsets.first, 1)
    data, size = words_at(storage + offsets.storage_data, 1) + words_at(storage + offsets.storage_size, 1)
    return _fingerprint_at((impl, storage, data, size), offsets)


def _fingerprint_at(numbers: tuple[int, ...], offsets: TensorOffsets) -> Fingerprint:
    first, ndim, sizes, strides = offsets.first, offsets.ndim, offsets.sizes, offsets.strides
    storage_data, storage_size = offsets.storage_data, offsets.storage_size
    impl, storage, *_ = numbers
    own, end = ctypes.string_at(impl + first, ndim - first), first + offsets.length
    (n,) = words_at(impl + ndim, 1)
    layout = bytearray(ctypes.string_at(impl + ndim, end - ndim))
    for start in (sizes, strides):  # what is not in use may hold anything
        layout[start - ndim + min(n, MOST_DIMS) * WORD : start - ndim + MOST_DIMS * WORD] = bytes(
            (MOST_DIMS - min(n, MOST_DIMS)) * WORD
        )
    owner = ctypes.string_at(storage + storage_data, storage_size + WORD - storage_data)
    return Fingerprint(numbers, own, bytes(layout), owner)


class Fingerprints:
    """The fingerprints of an optimizer's tensors, in memory that native code reads from front to back.

    Parameters
    ----------
    n : int
        Number of parameters.
    offsets : TensorOffsets or None
        See `fastadam.torch.tensor_offsets`; without them there are no fingerprints.
    """

    def __init__(self, n: int, offsets: TensorOffsets | None) -> None:
        self._offsets = offsets
        # Kept once for all tensors that are alike, as long as one of them is noted.
        self._layouts: weakref.WeakValueDictionary[bytes, Array] = weakref.WeakValueDictionary()
        self._layouts_of: dict[int, list[Array]] = {}
        if offsets is not None:
            own, owner = offsets.ndim - offsets.first, offsets.storage_size + WORD - offsets.storage_data
            each = (FINGERPRINT.dtype.itemsize + own + owner) // WORD
            # Of the parameter, the step counter and the moments.
            self._memory = np.zeros((n, 2 + len(MOMENTS), each), np.int64)
            self._beside: dict[int, Array] = {}

    def note(
        self,
        position: int,
        tensors: Sequence[Tensor],
        views: Sequence[Tensor],
        grad: Tensor,
        *,
        n_main: int,
        on_device: bool,
    ) -> Noted:
        """Take the fingerprints of a parameter and its state.

        Parameters
        ----------
        position : int
            Of the parameter.
        tensors : sequence of Tensor
            The parameter, its step counter, its moments, and what is beside them.
        views : sequence of Tensor
            What is known of them is known of these views.
        grad : Tensor
            A view of the gradient.
        n_main : int
            How many of the tensors each parameter has: all up to its moments.
        on_device : bool
            Whether they are on a CUDA device.

        Returns
        -------
        Noted
            Nothing but 0 where the tensors are such that they have to be asked in each step, or are not any more
            what their views are.
        """
        offsets = self._offsets
        if offsets is None or max(each.dim() for each in tensors) > MOST_DIMS or not tensors[0].numel():
            return NOTHING
        layouts = []
        rows = [*self._memory[position][:n_main]]
        first, beside, more = address(self._memory[position]), 0, len(tensors) - n_main
        if more:
            kept = self._beside[position] = np.zeros((more, self._memory.shape[2]), np.int64)
            rows, beside = [*rows, *kept], address(kept)
        for row, tensor, view in zip(rows, tensors, views, strict=True):
            found = fingerprint(tensor, offsets)
            if not lies_like(tensor, view):
                return NOTHING  # it has been changed since
            # torch keeps tensors on devices in the same structs, but the samples were on the CPU.
            if on_device and read_again(tensor, offsets) != found:
                return NOTHING
            layouts.append(layout := self._layout(found))
            row[0], row[1] = found.numbers[0], address(layout)
            row[2:] = np.frombuffer(found.own + found.owner, np.int64)
        of_grad: Array | None = layouts[0]
        if grad.dtype != views[0].dtype:
            of_grad = None
            if same_layout(grad, views[0]) and not on_device:
                layouts.append(of_grad := self._layout(fingerprint(grad, offsets)))
        self._layouts_of[position] = layouts
        return Noted(first, 0 if of_grad is None else address(of_grad), beside)

    def _layout(self, found: Fingerprint) -> Array:
        """Return the words of a layout, kept as long as they are in use."""
        layout = self._layouts.get(found.layout)
        if layout is None:
            layout = self._layouts[found.layout] = np.frombuffer(found.layout, np.int64)
        return layout
