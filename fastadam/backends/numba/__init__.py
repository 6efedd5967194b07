"""The Numba backend: the formula of element.py, compiled for this processor when it is first needed.

Compiled kernels are kept in Numba's cache on disk, where one can be written. A kernel that runs on several
threads is used only on the threading layers that Python threads may enter at once (TBB and OpenMP). Numba's
workqueue layer ends the process when they do: on it a step takes one thread, unless ``threads`` was given;
then such steps take turns.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastadam.memory.array_offsets import array_offsets
from fastadam.memory.structs import APPLY, INSPECT, REDUCE, TAKEN
from fastadam.step.backend import PartOfPlan, Run
from fastadam.step.interrupts import in_one_go

Kernel = Callable[[int, int, int], int]  # see fastadam.backends.numba.kernels.make_kernel

_compiling = threading.RLock()
_taking_turns = threading.Lock()


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Look for no garbage meanwhile, in all threads.

    Importing Numba and loading a kernel from its cache make very many objects that stay. To look through them
    again and again would take a fifth of all the time until the first step.
    """
    was_on = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_on:
            gc.enable()


@functools.cache
def why_missing() -> str | None:
    """Return why Numba cannot be used here, or None if it can."""
    try:
        with _compiling, _no_collections():  # a child that is forked meanwhile would go on without
            import numba
    except Exception as error:  # a broken install raises all sorts of errors
        return f"numba cannot be imported ({type(error).__name__}: {error}); try: pip install --upgrade numba"
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing; unset it"
    return None


@functools.cache
def threading_layer() -> str:
    """Start Numba's threads, unless they run already, and return their layer's name or ``"none"``."""
    import numba
    from numba.np.ufunc.parallel import _launch_threads

    try:
        _launch_threads()
        return str(numba.threading_layer())
    except (ImportError, ValueError):  # the layer that was asked for cannot be loaded
        return "none"


def cache_folder() -> str | None:
    """Return the folder in which compiled kernels are kept, or None where Numba finds none to write to."""
    from numba.core.caching import FunctionCache

    from fastadam.backends.numba.kernels import make_kernel

    try:
        return str(FunctionCache(make_kernel(0, False)).cache_path)
    except Exception:  # as in _compile: any trouble with the cache means going without
        return None


def bind(part: PartOfPlan) -> Run:
    """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`)."""
    can_inspect = array_offsets() is not None
    on_threads = [_may_use_threads(threads, part.limit_given) for threads in part.batches["threads"].tolist()]
    kernels = [kernel(*each) for each in zip(part.batches["variant"].tolist(), on_threads, strict=True)]
    take_turns = any(on_threads) and threading_layer() == "workqueue"
    runs = [functools.partial(each, part.memory.address, batch) for batch, each in enumerate(kernels)]
    if can_inspect and len(runs) == 1 and not take_turns:
        return runs[0]

    def run(stages: int) -> int:
        if stages & INSPECT:
            outcome = runs[0](INSPECT) if can_inspect else 0
            if outcome != TAKEN:
                return outcome
        # What is computed from the whole is so before the first batch.
        calls = [functools.partial(runs[0], stages & (REDUCE | APPLY))]
        if stages & APPLY:
            calls += [functools.partial(each, APPLY) for each in runs[1:]]
        if take_turns:
            with _taking_turns:
                in_one_go(calls)
        else:
            in_one_go(calls)
        return TAKEN

    return run


def _may_use_threads(threads: int, threads_given: bool) -> bool:
    if threads == 1 or threading_layer() == "none":
        return False
    return threads_given or threading_layer() != "workqueue"


_kernels: dict[tuple[int, bool], Kernel] = {}


def _renew_locks() -> None:
    """In a forked child: a thread that is not there any more may hold the old locks."""
    global _compiling, _taking_turns
    _compiling = threading.RLock()
    _taking_turns = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A fork waits until no kernel is being compiled: a child could not release Numba's own compiler lock.
    os.register_at_fork(
        before=lambda: _compiling.acquire(),
        after_in_parent=lambda: _compiling.release(),
        after_in_child=_renew_locks,
    )


def kernel(variant: int, parallel: bool) -> Kernel:
    """Return the compiled kernel of a variant, compiling it (or loading it from the cache) at first use.

    Parameters
    ----------
    variant : int
        See `fastadam.step.variants`.
    parallel : bool
        Whether it splits the batch over threads.

    Returns
    -------
    callable
        See `fastadam.backends.numba.kernels.make_kernel`.
    """
    with _compiling:
        with _no_collections():
            from fastadam.backends.numba.kernels import kernel_variant
        key = kernel_variant(variant), parallel
        if key not in _kernels:
            with _no_collections():
                _kernels[key] = _compile(*key)
        return _kernels[key]


def _compile(variant: int, parallel: bool) -> Kernel:
    import numba

    from fastadam.backends.numba.kernels import make_kernel

    function = make_kernel(variant, parallel)
    signature = numba.int64(numba.int64, numba.int64, numba.int64)
    # The NumPy error model: the default one checks divisors, which keeps the loop from vectorising.
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "parallel": parallel}
    try:
        compiled: Kernel = numba.njit(signature, cache=True, **options)(function)
    except Exception:  # no folder for the cache can be written, the disk is full, a cache file is damaged
        compiled = numba.njit(signature, cache=False, **options)(function)
    return compiled
