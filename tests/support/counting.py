"""How much a call does, counted instead of timed: it is the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def operations(call: Callable[[], object]) -> int:
    """Return how many of Python's operations a call takes; what a function in C does counts as one."""
    done = 0

    def count(frame: Any, event: str, argument: object) -> Any:
        nonlocal done
        frame.f_trace_opcodes = True
        done += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    finally:
        sys.settrace(before)
    return done


class Name(str):
    """A name that counts how often it is compared with another one, by functions in C too."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def assert_linear(work: Callable[[int], Callable[[], object]], start: int = 100) -> None:
    """Fail if what is counted grows faster than the number of parameters.

    Parameters
    ----------
    work : callable
        Makes, for a number of parameters, the call that is counted.
    start : int
        The smallest of the numbers.
    """
    work(start)()  # what is done once, such as imports
    found = []
    for n in (start, 2 * start, 4 * start):
        call = work(n)
        compared = Name.compared
        found.append(operations(call) + (Name.compared - compared))
    first, second, third = found
    # From n to 2 n, and from there to 4 n: twice as much where it is linear, four times where it is quadratic.
    assert third - second <= 2.2 * (second - first) + 100, found
