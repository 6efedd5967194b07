"""The step in which some gradients are missing, or are not what native code takes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array, base_view
from fastadam.memory.devices import check_gradient
from fastadam.work.planner import Planner, Work

# Gradients of one step that are made plain one at a time; with more, all are looked at in one go.
MOST_ODD = 32


def step_with_care(planner: Planner, work: Work, grads: Sequence[Any], unplain: int) -> None:
    """Take a step in which native code found something that Python has to look at.

    Parameters
    ----------
    planner : Planner
        That of `work`.
    work : WorkList or MixedWork
    grads : sequence
        What was given, or found, for each of its slots.
    unplain : int
        The slot that was found.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not what it must be, or a parameter cannot be updated in place any more; nothing has been
        written then.
    """
    active = np.array([grad is not None for grad in grads], bool)
    if not active.any():
        return
    ready = [grad for grad in grads if grad is not None]
    if not active.all():
        work = planner.pattern(work is planner.in_pieces, active)
        work.call_schedules()
        unplain = work.try_step(tuple(ready))
    # A few gradients that are right, but not plain, are made so one by one.
    for _ in range(MOST_ODD):
        if unplain < 0:
            return
        ready[unplain] = _check(planner, work, ready, unplain)
        before, unplain = unplain, work.try_step(tuple(ready))
        if unplain == before:
            break
    if unplain >= 0:  # many of them, a parameter that was tampered with, or no native code
        work.check_owners()
        checked = [_check(planner, work, ready, slot) for slot in range(len(ready))]
        work.step(checked)


def _check(planner: Planner, work: Work, grads: Sequence[Any], slot: int) -> Array:
    label = f"the gradient of {work.labels[slot]}"
    return check_gradient(grads[slot], base_view(work.arrays[slot]), label, planner.written)
