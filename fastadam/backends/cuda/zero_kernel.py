"""The kernel that lets memory be zero. Importing this module imports numba-cuda."""

from __future__ import annotations

import numpy as np
from numba import cuda

from fastadam.backends.cuda.device_functions import HALF, PAIR, WORD, make_load, make_store
from fastadam.backends.cuda.kernels import BLOCK, VECTOR_BYTES

# A run of bytes: where it begins, how many there are, and its first block of threads. Its blocks are those from
# that to the next one's.
RUN = np.dtype([(name, np.int64) for name in ("start", "nbytes", "first_block")])
RUN_BYTES = RUN.itemsize
BYTES_OF_BLOCK = BLOCK * VECTOR_BYTES
# No number that is stepped is shorter.
SHORTEST = 2
NO_PAIRS, NO_HALF = (np.uint32(0),) * 4, (np.uint16(0),)

load_word = make_load(WORD, 1)
store_pairs, store_half = make_store(PAIR, 4), make_store(HALF, 1)


def zeros(runs, n_runs):
    """Let runs of bytes be zero.

    Parameters
    ----------
    runs : int
        The address of rows of `RUN`, none of which is empty.
    n_runs : int
    """
    block = WORD(cuda.blockIdx.x)
    # The last run whose first block is not behind this one.
    low, high = WORD(0), n_runs
    while high - low > WORD(1):
        middle = (low + high) >> WORD(1)
        if load_word(runs + middle * RUN_BYTES + 16)[0] <= block:
            low = middle
        else:
            high = middle
    run = runs + low * RUN_BYTES
    start, nbytes, first_block = load_word(run)[0], load_word(run + 8)[0], load_word(run + 16)[0]
    at = ((block - first_block) * WORD(BLOCK) + WORD(cuda.threadIdx.x)) * VECTOR_BYTES
    if at + VECTOR_BYTES <= nbytes and start % VECTOR_BYTES == 0:
        store_pairs(start + at, NO_PAIRS)
    else:
        end = min(at + VECTOR_BYTES, nbytes)
        while at < end:
            store_half(start + at, NO_HALF)
            at += SHORTEST
