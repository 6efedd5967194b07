"""Counting a step of a plan, in native calls that no interrupt comes between."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastadam.memory.arrays import Array, array_at
from fastadam.step.plan import COUNTER_TYPES


class Counters:
    """A plan's step counters, and the native calls that count a step."""

    def __init__(self, counters: Array, memory: Array) -> None:
        self._counters, self._memory = counters, memory
        self._known: bytes | None = None
        self._views: list[Array] = []
        self._calls: list[Callable[[], object]] = []

    def counting(self) -> list[Callable[[], object]]:
        """Return the calls; they are made anew where the counters have changed."""
        own = self._counters[: self._memory["n_counters"]]
        found = own.tobytes()
        if found != self._known:
            self._views = [array_at(address, 1, COUNTER_TYPES[code]) for address, code in own.tolist()]
            self._calls = [functools.partial(np.add, view, 1, view) for view in self._views]
            self._known = found
        return self._calls

    def take_back(self) -> None:
        """Count one step less, which was not taken."""
        for view in self._views:
            view -= 1
