"""Ufuncs that say nothing of numbers that are not finite: they propagate, as in compiled code."""

from __future__ import annotations

import contextvars
import functools
from collections import deque
from collections.abc import Callable, Iterable
from operator import methodcaller

import numpy as np

_CALL = methodcaller("__call__")
_IN_CONTEXTS = np.lib.NumpyVersion(np.__version__) >= "2.0.0"  # where NumPy keeps what is to be done about them


class Quiet:
    """Makes native calls under ``np.errstate(all="ignore")``, itself by native calls, and leaves what was set."""

    def __init__(self) -> None:
        self._context = contextvars.Context()  # of its own: nothing outside is changed, whatever interrupts
        if _IN_CONTEXTS:
            self._context.run(np.seterr, all="ignore")

    def calls(self, calls: Iterable[Callable[[], object]]) -> list[Callable[[], object]]:
        """Return what makes these calls quietly, once; for `fastadam.step.interrupts.in_one_go`."""
        go: Callable[[], object] = functools.partial(deque, map(_CALL, calls), 0)
        if _IN_CONTEXTS:
            return [functools.partial(self._context.run, go)]
        from numpy.core.umath import geterrobj, seterrobj

        size, _, function = geterrobj()
        return [functools.partial(seterrobj, [size, 0, function]), go, functools.partial(seterrobj, geterrobj())]
