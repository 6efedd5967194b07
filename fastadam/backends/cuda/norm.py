"""The norm of gradients on a device: what adds up their squares there, and what makes a scale of them.

The host knows what runs of numbers there are; kernels read that from a table, which is copied to the device where
gradients have moved. The scale stays on the device, where the kernels of the step read it. So the host waits for
the norm only where it is asked for, or where it has to decide whether a step is taken.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import numpy as np

from fastadam.backends.cuda.launches import ROOT, SQUARES, Arguments, arguments_of, launcher
from fastadam.backends.cuda.norm_kernels import AT_ONCE, RESULT, RUN, SCALE32_AT, SCALE64_AT
from fastadam.backends.cuda.staging import Staging
from fastadam.memory.arrays import Array, array_at
from fastadam.memory.formats import FORMATS, Format
from fastadam.memory.structs import BLOCK, ROLES, TOTAL, TOTAL_WORDS
from fastadam.step.backend import Call, PartOfPlan
from fastadam.step.norm import ON_DEVICE
from fastadam.step.variants import variant_of

# Totals that blocks of threads add to in turns: on one alone, all of them would wait for each other.
MOST_TOTALS = 64


class _Batch(NamedTuple):
    """The runs of numbers of one format that stand one after the other."""

    kernel: Any
    arguments: Arguments
    first: int
    runs: int
    blocks: int


class Squares:
    """Adds up the squares of the gradients of a part of a plan, in totals on the device.

    Parameters
    ----------
    device : Gpu
    part : PartOfPlan

    Attributes
    ----------
    totals : int
        The address of the totals.
    n_totals : int
    """

    def __init__(self, device: Any, part: PartOfPlan) -> None:
        self._device, self._launcher = device, launcher(device)
        self._batches: list[_Batch] = []
        runs, of_span, offsets = [np.zeros(0, RUN)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for variant, first, count in part.batches[["variant", "first", "count"]].tolist():
            if variant_of(variant).idle:
                continue
            number_format = variant_of(variant).formats[ROLES.index("grad")]
            params = [_params_of(span) for span in part.spans[first : first + count]]
            sizes = np.concatenate([each for _, each in params])
            blocks = -(-sizes // BLOCK)
            self._add_batch(number_format, sum(map(len, runs)), len(sizes), int(blocks.sum()))
            runs.append(np.zeros(len(sizes), RUN))
            runs[-1]["size"], runs[-1]["first_block"] = sizes, np.cumsum(blocks) - blocks
            of_span.append(np.repeat(np.arange(first, first + count), [len(each) for each, _ in params]))
            offsets.append(np.concatenate([each for each, _ in params]) * number_format.stored.itemsize)
        self._runs, self._offsets = np.concatenate(runs), np.concatenate(offsets)
        self._grads, self._of_span = part.spans["grad"], np.concatenate(of_span)
        self._version = 0
        self._staging = Staging(device, max(self._runs.nbytes, 1))
        groups = [-(-batch.blocks // AT_ONCE) for batch in self._batches]
        self.n_totals = min(max(groups, default=1), MOST_TOTALS)
        self._memory, self.totals = device.reserve(self.n_totals * TOTAL.dtype.itemsize)

    def _add_batch(self, number_format: Format, first: int, runs: int, blocks: int) -> None:
        if blocks:
            code = FORMATS.index(number_format)
            kernel, arguments = self._launcher.kernel(code, SQUARES), arguments_of(code, SQUARES)
            self._batches.append(_Batch(kernel, arguments, first, runs, blocks))

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that add up the squares, in totals that are zero before."""
        grads = self._grads[self._of_span] + self._offsets
        if (grads != self._runs["grad"]).any():
            self._runs["grad"] = grads
            self._version += 1
        device, slot = self._device, self._staging.take()
        calls = [device.clear_call(self.totals, self.n_totals * TOTAL.dtype.itemsize, stream)]
        if slot.version != self._version:
            slot.pinned[: self._runs.nbytes] = self._runs.view(np.uint8)
            calls += [
                device.copy_call(slot.target, slot.source, self._runs.nbytes, stream),
                functools.partial(setattr, slot, "version", self._version),
            ]
        for batch in self._batches:
            runs = slot.target + batch.first * RUN.itemsize
            batch.arguments.write(runs, batch.runs, batch.blocks, self.totals, self.n_totals)
            groups = -(-batch.blocks // AT_ONCE)
            calls.append(self._launcher.launch_call(batch.kernel, groups, stream, batch.arguments))
        return [*calls, device.record_call(slot.event, stream)]


class Measuring:
    """Adds up the squares of a part of a plan for the host, which waits for them.

    Parameters
    ----------
    device : Gpu
    part : PartOfPlan
        The first of its totals is written to.
    """

    def __init__(self, device: Any, part: PartOfPlan) -> None:
        self._device, self._norm = device, part.norm
        self._squares = Squares(device, part)
        self._found = device.reserve_pinned(self._squares.n_totals * TOTAL.dtype.itemsize)

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that add up the squares and copy the totals to the host."""
        device, squares, found = self._device, self._squares, self._found
        return [
            *squares.launches(stream),
            device.copy_call(found.ctypes.data, squares.totals, found.nbytes, stream),
            device.finish_call(stream),
        ]

    def read(self) -> None:
        """Take over the totals that were copied."""
        found = self._found.view(TOTAL.dtype)
        self._norm.clear()
        total = self._norm.totals[0]
        for name in ("is_nan", "is_infinite"):
            total[name] = found[name].any()
        total["words"] = found["words"].sum(axis=0)
        total["first"], total["end"] = 0, TOTAL_WORDS


class Clipping:
    """Computes the norm of a plan's gradients and what clips them, without the host.

    Parameters
    ----------
    device : Gpu
    part : PartOfPlan
        The whole plan. Its norm is read from the device when it is asked for.

    Attributes
    ----------
    scales : dict of dtype to int
        Where the device has what gradients are multiplied by, in each dtype that is computed with.
    """

    def __init__(self, device: Any, part: PartOfPlan) -> None:
        self._device, self._norm = device, part.norm
        self._squares = Squares(device, part)
        self._kernel, self._arguments = launcher(device).kernel(0, ROOT), arguments_of(0, ROOT)
        self._memory, self._result = device.reserve(RESULT.itemsize)
        self._pinned = device.reserve_pinned(RESULT.itemsize)
        self.scales = {
            np.dtype(np.float64): self._result + SCALE64_AT,
            np.dtype(np.float32): self._result + SCALE32_AT,
        }
        self._stream = 0

    def launches(self, stream: int) -> list[Call]:
        """Return the calls that compute norm and scale on the device, and note that they are there."""
        norm, squares = self._norm, self._squares
        divisor, max_norm = float(norm.block["divisor"]), float(norm.block["max_norm"])
        self._arguments.write(squares.totals, squares.n_totals, self._result, divisor, max_norm)
        self._stream = stream
        return [
            *squares.launches(stream),
            launcher(self._device).launch_call(self._kernel, 1, stream, self._arguments),
            functools.partial(setattr, norm, "fetch", self.fetch),
            functools.partial(operator.setitem, norm.found, 0, ON_DEVICE),
        ]

    def fetch(self) -> float:
        """Return the norm; the host waits for it."""
        device, pinned = self._device, self._pinned
        entered = device.enter()
        try:
            device.copy(pinned.ctypes.data, self._result, pinned.nbytes, self._stream)
            device.finish(self._stream)
        finally:
            if entered:
                device.leave()
        return float(pinned.view(RESULT)["norm"][0])


def _params_of(span: Any) -> tuple[Array, Array]:
    """Return where the parameters of a span that have numbers begin, and how many those are."""
    size, n_starts = int(span["size"]), int(span["n_starts"])
    starts: Array = np.zeros(1, np.int64)
    if n_starts >= 2:
        starts = array_at(int(span["starts"]), n_starts, np.dtype(np.int64)).copy()
    sizes = np.diff(starts, append=size)
    return starts[sizes > 0], sizes[sizes > 0]
