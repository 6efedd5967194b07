"""What must not stop midway: work that is prepared, and then done by native calls alone.

Python calls a signal's handler between two operations of the main thread, and what the handler raises (for
Ctrl-C KeyboardInterrupt) stops the operation that comes next; an exception that one thread injects into another
arrives there, too. Native calls that follow each other with no operation in between are never stopped. So work
has two parts. The first may be interrupted, and writes nothing that a user sees: it looks at everything,
reserves all memory and raises what is to be raised. The second is a list of native calls that do not fail, made
by `in_one_go`. Nothing of the interpreter's is touched for it: no handler, no flag, no mask of signals.

Finalizers are the one way in which Python code can run in the middle: before CPython 3.12 the garbage collector
may look for work within any native call, and a value that is replaced may be the last reference to an object of
the user's. A handler may then be called within the finalizer. Python prints and drops whatever is raised there,
as it does everywhere else, so that the work is done to its end in any case.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from operator import methodcaller
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
_CALL = methodcaller("__call__")

# The signals whose handlers wait: those that ask a process to stop, to look up, or tell that its time is over.
_NAMES = ("INT", "TERM", "HUP", "QUIT", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "XCPU", "BREAK")
SIGNALS = tuple(getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}"))


def in_one_go(calls: Iterable[Callable[[], object]]) -> list[Any]:
    """Call native functions one after the other, with no operation of the interpreter in between.

    Parameters
    ----------
    calls : iterable of callable
        Implemented natively, and so is the iterable, and all that they call: Python code among them could be
        interrupted. Bound methods of C types, `functools.partial` of them, ufuncs with ``out``, ``operator`` and
        ``setattr`` on objects without a ``__setattr__`` of their own are; most functions of NumPy's are not, such
        as `numpy.copyto` and `numpy.where`, since a function in Python tells NumPy which arguments are arrays.

    Returns
    -------
    list
        What they have returned.
    """
    return list(map(_CALL, calls))


def in_one_go_while(value: int, calls: Iterable[Callable[[], int]]) -> int:
    """Make native calls as `in_one_go` does, up to the first that returns another number than `value`.

    Returns
    -------
    int
        That number; `value` if all have returned it.
    """
    return next(filter(value.__ne__, map(_CALL, calls)), value)


def uninterrupted(work: Callable[[], Result]) -> Result:
    """Return what `work` returns; handlers of signals that arrive meanwhile are called when it is done.

    Parameters
    ----------
    work : callable
        Called once, without arguments.

    Raises
    ------
    BaseException
        What `work` raises; or, after it, what a handler that had to wait raises.

    Notes
    -----
    Handlers run in the main thread only, so that in others there is nothing to do. Signals that are ignored, that
    end the process or whose handlers are not Python's are left alone.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    desk = _Desk()
    try:
        desk.open()
        return work()
    finally:
        desk.close()


class _Desk:
    """Takes signals in the place of their handlers, and hands them over later."""

    def __init__(self) -> None:
        found = ((number, signal.getsignal(number)) for number in SIGNALS)
        self._handlers: dict[int, Any] = {number: handler for number, handler in found if callable(handler)}
        self._waiting: dict[int, FrameType | None] = {}
        self._is_open = True

    def open(self) -> None:
        try:
            for number in self._handlers:
                signal.signal(number, self._take)
        except ValueError:  # an interpreter in which no handlers run
            self._handlers.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._is_open:
            self._waiting.setdefault(number, frame)
        else:  # another signal's handler raised before this one's was given back
            self._handlers[number](number, frame)

    def close(self) -> None:
        try:
            self._give_back()
        finally:
            self._is_open = False
            self._hand_over()

    def _give_back(self) -> None:
        try:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == self._take:  # else it was exchanged meanwhile, and stays so
                    signal.signal(number, handler)
        except BaseException:  # raised by a handler that was given back; the rest has to be, too
            self._give_back()
            raise

    def _hand_over(self) -> None:
        if self._waiting:
            number, frame = self._waiting.popitem()
            try:
                self._handlers[number](number, frame)
            finally:
                self._hand_over()
