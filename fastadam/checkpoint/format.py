"""The format of checkpoints: what is common to writing and reading them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastadam.groups.members import Member
from fastadam.memory.arrays import ALL_DTYPES

FORMAT, VERSION = "fastadam", "1"
# The format's names of dtypes, their sizes in bytes, and the names that our metadata give to dtypes.
CODES = {element.real: element.format.safetensors for element in ALL_DTYPES.values()}
SIZES = {code: dtype.itemsize for dtype, code in CODES.items()}
# The same dtypes as they lie in files.
DTYPES = {code: dtype.newbyteorder("<") for dtype, code in CODES.items()}
NAMES = {element.name: dtype for dtype, element in ALL_DTYPES.items()}
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


def stored_shape(shape: Sequence[int], dtype: np.dtype[Any]) -> list[int]:
    """Return the shape that a parameter's tensors have in a file, which has no complex dtypes."""
    return [*shape, 2] if dtype.kind == "c" else list(shape)


def again(fd: int, name: str) -> str:
    """Return a name by which the library can open an open file once more.

    Where there is /proc, it is not the file's own, under which another file may be by now, and which may hold
    bytes that are no UTF-8.
    """
    path = f"/proc/self/fd/{fd}"
    return path if os.path.exists(path) else name
