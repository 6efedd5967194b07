"""Gradients that become zero, when the step's kernels have read them all: they may share memory."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastadam.backends.cuda.launches import ZEROS, arguments_of, launcher
from fastadam.backends.cuda.staging import Staging
from fastadam.backends.cuda.zero_kernel import BYTES_OF_BLOCK, RUN
from fastadam.memory.arrays import Array
from fastadam.memory.structs import ROLES
from fastadam.step.backend import Call, PartOfPlan
from fastadam.step.variants import variant_of


class Zeros:
    """Lets the gradients of a part of a plan be zero.

    They are as many bytes to write as in the step's kernels, and one launch, for whatever number of gradients. The
    kernel, and the memory that it needs, are made when the first step asks for it.

    Parameters
    ----------
    device : Gpu
    part : PartOfPlan
    """

    def __init__(self, device: Any, part: PartOfPlan) -> None:
        self._device, self._launcher = device, launcher(device)
        self._spans = part.spans
        which, itemsizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, first, count in part.batches[["variant", "first", "count"]].tolist():
            variant = variant_of(number)
            if not variant.idle:
                which.append(np.arange(first, first + count))
                itemsizes.append(np.full(count, variant.formats[ROLES.index("grad")].stored.itemsize))
        self._which, self._itemsizes = np.concatenate(which), np.concatenate(itemsizes)
        self._noted: Array | None = None
        self._runs = np.zeros(0, RUN)
        self._version = self._blocks = 0

    @functools.cached_property
    def _made(self) -> tuple[Any, Any, Staging]:
        """The kernel, its arguments, and room for the table of runs."""
        nbytes = max(len(self._which), 1) * RUN.itemsize
        return self._launcher.kernel(0, ZEROS), arguments_of(0, ZEROS), Staging(self._device, nbytes)

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that do it."""
        self._refresh()
        if not self._blocks:
            return []
        kernel, arguments, staging = self._made
        device, slot, nbytes = self._device, staging.take(), self._runs.nbytes
        calls: list[Call] = []
        if slot.version != self._version:
            slot.pinned[:nbytes] = self._runs.view(np.uint8)
            calls += [
                device.copy_call(slot.target, slot.source, nbytes, stream),
                functools.partial(setattr, slot, "version", self._version),
            ]
        arguments.write(slot.target, len(self._runs))
        calls.append(self._launcher.launch_call(kernel, self._blocks, stream, arguments))
        return [*calls, device.record_call(slot.event, stream)]

    def _refresh(self) -> None:
        """Note where the gradients are, if that has changed."""
        grads = self._spans["grad"][self._which]
        if self._noted is not None and (grads == self._noted).all():
            return
        sizes = self._spans["size"][self._which]
        runs = np.zeros(len(grads), RUN)
        runs["start"], runs["nbytes"] = grads, sizes * self._itemsizes
        self._runs = runs[sizes > 0]
        ends = np.cumsum(-(-self._runs["nbytes"] // BYTES_OF_BLOCK))
        self._runs["first_block"][1:] = ends[:-1]
        self._blocks = int(ends[-1]) if len(ends) else 0
        self._noted, self._version = grads, self._version + 1
