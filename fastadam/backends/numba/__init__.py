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

from fastadam.backends.numba.teams import on_a_team, team_is_there
from fastadam.backends.numba.teams import threading_layer as threading_layer
from fastadam.memory.array_offsets import array_offsets
from fastadam.memory.structs import APPLY, INSPECT, MEASURE, MEASURES, REDUCE, TAKEN
from fastadam.step.backend import Call, Measure, PartOfPlan, Prepare, Prepared, Run
from fastadam.step.interrupts import in_one_go, in_one_go_while

LEAVES_OUT = True
cut_rows = None
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
    uses_threads = any(on_threads)
    wanted = bool(part.norm.wanted & MEASURES)
    # On one thread, the kernel of the first batch measures all of them.
    runs = _kernel_calls(part, on_threads, measures=wanted and not uses_threads)
    measures = _measure_calls(part, on_threads) if wanted and uses_threads else []
    if can_inspect and len(runs) == 1 and not uses_threads and not measures:
        return runs[0]

    takes_turns = uses_threads and threading_layer() == "workqueue"

    def before(stages: int) -> list[Callable[[], int]]:
        measured: list[Callable[[], int]] = [
            functools.partial(each, stages & (MEASURE | REDUCE)) for each in measures
        ]
        return [functools.partial(runs[0], INSPECT), *measured] if stages & INSPECT else measured

    def calls(stages: int) -> list[Callable[[], int]]:
        # What is computed from the whole is so before the first batch.
        rest = runs[1:] if stages & APPLY else []
        return [functools.partial(runs[0], stages), *[functools.partial(each, APPLY) for each in rest]]

    def run(stages: int) -> int:
        if stages & INSPECT and not can_inspect:
            return 0
        with _taking_turns if takes_turns else contextlib.nullcontext():
            if not measures and (not uses_threads or team_is_there()):
                return in_one_go_while(TAKEN, calls(stages))
            if team_is_there():
                return in_one_go_while(TAKEN, before(stages) + calls(stages & (REDUCE | APPLY)))
            for call in before(stages):
                returned = in_one_go(on_a_team([call]))
                outcome: int = returned[len(returned) // 2]  # between two that set the number of threads
                if outcome != TAKEN:
                    return outcome
            in_one_go(on_a_team(calls(stages & (REDUCE | APPLY))))
            return TAKEN

    return run


def bind_calls(part: PartOfPlan) -> Prepare:
    """Return the function that makes a part's calls ready (see `fastadam.step.backend.Backend`).

    On Numba's workqueue layer they take one thread: steps that take turns have to wait for each other, which is
    not to be done in the middle of others' work.
    """
    may = threading_layer() != "workqueue" if part.batches["threads"].max(initial=1) > 1 else False
    on_threads = [
        may and _may_use_threads(threads, part.limit_given) for threads in part.batches["threads"].tolist()
    ]
    calls: list[Call] = [functools.partial(each, APPLY) for each in _kernel_calls(part, on_threads)]
    return lambda: Prepared(on_a_team(calls) if any(on_threads) else calls)


def bind_measure(part: PartOfPlan) -> Measure:
    """Return the function that adds up the squares of a part (see `fastadam.step.backend.Backend`)."""
    calls = [functools.partial(each, MEASURE) for each in _measure_calls(part, [False] * len(part.batches))]
    return functools.partial(in_one_go, calls)


def _measure_calls(part: PartOfPlan, on_threads: list[bool]) -> list[Callable[[int], int]]:
    """Return what measures each batch, to be called with stages."""
    kernels = [measure(parallel) for parallel in on_threads]
    return [functools.partial(each, part.memory.address, batch) for batch, each in enumerate(kernels)]


def _kernel_calls(
    part: PartOfPlan, on_threads: list[bool], *, measures: bool = False
) -> list[Callable[[int], int]]:
    """Return the kernel of each batch, to be called with stages; that of the first `measures` the whole or not."""
    kernels = [
        kernel(variant, parallel, measures and batch == 0)
        for batch, (variant, parallel) in enumerate(zip(part.batches["variant"].tolist(), on_threads, strict=True))
    ]
    return [functools.partial(each, part.memory.address, batch) for batch, each in enumerate(kernels)]


def _may_use_threads(threads: int, threads_given: bool) -> bool:
    if threads == 1 or threading_layer() == "none":
        return False
    return threads_given or threading_layer() != "workqueue"


_kernels: dict[tuple[int, bool, bool], Kernel] = {}


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


def kernel(variant: int, parallel: bool, measures: bool = False) -> Kernel:
    """Return the compiled kernel of a variant, compiling it (or loading it from the cache) at first use.

    Parameters
    ----------
    variant : int
        See `fastadam.step.variants`.
    parallel : bool
        Whether it splits the batch over threads.
    measures : bool, default False
        Whether it computes the norm, too.

    Returns
    -------
    callable
        See `fastadam.backends.numba.kernels.make_kernel`.
    """
    with _compiling, _no_collections():
        from fastadam.backends.numba.kernels import kernel_variant, make_kernel

        key = kernel_variant(variant), parallel, measures
        if key not in _kernels:
            _kernels[key] = _compile(make_kernel(*key), parallel)
        return _kernels[key]


@functools.cache
def measure(parallel: bool) -> Kernel:
    """Return the compiled function that computes norms (see `fastadam.backends.numba.norm.make_measure`)."""
    with _compiling, _no_collections():
        from fastadam.backends.numba.norm import make_measure

        return _compile(make_measure(parallel), parallel)


def _compile(function: Callable[..., int], parallel: bool) -> Kernel:
    """Compile a kernel, or load it from the cache."""
    import numba

    signature = numba.int64(numba.int64, numba.int64, numba.int64)
    # The NumPy error model: the default one checks divisors, which keeps the loop from vectorising.
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "parallel": parallel}
    try:
        compiled: Kernel = numba.njit(signature, cache=True, **options)(function)
    except Exception:  # no folder for the cache can be written, the disk is full, a cache file is damaged
        compiled = numba.njit(signature, cache=False, **options)(function)
    return compiled
