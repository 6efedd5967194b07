"""What keeps an optimizer's steps and changes apart: a lock for each, made anew in forked children."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable

_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


class Guard:
    """The lock of one optimizer, and whether a step is under way.

    A step is written out where it is taken, since each call more would show in its time::

        with guard.lock:
            if guard.stepping:
                guard.refuse_while_stepping("step")
            try:
                guard.stepping = True
                ...
            finally:
                guard.stepping = False

    Attributes
    ----------
    lock : RLock
        Held by whoever steps or changes the optimizer. It is reentrant: a schedule or a signal handler may ask
        for the state while a step is under way, and is refused rather than left to wait for itself.
    stepping : bool
        Whether the thread that holds the lock is in the middle of a step; or `swapped`.
    swapped : bool
        Whether the parameters have changed places with their averages: nobody may step or change the optimizer
        then, nor read its state.
    """

    __slots__ = ("__weakref__", "lock", "stepping", "swapped")

    def __init__(self) -> None:
        self.swapped = False
        self.renew()
        _guards.add(self)

    def renew(self) -> None:
        """Forget who holds the lock."""
        self.lock = threading.RLock()
        self.stepping = self.swapped

    def swap_calls(self, swapped: bool) -> list[Callable[[], object]]:
        """Return native calls that note whether parameters and averages have changed places."""
        return [functools.partial(setattr, self, name, swapped) for name in ("swapped", "stepping")]

    def refuse_while_stepping(self, what: str) -> None:
        """Refuse what a schedule or a signal handler asks for in the middle of this thread's own step.

        And what is asked for while averages are in the place of the parameters.

        Parameters
        ----------
        what : str
            The method that was called.

        Raises
        ------
        RuntimeError
            If a step is under way, or such a block.
        """
        if self.swapped:
            raise RuntimeError(
                f"{what} was called within a block of `with optimizer.averaged()`, in which averages are in the "
                f"place of the parameters; call it after the block"
            )
        if self.stepping:
            raise RuntimeError(f"{what} was called while a step of this optimizer is under way")


def _renew() -> None:
    """In a forked child: a thread that is not there any more may have held an optimizer's lock."""
    for guard in list(_guards):
        guard.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
