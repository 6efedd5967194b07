"""The work list over arrays on CUDA devices, and the one over arrays on several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.arrays import Array, Fences, OnDevice, address
from fastadam.memory.cuda.arrays import Description, check_gradient, describe, is_on_cuda
from fastadam.memory.devices import check_parameter, device_of
from fastadam.step.backend import Backend
from fastadam.step.interrupts import uninterrupted
from fastadam.work.arrays import WorkList

Backends = Mapping[int | None, Backend]


class CudaWork(WorkList):
    """The work of one step on one CUDA device (see `WorkList`).

    An array of another library is looked at in every step: where the CUDA array interface says what it said
    before, it is known to be right, else it is checked anew. The streams that the interface names are waited for,
    and wait for the step, on the device.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        fences: Fences,
        backend: Any,
        threads_given: int | None,
        *,
        in_pieces: bool,
        active: Array | None = None,
    ) -> None:
        super().__init__(groups, fences, backend, threads_given, in_pieces=in_pieces, active=active)
        self._device = backend
        self._streams: set[int] = set()
        self._owners_noted: list[Description | None] = [
            None if isinstance(owner, OnDevice) else describe(owner, label)[0]
            for owner, label in zip(self.owners, self.labels, strict=True)
        ]
        self._noted: list[Description | OnDevice | None] = [None] * len(self.owners)
        self._places = np.zeros(len(self.owners), np.int64)
        self._at_home = False  # whether they are those of the gradients that live in fixed places

    def try_step(self, grads: tuple[Any, ...]) -> int:
        """Check all gradients and take the step; return -1, or the slot of a gradient that is None."""
        if not (grads is self.homes and self._at_home):
            for slot, grad in enumerate(grads):
                if grad is None:
                    return slot
            self._at_home = False
            self._streams.clear()
            self.check_owners()
            for slot, grad in enumerate(grads):
                self._look_at(slot, grad)
            self.plan.spans["grad"] = self._places[self.plan.order]
            self._at_home = grads is self.homes and all(isinstance(o, OnDevice) for o in (*grads, *self.owners))
        self._device.producers = self._streams
        return self.plan.take()

    def _look_at(self, slot: int, grad: Any) -> None:
        """Note where a gradient is, after a check of it unless it is as it was."""
        if grad is self._noted[slot]:  # one of the library's own, which does not change
            return
        label = f"the gradient of {self.labels[slot]}"
        known: Description | OnDevice | None = None
        if isinstance(grad, OnDevice):
            known = grad
        elif is_on_cuda(grad):
            known, stream = describe(grad, label)
            self._hear(stream)
            if known == self._noted[slot]:
                return
        array = check_gradient(grad, self.arrays[slot], label, self.fences)  # type: ignore[arg-type]
        self._noted[slot], self._places[slot] = known, array.address

    def _hear(self, stream: int | None) -> None:
        if stream is not None:
            self._streams.add(stream)

    def check_owners(self) -> None:
        """Check that every parameter is still where it was (see `WorkList.check_owners`)."""
        for owner, noted, label in zip(self.owners, self._owners_noted, self.labels, strict=True):
            if noted is None:
                continue
            found, stream = describe(owner, label)
            self._hear(stream)
            if found != noted:
                check_parameter(owner, label)
                raise ValueError(
                    f"the memory, shape or dtype of {label} was exchanged; make a new optimizer for it"
                )

    def step(self, grads: Sequence[Array]) -> None:
        """Take the step with gradients that have been checked."""
        self.plan.spans["grad"] = np.array([address(grad) for grad in grads], np.int64)[self.plan.order]
        self._device.producers = self._streams
        self.plan.take()


class MixedWork:
    """The work of one step over several devices: a work list for each, of which none steps before all are checked.

    Parameters and attributes are those of `WorkList`.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        fences: Fences,
        backends: Backends,
        threads_given: int | None,
        *,
        in_pieces: bool,
        active: Array | None = None,
    ) -> None:
        devices = []
        for group in groups:
            one = in_pieces and group.one_piece
            devices += [device_of(member.array) for member in (group.members[:1] if one else group.members)]
        wanted = np.ones(len(devices), bool) if active is None else active
        self._slots: list[list[int]] = []
        self._parts: list[WorkList] = []
        kept = np.flatnonzero(wanted).tolist()
        for device in dict.fromkeys(devices[slot] for slot in kept):
            mask = wanted & np.array([each == device for each in devices])
            kind = WorkList if device is None else CudaWork
            self._parts.append(
                kind(groups, fences, backends[device], threads_given, in_pieces=in_pieces, active=mask)
            )
            self._slots.append([place for place, slot in enumerate(kept) if mask[slot]])
        self.owners, self.arrays, self.homes, self.labels = (
            self._merged(name) for name in ("owners", "arrays", "homes", "labels")
        )
        self.fixed = all(part.fixed for part in self._parts)

    def _merged(self, name: str) -> list[Any]:
        merged: list[Any] = [None] * sum(map(len, self._slots))
        for part, slots in zip(self._parts, self._slots, strict=True):
            for slot, value in zip(slots, getattr(part, name), strict=True):
                merged[slot] = value
        return merged

    def gather(self) -> tuple[Any, ...]:
        """Return each slot's gradient from where it lives (see `WorkList.gather`)."""
        found: list[Any] = [None] * len(self.owners)
        for part, slots in zip(self._parts, self._slots, strict=True):
            for slot, grad in zip(slots, part.gather(), strict=True):
                found[slot] = grad
        return tuple(found)

    def write_options(self) -> None:
        """Take over the groups' options, after they were checked."""
        for part in self._parts:
            part.write_options()

    @property
    def schedules(self) -> list[Any]:
        """Of the learning rates, for `call_schedules`."""
        return [schedule for part in self._parts for schedule in part.schedules]

    def call_schedules(self) -> None:
        """Set the learning rates of the next step; raises what a schedule raises."""
        for part in self._parts:
            part.call_schedules()

    def try_step(self, grads: tuple[Any, ...]) -> int:
        """Return the first slot: all gradients have to be looked at before any part takes its step."""
        return 0

    def check_owners(self) -> None:
        """Check that every parameter is still where it was, and can be written."""
        for part in self._parts:
            part.check_owners()

    def step(self, grads: Sequence[Array]) -> None:
        """Take the step with gradients that have been checked."""

        def step() -> None:
            for part, slots in zip(self._parts, self._slots, strict=True):
                part.step([grads[slot] for slot in slots])

        uninterrupted(step)


def make_work(
    groups: Sequence[Group],
    fences: Fences,
    backends: Backends,
    threads_given: int | None,
    *,
    in_pieces: bool,
    active: Array | None = None,
) -> WorkList | MixedWork:
    """Return the work list of arrays wherever they are; `backends` has one for each device, None for the host."""
    devices = {member.device for group in groups for member in group.members}
    if len(devices) > 1:
        return MixedWork(groups, fences, backends, threads_given, in_pieces=in_pieces, active=active)
    (device,) = devices
    kind = WorkList if device is None else CudaWork
    return kind(groups, fences, backends[device], threads_given, in_pieces=in_pieces, active=active)
