"""Numba's threads: which layer has them, and that no more are asked for than can be had.

OpenMP's runtimes end the process when a thread cannot be made, and Numba's workqueue layer waits for ever for one
that could not. So as many threads as they are about to make are made and ended on trial, before they are asked.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

from fastadam.step.backend import Call
from fastadam.step.threads import can_be_started


@functools.cache
def threading_layer() -> str:
    """Start Numba's threads, unless they run already, and return their layer's name or ``"none"``.

    It is ``"none"``, too, where the system refuses to make as many threads as Numba asks for.
    """
    import numba
    from numba.np.ufunc.parallel import _launch_threads

    try:
        try:
            return str(numba.threading_layer())  # they run
        except ValueError:
            wanted = numba.config.NUMBA_NUM_THREADS
            if can_be_started(wanted) < wanted:
                return "none"
            _launch_threads()
            return str(numba.threading_layer())
    except (ImportError, ValueError):  # the layer that was asked for cannot be loaded
        return "none"


class _Known(threading.local):
    """On how many threads this thread's last parallel kernel has run: OpenMP and TBB keep them."""

    threads = 1


_known = _Known()


def team_is_there() -> bool:
    """Whether this thread's last parallel kernel has run on as many threads as the next one will ask for."""
    from numba.np.ufunc import parallel

    return threading_layer() == "workqueue" or bool(parallel._get_num_threads() == _known.threads)


def on_a_team(calls: Sequence[Call]) -> list[Call]:
    """Return native calls of parallel kernels so that they ask for no more threads than there can be.

    Parameters
    ----------
    calls : sequence of callable
        Native ones, to be made in one go by this thread.

    Returns
    -------
    list of callable
        With Numba's own number of threads lowered before them, and put back after them, where that is needed.
    """
    if team_is_there():
        return list(calls)
    from numba.np.ufunc import parallel

    wanted = parallel._get_num_threads()
    needed = wanted - _known.threads
    found = can_be_started(needed) if needed > 0 else needed
    if found == needed:  # those that are not needed may end
        _known.threads = wanted
        return list(calls)
    fewer = functools.partial(parallel._set_num_threads, _known.threads + found // 2)
    return [fewer, *calls, functools.partial(parallel._set_num_threads, wanted)]
