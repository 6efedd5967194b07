"""Gradients that become zero, when the step's kernels have read them all: they may share memory."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastadam.backends.cuda.launches import ZEROS, arguments_of, launcher
from fastadam.backends.cuda.staging import Staging
from fastadam.backends.cuda.zero_kernel import BYTES_OF_BLOCK, RUN
from fastadam.memory.structs import ROLES
from fastadam.step.backend import Call, PartOfPlan
from fastadam.step.variants import variant_of


class Zeros:
    """Lets the gradients of a part of a plan be zero.

    As many bytes are written as if the step's kernels did it, in one launch for whatever number of gradients.

    Parameters
    ----------
    device : Gpu
    part : PartOfPlan
    """

    def __init__(self, device: Any, part: PartOfPlan) -> None:
        self._device, self._launcher = device, launcher(device)
        self._grads = part.spans["grad"]
        which, nbytes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, first, count in part.batches[["variant", "first", "count"]].tolist():
            variant, sizes = variant_of(number), part.spans["size"][first : first + count]
            if not variant.idle:
                which.append(first + np.flatnonzero(sizes))
                nbytes.append(sizes[sizes > 0] * variant.formats[ROLES.index("grad")].stored.itemsize)
        self._which = np.concatenate(which)
        self._runs = np.zeros(len(self._which), RUN)
        self._runs["nbytes"] = np.concatenate(nbytes)
        blocks = -(-self._runs["nbytes"] // BYTES_OF_BLOCK)
        self._runs["first_block"] = np.cumsum(blocks) - blocks
        self._blocks, self._version = int(blocks.sum()), 0
        self._kernel, self._arguments = self._launcher.kernel(0, ZEROS), arguments_of(0, ZEROS)
        self._staging = Staging(device, max(self._runs.nbytes, 1))

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that do it."""
        if not self._blocks:
            return []
        starts = self._grads[self._which]
        if (starts != self._runs["start"]).any():
            self._runs["start"] = starts
            self._version += 1
        device, slot, nbytes = self._device, self._staging.take(), self._runs.nbytes
        calls: list[Call] = []
        if slot.version != self._version:
            slot.pinned[:nbytes] = self._runs.view(np.uint8)
            calls += [
                device.copy_call(slot.target, slot.source, nbytes, stream),
                functools.partial(setattr, slot, "version", self._version),
            ]
        self._arguments.write(slot.target, len(self._runs))
        calls.append(self._launcher.launch_call(self._kernel, self._blocks, stream, self._arguments))
        return [*calls, device.record_call(slot.event, stream)]
