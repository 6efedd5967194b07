"""The format of checkpoints: what is common to writing and reading them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastadam.groups.members import Member
from fastadam.memory.formats import ELEMENTS, INT8, ROOT8, Element
from fastadam.step.precision import Kept

FORMAT, VERSION = "fastadam", "1"
# The format's names of dtypes (16 bits without a sign are those of a bfloat16), and their sizes in bytes.
CODES = {
    **{element.real: element.format.safetensors for element in ELEMENTS.values()},
    **{each.stored: each.safetensors for each in (INT8, ROOT8)},
    np.dtype(np.int16): "I16",
    np.dtype(np.int64): "I64",
}
SIZES = {code: dtype.itemsize for dtype, code in CODES.items()}
# The same dtypes as they lie in files.
DTYPES = {code: dtype.newbyteorder("<") for dtype, code in CODES.items()}
# What can be in front of the first "/" in a tensor's name; all behind it is the parameter's name or position.
PARAM = "param"
CHUNK = 4 << 20  # bytes copied at a time

Advance = Callable[[int], object]  # called with the number of bytes just done


def import_safetensors() -> Any:
    """Return ``safetensors.safe_open``; imported here, so that ``import fastadam`` stays light."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            "fastadam.save and fastadam.load need the package safetensors: pip install safetensors"
        ) from error
    return safe_open


def check_unchanged(member: Member) -> None:
    """Refuse an array whose shape, dtype or memory was exchanged in place after the optimizer took it."""
    array = member.device.look_again(member.owner, member.array, member.label)
    unchanged = (array.shape, array.dtype) == (member.shape, member.dtype)
    if not unchanged or not member.device.is_contiguous(array):
        raise ValueError(
            f"{member.label} was {member.dtype} of shape {member.shape} and is now {array.dtype} of shape "
            f"{array.shape}; give it back its shape and dtype, or make a new optimizer for it"
        )
    member.check_unchanged()


def stored_shape(shape: Sequence[int], element: Element, kept: Kept | None = None) -> list[int]:
    """Return the shape that a parameter's tensors have in a file, which has no complex dtypes.

    Parameters
    ----------
    shape : sequence of int
        The parameter's.
    element : Element
        What its elements are.
    kept : Kept, optional
        How the tensor lies in memory; by default as the parameter.
    """
    if kept is not None and kept.stored is not None:
        return list(kept.shape(tuple(shape), element.reals))
    return [*shape, 2] if element.reals > 1 else list(shape)


def again(fd: int, name: str) -> str:
    """Return a name by which the library can open an open file once more.

    Where there is /proc, it is not the file's own, under which another file may be by now, and which may hold
    bytes that are no UTF-8.
    """
    path = f"/proc/self/fd/{fd}"
    return path if os.path.exists(path) else name
