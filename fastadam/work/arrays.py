"""The work list: the plan of a step over NumPy arrays, with what it needs to check their gradients.

A *slot* is one array that gets one gradient: a parameter, or a whole packed group. Each is a span of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.array_offsets import TUPLE_ITEMS, array_offsets
from fastadam.memory.arrays import (
    CUDA_DTYPES,
    Array,
    Fences,
    OnDevice,
    address,
    as_reals,
    base_view,
    check_parameter,
)
from fastadam.memory.devices import device_of
from fastadam.memory.parameter import Parameter
from fastadam.memory.structs import SLOT, SPAN
from fastadam.step import threads
from fastadam.step.backend import Backend
from fastadam.step.counters import counters_in
from fastadam.step.plan import Plan
from fastadam.step.variants import variants_of


class _Slots:
    """The slots of one group, and their spans but for rows, slots and gradients.

    `starts` says where the parameters of a packed group begin; the span holds its address.
    """

    def __init__(self, group: Group, one_piece: bool) -> None:
        if one_piece:
            assert group.packed is not None
            self.owners = [group.packed.param]
            self.homes: list[Any] = [group.packed.grad]
            self.labels = [f"the packed {group.members[0].label} and its group"]
            offsets = [0]
            reals = CUDA_DTYPES[group.packed.param.dtype].reals
            self.starts = reals * np.array(group.offsets, np.int64)
        else:
            self.owners = [member.owner for member in group.members]
            self.homes = [member.home for member in group.members]
            self.labels = [member.label for member in group.members]
            offsets = group.offsets
            self.starts = np.zeros(0, np.int64)
        self.spans = np.zeros(len(self.owners), SPAN.dtype)
        # A foreign array on a device is known by the view of it that was made when it was given.
        known = self.owners if one_piece else [member.array for member in group.members]
        arrays = [
            view if isinstance(view, OnDevice) else base_view(owner)
            for owner, view in zip(self.owners, known, strict=True)
        ]
        self.arrays = arrays
        self.spans["param"] = [address(array) for array in arrays]
        self.spans["size"] = [as_reals(array).size for array in arrays]
        if one_piece:
            self.spans["starts"], self.spans["n_starts"] = address(self.starts), len(self.starts)
        self.formats = np.array([CUDA_DTYPES[array.dtype].format.code for array in arrays], np.int64)
        for name, buffers in group.moments.items():
            bases = {place: address(buffer) for place, buffer in buffers.items()}
            self.spans[name] = [
                bases[array.dtype, device_of(array)] + offset * array.dtype.itemsize
                for array, offset in zip(arrays, offsets, strict=True)
            ]


class WorkList:
    """The work of one step, built once and used again until groups or options change its shape.

    Parameters
    ----------
    groups : sequence of Group
    fences : Fences
        The memory that the step writes.
    backend : Backend
        Runs the work.
    threads_given : int or None
        Upper limit of threads; None for the default.
    in_pieces : bool
        Whether packed groups are taken as one piece where they can be, else member by member.
    active : ndarray of bool or None
        Which slots of the complete list to step; None for all.

    Attributes
    ----------
    owners, arrays : list
        Each slot's array as the user gave it, and as the library knows it.
    labels : list of str
        How error messages call it.
    homes : tuple
        Where each slot's gradient lives: an array, a `Parameter`, or None.
    schedules : list
        Of the learning rates, for `call_schedules`.
    fixed : bool
        Whether all homes are arrays, so that gradients never move.
    plan : Plan
    """

    def __init__(
        self,
        groups: Sequence[Group],
        fences: Fences,
        backend: Backend,
        threads_given: int | None,
        *,
        in_pieces: bool,
        active: Array | None = None,
    ) -> None:
        spans, variants = [], []
        self.owners: list[Array] = []
        self.homes: tuple[Any, ...] = ()
        self.labels: list[str] = []
        self.arrays: list[Array] = []
        # Each row's group, the group's step counters, and the place in them.
        self._rows: list[tuple[Group, Array, int]] = []
        counters = []
        self._starts: list[Array] = []  # whose addresses the spans hold
        for group in groups:
            one_piece = in_pieces and group.one_piece
            if one_piece not in group.slots:
                group.slots[one_piece] = _Slots(group, one_piece)
            slots: _Slots = group.slots[one_piece]
            n = len(slots.owners)
            part = slots.spans.copy()
            row_of = np.zeros(1, np.int64) if one_piece else group.row_of
            keep = list(range(n))
            if active is not None:
                keep = np.flatnonzero(active[:n]).tolist()
                active = active[n:]
                part, row_of = part[keep], row_of[keep]
            rows, local = np.unique(row_of, return_inverse=True)
            part["row"] = local.reshape(-1) + len(self._rows)
            self._rows += [(group, group.row_steps, row) for row in rows.tolist()]
            counters.append(counters_in(group.row_steps)[rows])
            self._starts.append(slots.starts)
            spans.append(part)
            variants.append(variants_of(slots.formats[keep], group.hyper.l2_on, group.hyper.amsgrad))
            self.owners += [slots.owners[i] for i in keep]
            self.homes += tuple(slots.homes[i] for i in keep)
            self.labels += [slots.labels[i] for i in keep]
            self.arrays += [slots.arrays[i] for i in keep]
        self.fences = fences
        found = np.concatenate(spans)
        found["slot"] = np.arange(len(found))
        limit = threads.check_limit(threads_given)
        steps = np.concatenate(counters)
        self.plan = Plan(
            found, np.concatenate(variants), steps, steps, [backend], limit, threads_given is not None
        )
        self.write_options()
        self._dtypes = [array.dtype for array in self.arrays]  # kept, so that no other object takes their ids
        self._slots = np.array(
            [(id(owner), id(dtype)) for owner, dtype in zip(self.owners, self._dtypes, strict=True)], SLOT.dtype
        )
        memory = self.plan.memory
        memory.point("slots", self._slots)
        self._grad_objects = memory["grad_objects"].reshape(1).data  # written faster than an array
        offsets = array_offsets()
        if offsets is not None:
            memory["offsets"] = offsets
        self.plan.set_written(fences.starts, fences.ends)
        self.fixed = all(isinstance(home, np.ndarray | OnDevice) for home in self.homes)
        self._homeless = next(
            (label for home, label in zip(self.homes, self.labels, strict=True) if home is None), None
        )

    def gather(self) -> tuple[Any, ...]:
        """Return each slot's gradient from where it lives.

        Raises
        ------
        ValueError
            If a slot is a plain array, which has no place for a gradient.
        """
        if self.fixed:
            return self.homes
        if self._homeless is not None:
            raise ValueError(
                f"step() found no gradient for {self._homeless}: a plain array has no place for one; call "
                f"step(grads), or hold the arrays in fastadam.Parameter or fastadam.pack"
            )
        return tuple(home.grad if isinstance(home, Parameter) else home for home in self.homes)

    def write_options(self) -> None:
        """Take over the groups' options, after they were checked."""
        self.plan.write_options([group.coefficients for group, *_ in self._rows])
        self.schedules = [
            (group.coefficients.lr_at, steps, row, place)
            for place, (group, steps, row) in enumerate(self._rows)
            if group.coefficients.lr_at is not None
        ]

    def call_schedules(self) -> None:
        """Set the learning rates of the next step; raises what a schedule raises."""
        for lr_at, steps, row, place in self.schedules:
            self.plan.row_inputs["lr"][place] = lr_at(steps[row].item() + 1)

    def try_step(self, grads: tuple[Any, ...]) -> int:
        """Take and count the step if every gradient is plain, in one native call; else write nothing.

        Native code reads the objects' addresses from the tuple, which nobody can change meanwhile.

        Plain means: an exact ndarray of its parameter's dtype and shape, C-contiguous, apart from what the
        step writes.

        Returns
        -------
        int
            -1 if the step was taken; else a slot whose gradient is not plain, which does not mean that it is
            wrong, only that Python has to look at it.
        """
        self._grad_objects[0] = id(grads) + TUPLE_ITEMS
        return self.plan.attempt()

    def check_owners(self) -> None:
        """Check that every parameter is still where it was, and can be written.

        Raises
        ------
        ValueError
            If one cannot be updated in place any more.
        """
        slots = self.plan.spans[np.argsort(self.plan.order)]
        known = zip(
            slots["param"].tolist(), slots["size"].tolist(), self._slots["dtype_object"].tolist(), strict=True
        )
        for owner, label, (place, size, dtype) in zip(self.owners, self.labels, known, strict=True):
            array = check_parameter(owner, label)
            if address(array) != place or id(array.dtype) != dtype or as_reals(array).size != size:
                raise ValueError(f"the memory or dtype of {label} was exchanged; make a new optimizer for it")

    def step(self, grads: Sequence[Array]) -> None:
        """Take and count the step with gradients that `fastadam.memory.arrays.check_gradient` has returned."""
        self.plan.spans["grad"] = np.array([address(grad) for grad in grads], np.int64)[self.plan.order]
        self.plan.take()
