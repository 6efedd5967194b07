"""Reads a safetensors file: through a memory map, in pieces."""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.checkpoint.format import CHUNK, DTYPES, again
from fastadam.memory.arrays import Array
from fastadam.memory.devices import device_of
from fastadam.step.backend import Call

WINDOW = 24 << 20  # bytes read before the pages that were mapped for them are given back


class Source:
    """An open safetensors file.

    Parameters
    ----------
    fd : int
        The open file.
    name : str
        Its name, for systems on which an open file cannot be opened once more.
    safe_open : callable
        That of the library, which finds out whether the file is whole.

    Attributes
    ----------
    metadata : dict of str
    tensors : dict
        ``(dtype, shape)`` of each tensor, in the format's names.
    tell : callable or None
        Called natively with the number of bytes just read, where it is set.

    Raises
    ------
    ValueError
        If it is no whole safetensors file.
    """

    def __init__(self, fd: int, name: str, safe_open: Any) -> None:
        self.tell: Callable[[int], object] | None = None
        self._left = WINDOW
        try:
            with safe_open(again(fd, name), framework="np") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                self.tensors: dict[str, tuple[str, list[int]]] = {}
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(key)
                    self.tensors[key] = part.get_dtype(), list(part.get_shape())
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            self._start = 8 + int.from_bytes(self._map[:8], "little")
            self._described = json.loads(self._map[8 : self._start])
        except Exception as error:  # the library's own errors are of no common class but this one
            raise ValueError(f"it is no whole safetensors file: {error}") from error

    def fill(self, name: str, target: Array) -> list[Call]:
        """Return native calls that copy a tensor, which has been found to fit, into a contiguous array.

        Raises
        ------
        ValueError
            If the file has not as many numbers.
        """
        device = device_of(target)
        reals = device.as_reals(target)
        low, high = (self._start + offset for offset in self._described[name]["data_offsets"])
        if high - low != reals.nbytes or high > len(self._map):
            raise ValueError(f"tensor {name!r} has {high - low} bytes in the file, its array has {reals.nbytes}")
        stored = np.frombuffer(self._map, np.uint8, high - low, low).view(DTYPES[self.tensors[name][0]])
        step = CHUNK // reals.itemsize
        calls: list[Call] = []
        for start in range(0, reals.size, step):
            piece = stored[start : start + step]
            calls += device.copy_calls(reals[start : start + step], piece)
            if self.tell is not None:
                calls.append(functools.partial(self.tell, piece.nbytes))
            self._left -= piece.nbytes
            if self._left <= 0:
                calls += self._give_back()
        return calls

    def _give_back(self) -> list[Call]:
        """Return the call that lets go of the pages that were mapped, which count as memory of this process."""
        self._left = WINDOW
        if not hasattr(mmap, "MADV_DONTNEED"):
            return []
        return [functools.partial(self._map.madvise, mmap.MADV_DONTNEED)]
