"""Arrays that arrive in memory that cannot be written: from loaders that share it, or map a file."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np


def make_own(value: Any) -> None:
    """Give an array memory of its own, in place, where what it has can be written by nobody.

    Unpicklers hand out such arrays (pickle protocol 5 with buffers out of band, as Ray and Dask use it; joblib
    with ``mmap_mode="r"``). In place, because whatever came in the same pickle has the same array object: a model
    goes on sharing its arrays with its optimizer.

    Parameters
    ----------
    value : object
        Anything. All but C-contiguous, read-only ndarrays over the read-only memory of another object are left as
        they are: so is an array that someone has made read-only, whose memory is not.
    """
    if not isinstance(value, np.ndarray) or value.flags.writeable or not value.flags.c_contiguous:
        return
    owner: Any = value
    while isinstance(owner, np.ndarray):
        owner = owner.base
    try:
        fixed = memoryview(owner).readonly
    except TypeError:  # no owner, or one that does not show its memory
        return
    if not fixed:
        return
    # Views of the array may be about, made as it was unpickled. They keep it alive, and so the memory they lie in.
    weakref.finalize(value, _keep, value.base).atexit = False
    state: Any = (1, value.shape, value.dtype, False, value.tobytes())
    np.ndarray.__setstate__(value, state)


def _keep(_: Any) -> None:
    """Do nothing: that this is to be called keeps its argument alive until then."""
