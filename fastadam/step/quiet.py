"""Work of NumPy's that says nothing of numbers that are not finite: they propagate, as in compiled code.

`numpy.errstate` is Python code, and an interrupt in it would leave the user's settings changed.
"""

from __future__ import annotations

import contextvars
import functools
from collections import deque
from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Any

import numpy as np

from fastadam.step.interrupts import in_one_go

_CALL = methodcaller("__call__")
_IN_CONTEXTS = np.lib.NumpyVersion(np.__version__) >= "2.0.0"  # where NumPy keeps what is to be done about them


class Quiet:
    """Makes native calls as under ``np.errstate(all="ignore")``, which leave what was set as it was."""

    def __init__(self) -> None:
        self._context = contextvars.Context()  # of its own: nothing outside is changed, whatever interrupts
        if _IN_CONTEXTS:
            self._context.run(np.seterr, all="ignore")

    def calls(self, calls: Iterable[Callable[[], object]]) -> list[Callable[[], object]]:
        """Return what makes these calls, once; for `fastadam.step.interrupts.in_one_go`."""
        go: Callable[[], object] = functools.partial(deque, map(_CALL, calls), 0)
        if _IN_CONTEXTS:
            return [functools.partial(self._context.run, go)]
        from numpy.core.umath import geterrobj, seterrobj

        size, _, function = geterrobj()
        return [functools.partial(seterrobj, [size, 0, function]), go, functools.partial(seterrobj, geterrobj())]

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a native function returns."""
        returned: list[Any] = []
        call = functools.partial(function, *arguments)
        in_one_go(self.calls([functools.partial(returned.extend, map(_CALL, [call]))]))
        return returned[0]
