"""How many threads a step may use."""

from __future__ import annotations

import functools
import os
import threading
import time

import numpy as np

from fastadam.memory.structs import ELEMENTS_PER_THREAD as ELEMENTS_PER_THREAD

MOST = 256  # more would only fail to start
SPARE = 2  # threads tried beyond those that are needed
MOST_LOOKS = 1000  # for each of them that has ended and is still there

_forbidden = False


def forbid() -> None:
    """Use one thread from now on: this process is a forked child."""
    global _forbidden
    _forbidden = True


def are_forbidden() -> bool:
    """Whether there is to be one thread only: this process is a forked child."""
    return _forbidden


@functools.cache
def limit_from_environment() -> int | None:
    """Return what ``FASTADAM_NUM_THREADS`` says, or None where it is not set.

    Raises
    ------
    ValueError
        If it is no number from 1 to 256.
    """
    own = os.environ.get("FASTADAM_NUM_THREADS")
    if own is None:
        return None
    try:
        return check_limit(int(own))
    except ValueError:
        raise ValueError(f"FASTADAM_NUM_THREADS must be a number from 1 to {MOST}, got {own!r}") from None


@functools.cache
def default_limit() -> int:
    """Return the limit that applies where ``threads=None`` was given (see `default_limit_and_source`)."""
    return default_limit_and_source()[0]


def default_limit_and_source() -> tuple[int, str]:
    """Return the limit that applies where ``threads=None`` was given, and what sets it.

    The environment variables ``FASTADAM_NUM_THREADS`` and ``OMP_NUM_THREADS`` set it, in this order; else it
    is the number of processors this process may run on.

    Raises
    ------
    ValueError
        If ``FASTADAM_NUM_THREADS`` is no number from 1 to 256.
    """
    own = limit_from_environment()
    if own is not None:
        return own, "FASTADAM_NUM_THREADS"
    shared = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if shared.isdecimal() and int(shared) > 0:
        return min(int(shared), MOST), "OMP_NUM_THREADS"
    return min(processors(), MOST), "processors"


def processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_limit(threads: int | None) -> int:
    """Return the upper limit of threads that `threads` asks for.

    Raises
    ------
    TypeError
        If it is neither an int nor None.
    ValueError
        If it is out of range.
    """
    if threads is None:
        return default_limit()
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise TypeError(f"threads must be an int or None, got {threads!r}")
    threads = int(threads)
    if not 1 <= threads <= MOST:
        raise ValueError(f"threads must be from 1 to {MOST}, got {threads}")
    return threads


def threads_for(elements: int, limit: int) -> int:
    """Return how many threads a batch of this many real numbers gets: at least 1, at most `limit`."""
    if _forbidden:
        return 1
    return max(1, min(limit, elements // ELEMENTS_PER_THREAD))


def can_be_started(n: int) -> int:
    """Return how many threads, of `n` that are about to be made, the system would make now.

    As many are started and ended, with some to spare, for what whoever makes them needs besides. What they leave
    behind is used again by the next ones.
    """
    gate = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(n + SPARE):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):  # no thread to be had
        pass
    finally:
        gate.set()
        for thread in started:
            thread.join()
    for thread in started:
        for _ in range(MOST_LOOKS):  # one that was joined counts against limits for a little longer
            if not os.path.exists(f"/proc/self/task/{thread.native_id}"):
                break
            time.sleep(0)
    return min(n, len(started))
