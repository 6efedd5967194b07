"""Reads a safetensors file: through a memory map, in pieces."""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam.checkpoint.format import CHUNK, DTYPES, again
from fastadam.memory.arrays import Array
from fastadam.memory.devices import device_of
from fastadam.step.backend import Call

WINDOW = 24 << 20  # bytes read before the pages that were mapped for them are given back


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes
    ----------
    kind : (str, tuple of int)
        Its dtype, in the format's names, and its shape; the same object for all that are alike.
    low : int
        Where its bytes begin, behind the header.
    """

    kind: tuple[str, tuple[int, ...]]
    low: int


def _shorter() -> Callable[[list[tuple[str, Any]]], Any]:
    """Return what makes a `Stored` of each tensor that JSON describes, at once: dicts take much memory."""
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]] = {}

    def shorter(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if not isinstance(found.get("shape"), list):  # the metadata, or all
            return found
        kind = found["dtype"], tuple(found["shape"])
        return Stored(kinds.setdefault(kind, kind), found["data_offsets"][0])

    return shorter


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
    tensors : dict of Stored
        By the tensors' names.
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
            # It checks all, in several times the memory of the header, and is let go before that is read here.
            with safe_open(again(fd, name), framework="np"):
                pass
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(self._map[:8], "little")
            described = json.loads(self._map[8:start], object_pairs_hook=_shorter())
            self.metadata: dict[str, str] = described.pop("__metadata__", None) or {}
            self.tensors: dict[str, Stored] = described
            self._bytes = np.frombuffer(self._map, np.uint8)[start:]
        except Exception as error:  # the library's own errors are of no common class but this one
            raise ValueError(f"it is no whole safetensors file: {error}") from error

    def fill(self, tensor: Stored, target: Array, first: int = 0) -> list[Call]:
        """Return native calls that copy a tensor, which has been found to fit, into a contiguous array.

        Or, of a larger tensor, a run of its numbers, from the one with the number `first` on.

        Raises
        ------
        ValueError
            If the file has not as many numbers.
        """
        device = device_of(target)
        reals = device.as_reals(target)
        (dtype, _), low = tensor
        low += first * target.dtype.itemsize
        found = self._bytes[low : low + reals.nbytes]
        if found.size != reals.nbytes:
            raise ValueError(f"a tensor has {found.size} bytes in the file, its array has {reals.nbytes}")
        stored = found.view(DTYPES[dtype])
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
