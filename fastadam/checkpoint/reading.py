"""Reads a safetensors file: through a memory map, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fastadam.checkpoint.format import CHUNK, Advance, again
from fastadam.memory.arrays import Array
from fastadam.memory.devices import device_of

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
        That of the library.

    Attributes
    ----------
    metadata : dict of str
    tensors : dict
        ``(dtype, shape)`` of each tensor, in the format's names.
    advance : callable
        Called with the number of bytes just read; can be set.
    has_begun : bool
        Whether numbers have been asked for.

    Raises
    ------
    ValueError
        If it is no whole safetensors file.
    """

    def __init__(self, fd: int, name: str, safe_open: Any) -> None:
        self._name = again(fd, name)
        self._safe_open = safe_open
        self._left = 0
        self.advance: Advance = lambda done: None
        self.has_begun = False
        try:
            self._open()
            self.metadata: dict[str, str] = self._file.metadata() or {}
            self.tensors: dict[str, tuple[str, list[int]]] = {}
            for key in self._file.keys():  # noqa: SIM118 - it is no mapping
                part = self._file.get_slice(key)
                self.tensors[key] = part.get_dtype(), list(part.get_shape())
        except Exception as error:  # the library's own errors are of no common class but this one
            raise ValueError(f"it is no whole safetensors file: {error}") from error

    def _open(self) -> None:
        # Mapped pages that have been read count as memory of this process until they are unmapped.
        self._file = self._safe_open(self._name, framework="np")
        self._left = WINDOW

    def read(self, name: str, target: Array) -> None:
        """Copy a tensor, which has been found to fit, into a contiguous array."""
        self.has_begun = True
        reals = device_of(target).as_reals(target)
        shape = self.tensors[name][1]
        if not shape:  # a slice needs a dimension
            reals[...] = self._file.get_tensor(name)
            self.advance(reals.nbytes)
            return
        start = 0
        for block in blocks(shape, CHUNK // reals.itemsize):
            if self._left <= 0:
                self._open()
            # Made anew for each block, because it holds the mapping.
            piece = self._file.get_slice(name)[block].reshape(-1)
            reals[start : start + piece.size] = piece
            start += piece.size
            self._left -= piece.nbytes
            self.advance(piece.nbytes)
        if start != reals.size:
            raise OSError(f"tensor {name!r} ended after {start} of {reals.size} numbers")


def blocks(shape: list[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Yield the blocks of an array, in memory order, of at most `most` elements each."""
    if 0 in shape:
        return
    row = math.prod(shape[1:])
    if row <= most:
        step = most // row
        yield from ((slice(i, min(i + step, shape[0])),) for i in range(0, shape[0], step))
        return
    for i in range(shape[0]):
        yield from ((slice(i, i + 1), *rest) for rest in blocks(shape[1:], most))
