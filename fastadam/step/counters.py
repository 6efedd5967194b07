"""Step counters in memory: numbers of several types, which native code raises where they lie."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array, address, array_at
from fastadam.memory.structs import COUNTER, COUNTER_FLOAT32, COUNTER_FLOAT64, COUNTER_INT64
from fastadam.step.backend import PartOfPlan

# By their codes.
COUNTER_TYPES: dict[int, np.dtype[Any]] = {
    COUNTER_INT64: np.dtype(np.int64),
    COUNTER_FLOAT64: np.dtype(np.float64),
    COUNTER_FLOAT32: np.dtype(np.float32),
}
_CODES = {dtype: code for code, dtype in COUNTER_TYPES.items()}
_READ: dict[int, Any] = {
    COUNTER_INT64: ctypes.c_int64,
    COUNTER_FLOAT64: ctypes.c_double,
    COUNTER_FLOAT32: ctypes.c_float,
}


def counters_in(steps: Array) -> Array:
    """Return where the elements of an array are, of one of `COUNTER_TYPES`, as an array of `COUNTER`.

    They are addresses: the caller keeps `steps` alive.
    """
    found = np.zeros(len(steps), COUNTER.dtype)
    found["address"] = address(steps) + steps.itemsize * np.arange(len(steps))
    found["type"] = _CODES[steps.dtype]
    return found


def read(where: int, code: int) -> float:
    """Return what a counter at an address says."""
    found: float = _READ[code].from_address(where).value
    return found


class Counting:
    """Counts the steps of a part of a plan, in native calls; what they need is kept from step to step.

    Parameters
    ----------
    part : PartOfPlan
    """

    def __init__(self, part: PartOfPlan) -> None:
        self._counters, self._memory = part.counters, part.memory
        self._known: bytes | None = None
        self._views: list[Array] = []
        self._calls: list[Callable[[], object]] = []

    def calls(self) -> list[Callable[[], object]]:
        """Return the calls that count one step, for `fastadam.step.interrupts.in_one_go`."""
        own = self._counters[: self._memory["n_counters"]]
        found = own.tobytes()
        if found != self._known:
            self._views = [array_at(where, 1, COUNTER_TYPES[code]) for where, code in own.tolist()]
            self._calls = [functools.partial(np.add, view, 1, view) for view in self._views]
            self._known = found
        return self._calls

    def take_back(self) -> None:
        """Count one step less, which was not taken."""
        for view in self._views:
            view -= 1
