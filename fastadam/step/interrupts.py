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

from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Any

_CALL = methodcaller("__call__")


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
