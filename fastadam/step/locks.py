"""A lock for each optimizer, made anew in forked children."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def give_lock(owner: Any) -> None:
    """Set ``owner._lock``, and ``owner._stepping`` to False.

    The lock is reentrant: a schedule or a signal handler may ask for the state while a step is under way.
    """
    owner._lock = threading.RLock()
    owner._stepping = False
    _owners.add(owner)


def _renew() -> None:
    """In a forked child: a thread that is not there any more may have held an optimizer's lock."""
    for owner in list(_owners):
        owner._lock = threading.RLock()
        owner._stepping = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
