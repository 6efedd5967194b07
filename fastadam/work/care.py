"""The step in which some gradients are missing, or are not what native code takes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam.work.arrays import WorkList
from fastadam.work.planner import Planner


def step_with_care(planner: Planner, work: WorkList, grads: tuple[Any, ...], unplain: int) -> None:
    """Take a step in which native code found something that Python has to look at.

    Parameters
    ----------
    planner : Planner
        That of `work`.
    work : WorkList
    grads : tuple
        What was given, or found, for each of its slots.
    unplain : int
        The slot that was found.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not what it must be, or a parameter cannot be updated in place any more; nothing has been
        written then.
    """
    active = [grad is not None for grad in grads]
    if not all(active):
        if not any(active):
            return
        work = planner.pattern(work is planner.in_pieces, np.array(active, bool))
        work.call_schedules()
        grads = tuple(grad for grad in grads if grad is not None)
        unplain = work.try_step(grads)
    if unplain >= 0:
        work.step_with_care(grads, unplain)
