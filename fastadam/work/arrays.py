"""The work list: the plan of a step over arrays, wherever they are, and the check of their gradients.

Where native code finds every gradient plain, `WorkList.try_step` takes the step in one call; else Python looks at
each of them (`WorkList.step_with_care`), as their devices know how to.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.array_offsets import TUPLE_ITEMS, array_offsets
from fastadam.memory.arrays import Array
from fastadam.memory.device import Device, Slots, Watch
from fastadam.memory.devices import device_of
from fastadam.memory.jax_arrays import is_jax_array, with_views
from fastadam.memory.parameter import Parameter
from fastadam.memory.structs import TAKEN
from fastadam.memory.written import Written
from fastadam.step import threads
from fastadam.step.after import After
from fastadam.step.backend import Backend
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.work.devices import share_out
from fastadam.work.row_options import RowOptions
from fastadam.work.slots import StepSlots

# Gradients of one step that are made plain one at a time; with more, all are looked at in one go.
MOST_ODD = 32


class WorkList:
    """The work of one step, built once and used again until groups or options change its shape.

    Parameters
    ----------
    groups : sequence of Group
    written : Written
        The memory that the step writes.
    backends : mapping of Device to Backend
        Those that run the work, each on its device.
    threads_given : int or None
        Upper limit of threads; None for the default.
    norm : Norm
        What is wanted of the gradients' norm.
    after : After
        What is done with numbers that have been stepped.
    in_pieces : bool
        Whether packed groups are taken as one piece where they can be, else member by member.
    active : ndarray of bool or None
        Which slots of the complete list to step; None for all.
    leaves_out : bool, default False
        Whether None may stand in place of any gradient, for native code; each slot has a row of its own then.
    grad_dtypes : sequence of dtype, optional
        Those of the gradients, for each slot of this list; by default they are the parameters'.

    Attributes
    ----------
    owners, arrays : list
        Each slot's array as the user gave it, and as the library knows it.
    labels : list of str
        How error messages call it.
    grad_sources : tuple
        Where each slot's gradient is found: an array, a `Parameter`, or None.
    in_pieces, active
        As given.
    grad_dtypes : tuple of dtype
        Those of the gradients that the plan is for.
    at_home : bool
        Whether all of these are arrays, and so the gradients themselves.
    schedules : list
        Of the learning rates, for `call_schedules`.
    check_gradient : callable
        ``check_gradient(value, param, label)`` returns a gradient as kernels read it.
    plan : Plan
    """

    def __init__(
        self,
        groups: Sequence[Group],
        written: Written,
        backends: Mapping[Device, Backend],
        threads_given: int | None,
        norm: Norm,
        after: After,
        *,
        in_pieces: bool,
        active: Array | None = None,
        leaves_out: bool = False,
        grad_dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> None:
        slots = StepSlots(groups, in_pieces, active, after.averages, leaves_out, grad_dtypes)
        self.in_pieces, self.active, self.leaves_out = in_pieces, active, leaves_out
        columns = slots.columns
        self._devices, self._dtypes = columns.devices, tuple(columns.dtypes)  # as they were taken
        self.grad_dtypes = self._dtypes if grad_dtypes is None else tuple(grad_dtypes)
        self.owners, self.arrays, self.labels = columns.owners, columns.arrays, columns.labels
        self.grad_sources = tuple(columns.grad_sources)
        self._options = RowOptions(slots.rows, slots.n_stepped)
        self._written, self._after = written, after
        # Without a way back to this object, which would keep parameters alive until the garbage collector runs.
        self.check_gradient = functools.partial(_check_gradient, written, after)
        devices = columns.devices + [member.device for member in slots.idle]
        used, backend_of = share_out(devices, backends)
        self.plan = Plan(
            slots.spans,
            slots.variants,
            slots.counters,
            slots.counters[: slots.n_stepped],
            used,
            threads.check_limit(threads_given),
            threads_given is not None,
            backend_of,
            norm,
            after,
        )
        self.write_options()
        # For native code, which looks at gradients by itself: what it needs to know of parameters.
        memory = self.plan.memory
        self._kept = columns, slots.kept
        memory.point("slots", slots.objects)
        if leaves_out:
            self.plan.accept_none(len(self.owners))
        self._grad_objects = memory["grad_objects"].reshape(1).data  # written faster than an array
        offsets = array_offsets()
        if offsets is not None:
            memory["offsets"] = offsets
        self.plan.set_written(written.starts, written.ends)
        # For Python, where that is not enough.
        self._watches = self._watch(slots, devices, backends)
        self._native = all(device.NATIVE for device in set(devices))
        self._mixes = any(device.MIXES for device in set(devices))
        self._settled = False  # whether the plan has the gradients that are found in their own places
        self.at_home = not any(source is None or isinstance(source, Parameter) for source in self.grad_sources)
        self._homeless = next(
            (label for source, label in zip(self.grad_sources, self.labels, strict=True) if source is None), None
        )

    def _watch(
        self, slots: StepSlots, devices: Sequence[Device], backends: Mapping[Device, Backend]
    ) -> list[tuple[Watch, Array]]:
        """Return what looks at the arrays on each device, with the places of its slots that get a gradient."""
        columns, spans, idle = slots.columns, slots.spans, slots.idle
        every = Slots(
            columns.owners + [member.owner for member in idle],
            columns.arrays + [member.array for member in idle],
            columns.labels + [member.label for member in idle],
            spans["param"].copy(),
            spans["size"].copy(),
            columns.dtypes + [member.dtype for member in idle],
            self.grad_dtypes,
        )
        watches = []
        for device in dict.fromkeys(devices):
            places = np.flatnonzero([each is device for each in devices])
            own = every if len(places) == len(spans) else every.at(places)
            stepped = places[places < len(columns.owners)]
            watches.append((device.watch(own, self.check_gradient, backends[device]), stepped))
        return watches

    def gather(self) -> tuple[Any, ...]:
        """Return each slot's gradient from where it lives.

        Raises
        ------
        ValueError
            If a slot is a plain array, which has no place for a gradient.
        """
        if self._homeless is not None:
            raise ValueError(
                f"step() found no gradient for {self._homeless}: a plain array has no place for one; call "
                f"step(grads), or hold the arrays in fastadam.Parameter or fastadam.pack"
            )
        return tuple(source.grad if isinstance(source, Parameter) else source for source in self.grad_sources)

    def dtypes_of(self, grads: Sequence[Any]) -> tuple[np.dtype[Any], ...]:
        """Return the dtypes of gradients, as far as they are taken; where there is none, what the plan is for."""
        if not self._mixes:
            return self.grad_dtypes
        return tuple(
            known
            if grad is None or (type(grad) is np.ndarray and grad.dtype is known)
            else device.dtype_of_gradient(grad, own)
            for grad, device, own, known in zip(grads, self._devices, self._dtypes, self.grad_dtypes, strict=True)
        )

    def is_for(self, grad: Any, slot: int) -> bool:
        """Whether the plan is for gradients like one of a slot."""
        return (
            self._mixes
            and self._devices[slot].dtype_of_gradient(grad, self._dtypes[slot]) == self.grad_dtypes[slot]
        )

    def write_options(self) -> None:
        """Take over the groups' options, after they were checked."""
        self._options.write_to(self.plan)
        self.schedules = self._options.schedules

    def call_schedules(self) -> None:
        """Set the learning rates of the next step; raises what a schedule raises."""
        self._options.call_schedules(self.plan)

    def try_step(self, grads: tuple[Any, ...]) -> int:
        """Take and count the step if every gradient is plain, in one native call; else write nothing.

        Native code reads the objects' addresses from the tuple, which nobody can change meanwhile.

        Plain means: an exact ndarray (or `PackedArray`) of the dtype that the plan is for and of its parameter's
        shape, C-contiguous, apart from what the step writes.

        Returns
        -------
        int
            TAKEN if the step was taken; SKIPPED or REFUSED where gradients are not finite; else a slot whose
            gradient is not plain, which does not mean that it is wrong, only that Python has to look at it. Slots
            of parameters that are idle come after all that have a gradient.
        """
        self._grad_objects[0] = id(grads) + TUPLE_ITEMS
        return self.plan.attempt()

    def look_at(self, grads: tuple[Any, ...]) -> None:
        """Note where gradients are for `Plan.add_up_squares` and `Plan.finish`, by which a step is taken in parts.

        Raises
        ------
        TypeError, ValueError
            If a gradient is not what it must be, or a parameter cannot be updated in place any more.
        """
        self._grad_objects[0] = id(grads) + TUPLE_ITEMS
        if self.plan.inspect() != TAKEN:
            self._look(grads)
            for watch, _ in self._watches:
                watch.prepare()

    def step_with_care(self, grads: Sequence[Any]) -> int:
        """Take and count a step in which native code found something that `make_few_plain` has not helped with.

        Parameters
        ----------
        grads : sequence
            One for each slot, of the dtypes that the plan is for; none of them is None.

        Returns
        -------
        int
            TAKEN, SKIPPED or REFUSED, as by `try_step`.

        Raises
        ------
        TypeError, ValueError
            If a gradient is not what it must be, or a parameter cannot be updated in place any more; nothing has
            been written then.
        """
        # Many of them, a parameter that was tampered with, or no native code to look at them.
        kept = None
        if not (self._settled and grads is self.grad_sources):
            kept = self._look(with_views(grads, self.arrays, self.labels))  # nothing foreign runs after the views
        for watch, _ in self._watches:
            watch.prepare()
        if self.leaves_out:
            self.plan.leave_none_out()
        taken: int = self.plan.take()
        del kept
        return taken

    def step_in_part(self, grads: Sequence[Any]) -> int:
        """Take and count a step that leaves out what has no gradient, where many of the others are not plain.

        Parameters
        ----------
        grads : sequence
            One for each slot, or None.

        Returns
        -------
        int
            As by `try_step`.

        Raises
        ------
        TypeError, ValueError
            If a gradient is not what it must be; nothing has been written then.
        """
        views = with_views(grads, self.arrays, self.labels)
        return self.try_step(
            tuple(
                None if grad is None else self.check_gradient(grad, array, f"the gradient of {label}")
                for grad, array, label in zip(views, self.arrays, self.labels, strict=True)
            )
        )

    def make_few_plain(self, grads: Sequence[Any], unplain: int) -> tuple[Sequence[Any], int]:
        """Take and count the step after making a few gradients plain, one by one, that are right, but not plain.

        Parameters
        ----------
        grads : sequence
            One for each slot, or None.
        unplain : int
            What `try_step` has returned for them.

        Returns
        -------
        grads : sequence
        int
            What `try_step` has returned for them: still a slot where there are many, or one has another dtype than
            the plan is for.

        Raises
        ------
        TypeError, ValueError
            If a gradient is not what it must be; nothing has been written then.
        """
        if not self._native or not 0 <= unplain < len(grads) or grads[unplain] is None:
            return grads, unplain
        ready = list(grads)
        for _ in range(MOST_ODD):
            views = with_views(ready, self.arrays, self.labels) if is_jax_array(ready[unplain]) else ready
            if views is ready:
                label = f"the gradient of {self.labels[unplain]}"
                ready[unplain] = self.check_gradient(ready[unplain], self.arrays[unplain], label)
                if ready[unplain].dtype != self.grad_dtypes[unplain]:
                    break
            before, unplain = unplain, self.try_step(tuple(views))
            if unplain < 0 or (unplain == before and views is ready) or unplain >= len(ready):
                break
            ready = list(views)
        return ready, unplain

    def _look(self, grads: Sequence[Any]) -> list[Any]:
        """Check all parameters and gradients, and write where the gradients are into the plan.

        Returns
        -------
        list
            What has to be kept until the step is over.
        """
        self._settled = False
        addresses = np.zeros(len(self.plan.spans), np.int64)
        kept = []
        for watch, places in self._watches:
            addresses[places], also = watch.look([grads[place] for place in places])
            kept.append(also)
        self.plan.spans["grad"] = addresses[self.plan.order]
        self._settled = grads is self.grad_sources and all(watch.settled for watch, _ in self._watches)
        return kept


class ApartWork(WorkList):
    """The work of a step of which some parameters have rows that have taken different numbers of steps.

    Native code is not to take it as it is: it is `fastadam.work.rows` that does.
    """

    def try_step(self, grads: tuple[Any, ...]) -> int:
        """Return a slot: Python has to look at all steps."""
        return 0


def _check_gradient(written: Written, after: After, value: Any, param: Array, label: str) -> Array:
    """Return a gradient as kernels read it, which they may let be zero where that is asked for."""
    grad = written.check_gradient(value, param, label)
    if after.zeroes:
        device_of(param).check_zeroed(value, grad, label)
    return grad
