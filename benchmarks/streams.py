"""The roofline of a step: a loop that moves the same memory in the same way and computes almost nothing.

Like a step, it reads four streams and writes three of them back; it is compiled by Numba with the options of the
Numba kernels, and split over as many threads as a step of that size takes.
"""

from __future__ import annotations

import numba
import numpy as np

from fastadam.cli.contenders import Arrays, Step
from fastadam.memory.buffers import aligned_zeros
from fastadam.memory.structs import ROLES
from fastadam.step import threads

BYTES_PER_FLOAT32 = 28  # four reads and three writes


def _add(params, grads, exp_avgs, exp_avg_sqs):  # type: ignore[no-untyped-def]
    for i in range(params.size):
        params[i] += grads[i]
        exp_avgs[i] += grads[i]
        exp_avg_sqs[i] += grads[i]


_add_serial = numba.njit(error_model="numpy", nogil=True)(_add)


@numba.njit(error_model="numpy", nogil=True, parallel=True)
def _add_parallel(params, grads, exp_avgs, exp_avg_sqs, shares):  # type: ignore[no-untyped-def]
    share = ((params.size + shares - 1) // shares + 15) // 16 * 16
    for t in numba.prange(shares):
        low, high = t * share, min((t + 1) * share, params.size)
        _add_serial(params[low:high], grads[low:high], exp_avgs[low:high], exp_avg_sqs[low:high])


def copy_like(size: int, limit: int | None = None) -> Step:
    """Return the loop over buffers of their own.

    Parameters
    ----------
    size : int
        Number of float32 elements in each of the four buffers.
    limit : int or None
        Upper limit of threads, as of an optimizer.

    Returns
    -------
    callable
        Takes no arguments.
    """
    buffers: Arrays = [aligned_zeros(size, np.dtype(np.float32), role) for role in ROLES[:4]]
    for buffer in buffers:
        buffer[...] = 0.0  # takes up its pages
    count = threads.threads_for(size, threads.check_limit(limit))
    if count == 1:
        return lambda: _add_serial(*buffers)
    return lambda: _add_parallel(*buffers, count)
