"""The memory that a step writes, and the check that no gradient is a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.devices import device_of


class Written:
    """The memory that a step writes, as sorted extents that do not meet.

    Parameters
    ----------
    owned : iterable of (array, label)
        Contiguous arrays; empty ones take no memory.

    Raises
    ------
    ValueError
        If two of them share memory.

    Attributes
    ----------
    starts, ends : ndarray of int64
        First byte of each extent, and the byte after its last.
    shapes_before : mapping of int to tuple
        By the addresses of parameters that were resized: the shapes that they had.
    """

    shapes_before: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType({})

    def __init__(self, owned: Iterable[tuple[Array, str]]) -> None:
        extents = sorted(
            ((device_of(array).extent(array), label, array) for array, label in owned if array.size),
            key=lambda each: each[0][0],
        )
        self.starts: Array = np.array([start for (start, _), _, _ in extents], dtype=np.int64)
        self.ends: Array = np.array([end for (_, end), _, _ in extents], dtype=np.int64)
        self._labels = [label for _, label, _ in extents]
        self._arrays = [array for _, _, array in extents]
        self._check()

    def joined(self, owned: Iterable[tuple[Array, str]]) -> Written:
        """Return all this and more, without looking at these arrays again.

        Parameters
        ----------
        owned : iterable of (array, label)
            As for the constructor.

        Raises
        ------
        ValueError
            If two of all these share memory.
        """
        more = Written(owned)
        both = Written(())
        starts, ends = (np.concatenate(each) for each in ((self.starts, more.starts), (self.ends, more.ends)))
        labels, arrays = self._labels + more._labels, self._arrays + more._arrays
        order = np.argsort(starts, kind="stable")
        both.starts, both.ends = starts[order], ends[order]
        both._labels, both._arrays = [labels[i] for i in order], [arrays[i] for i in order]
        both._check()
        return both

    def _check(self) -> None:
        for i in np.flatnonzero(self.ends[:-1] > self.starts[1:]):
            raise ValueError(
                f"{self._labels[i]} and {self._labels[i + 1]} share memory (or are the same array); give each "
                f"parameter once, or make one of them a copy before, and go on with that: w = w.copy()"
            )

    def owner(self, array: Array) -> str | None:
        """Return the label of an extent that shares memory with `array` (of any strides), or None."""
        if not array.size:
            return None
        device = device_of(array)
        low, high = device.extent(array)
        last = int(np.searchsorted(self.starts, high))
        first = int(np.searchsorted(self.ends, low, side="right"))
        for i in range(first, last):
            if device.is_contiguous(array) or np.shares_memory(array, self._arrays[i]):
                return self._labels[i]
        return None

    def check_gradient(self, value: Any, param: Array, label: str) -> Array:
        """Return the gradient `value` in the form that kernels read, without writing to it.

        Parameters
        ----------
        value : object
            An array on the device of `param`, of its dtype and shape; on the host of any strides, or a NumPy
            scalar for a 0-d `param`.
        param : array
            The parameter it belongs to.
        label : str
            How error messages call it.

        Returns
        -------
        array
            C-contiguous and aligned; `value` itself where that is so, else a copy.

        Raises
        ------
        TypeError
            If it is no array, or of another dtype.
        ValueError
            If its shape differs, or it shares memory with what the step writes.
        """
        device = device_of(param)
        try:
            grad = device.check_gradient(value, param, label)
        except ValueError as error:
            before = self.shapes_before.get(device.address(param), ())
            if not before or device.shape_of(value) not in before:
                raise
            raise ValueError(
                f"{label} has shape {device.shape_of(value)}, as its parameter had before it was resized "
                f"(optimizer.resize), which has {param.shape} now; compute it with the array that resize returned"
            ) from error
        owner = self.owner(grad)
        if owner is not None:
            raise ValueError(f"{label} shares memory with {owner}, which this step writes; pass a copy of it")
        return device.contiguous(grad)
