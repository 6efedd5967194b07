"""The step that native code has not taken: gradients are missing, not plain, or not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory.devices import device_of, on_host
from fastadam.memory.structs import REFUSED, SKIPPED
from fastadam.step.gradient_settings import not_finite
from fastadam.work.arrays import WorkList
from fastadam.work.planner import Planner
from fastadam.work.rows import RowSteps


def call_closure(closure: Any) -> Any:
    """Return what a closure returns; raises TypeError if it is none."""
    if not callable(closure):
        raise TypeError(f"closure must be callable, got {closure!r}")
    return closure()


def step_with_care(
    planner: Planner, work: WorkList, grads: tuple[Any, ...], outcome: int, rows: RowSteps, mask: Any = None
) -> None:
    """Take a step in which native code found something that Python has to look at.

    Parameters
    ----------
    planner : Planner
        That of `work`.
    work : WorkList
    grads : tuple
        What was given, or found, for each of its slots.
    outcome : int
        What `work.try_step` has returned for them.
    rows : RowSteps
        Takes the steps that are not over whole parameters.
    mask : mapping, optional
        Which rows are to be stepped, as the user gave it.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not what it must be, or a parameter cannot be updated in place any more; nothing has been
        written then.
    RuntimeError
        If gradients are not finite, and that is to be an error.
    """
    if outcome >= 0 and rows.are_for(grads, mask):
        rows.take(work, grads, mask)
        return
    if outcome >= 0:
        active = [grad is not None for grad in grads]
        if not all(active):
            if not any(active) and not planner.after.averages:
                planner.settings.note_no_gradient()
                return
            if planner.use_one_plan(work):
                work = planner.by_member
                work.call_schedules()
                outcome = work.try_step(grads)
            if outcome >= 0 and work.leaves_out:
                work, ready, outcome = _make_plain(planner, work, grads, outcome)
                if 0 <= outcome < len(grads) and grads[outcome] is not None:
                    outcome = work.step_in_part(ready)
            if outcome >= 0:
                dtypes = work.dtypes_of(grads)
                work = planner.pattern(work is planner.in_pieces, np.array(active, bool), dtypes)
                work.call_schedules()
                grads = tuple(grad for grad in grads if grad is not None)
                outcome = work.try_step(grads)
    if outcome >= 0:
        work, ready, outcome = _make_plain(planner, work, grads, outcome)
        if outcome >= 0:
            outcome = work.step_with_care(ready)
    if outcome == SKIPPED:
        # What is not finite would be added to the gradients that come next.
        zeroed = [(device_of(grad), grad) for grad in grads if planner.after.zeroes and grad is not None]
        returned = planner.settings.count_skipped(
            [call for device, grad in zeroed for call in device.clear_calls(grad)]
        )
        for device in dict.fromkeys(device for device, _ in zeroed):
            device.check_returned(returned)
    elif outcome == REFUSED:
        _refuse(work.labels, grads)


def _make_plain(
    planner: Planner, work: WorkList, grads: Sequence[Any], outcome: int
) -> tuple[WorkList, Sequence[Any], int]:
    """Try a step again after making a few gradients plain, or with a plan for their dtypes.

    Plans that are kept are tried before anybody looks at all gradients: dtypes that take turns cost little.

    Returns
    -------
    WorkList
        That of the plan.
    sequence
        The gradients, some of them plain now.
    int
        What `WorkList.try_step` has returned for them.
    """
    ready, outcome = work.make_few_plain(grads, outcome)
    if outcome >= 0:
        given = tuple(ready)
        known = planner.kept_for(work, outcome, given[outcome]) if outcome < len(given) else []
        for found in known:
            found.call_schedules()
            tried = found.try_step(given)
            if tried < 0:
                planner.put_first(found, work)
                return found, ready, tried
        found = planner.for_gradients(work, ready)
        if found is not work:
            planner.put_first(found, work)
            work = found
            work.call_schedules()
            ready, outcome = work.make_few_plain(ready, work.try_step(given))
    return work, ready, outcome


def _refuse(labels: Sequence[str], grads: Sequence[Any]) -> None:
    pairs = [(label, grad) for label, grad in zip(labels, grads, strict=True) if grad is not None]
    which = [label for label, grad in pairs if not np.isfinite(on_host(grad)).all()]
    raise not_finite(which)
