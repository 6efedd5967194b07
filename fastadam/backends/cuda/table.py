"""Batches of several spans: a table in device memory describes them.

The table and the rows of coefficients are copied there from pinned host memory, which is used again only after the
launch that reads it is done, so that the host never has to wait for the device.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
from typing import Any

import numpy as np

from fastadam.backends.cuda.kernels import TABLE as ENTRY
from fastadam.backends.cuda.launches import TABLE, arguments_of, launcher
from fastadam.backends.cuda.layout import Layout
from fastadam.memory.arrays import Array, address
from fastadam.memory.structs import ROLES
from fastadam.step.backend import Call
from fastadam.step.quiet import Quiet

# Steps that may be under way at once before the host waits for the oldest.
MOST_UNDER_WAY = 64


class Tables:
    """Such batches of one plan, with the memory that their steps need.

    Parameters
    ----------
    device : Gpu
    spans : ndarray of SPAN
        Theirs alone; looked at in each launch.
    rows : ndarray of ROW
    batches : list of (int, int, int)
        Variant, first span and number of spans of each.
    """

    def __init__(self, device: Any, spans: Array, rows: Array, batches: list[tuple[int, int, int]]) -> None:
        self._device, self._spans, self._rows = device, spans, rows
        self._launcher = launcher(device)
        self._quiet = Quiet()
        self._noted: Array | None = None
        self._version = self._n_rows = 0
        self._batches = []
        self._table = np.zeros(len(spans), ENTRY)
        # The coefficients come first: they are copied for every step, the table is not.
        self._sections: dict[np.dtype[Any], int] = {}
        end = 0
        for variant, first, count in batches:
            layout = Layout(variant)
            if layout.real not in self._sections:
                self._sections[layout.real] = end
                end += rows.view(np.float64).size * layout.real.itemsize
                end += -end % 8
            batch = _Batch(
                layout,
                slice(first, first + count),
                self._launcher.kernel(variant, TABLE),
                arguments_of(variant, TABLE),
            )
            self._batches.append(batch)
        self._table_at = end
        self._nbytes = end + self._table.nbytes
        self._slots = collections.deque(_StagingSlot(device, self._nbytes) for _ in range(2))

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that copy what the kernels read, and launch them."""
        self._refresh()
        device, slot = self._device, self._take_slot()
        values = self._rows.view(np.float64)[: self._n_rows * len(self._rows.dtype.names or ())]
        for real, at in self._sections.items():
            section = slot.pinned[at : at + values.size * real.itemsize].view(real)
            self._quiet.do(operator.setitem, section, ..., values)  # too large for a float32: infinite
        if slot.version != self._version:
            slot.pinned[self._table_at :] = self._table.view(np.uint8)
            calls = [
                device.copy_call(slot.target, slot.source, self._nbytes, stream),
                functools.partial(setattr, slot, "version", self._version),
            ]
        else:
            calls = [
                device.copy_call(slot.target + at, slot.source + at, values.size * real.itemsize, stream)
                for real, at in self._sections.items()
            ]
        for batch in self._batches:
            if batch.blocks:
                spans = slot.target + self._table_at + batch.where.start * self._table.itemsize
                count = batch.where.stop - batch.where.start
                batch.arguments.write(spans, count, slot.target + self._sections[batch.layout.real])
                calls.append(self._launcher.launch_call(batch.kernel, batch.blocks, stream, batch.arguments))
        return [*calls, device.record_call(slot.event, stream)]

    def _refresh(self) -> None:
        """Describe the spans anew, if one of them has changed."""
        words = self._spans.view(np.int64)
        if self._noted is not None and (words == self._noted).all():
            return
        self._noted = words.copy()
        self._n_rows = int(self._spans["row"].max()) + 1  # there may be room for many more
        for name in (*ROLES, "size", "row"):
            self._table[name] = self._spans[name]
        for batch in self._batches:
            layout, part = batch.layout, self._table[batch.where]
            names = ROLES if layout.amsgrad_on else ROLES[:-1]
            aligned = np.bitwise_or.reduce([part[name] for name in names]) % layout.vector_bytes == 0
            part["vectors"] = np.where(aligned, part["size"] // layout.lanes, 0)
            threads = part["size"] - part["vectors"] * (layout.lanes - 1)
            ends = np.cumsum(-(-threads // layout.block))
            part["first_block"] = ends - (-(-threads // layout.block))
            batch.blocks = int(ends[-1])
        self._version += 1

    def _take_slot(self) -> _StagingSlot:
        """Return a slot that no step under way reads."""
        device, slot = self._device, self._slots[0]
        if not device.passed(slot.event):
            more = None
            if len(self._slots) < MOST_UNDER_WAY:
                with contextlib.suppress(MemoryError):
                    more = _StagingSlot(device, self._nbytes)
            if more is None:
                device.wait(slot.event)
            else:
                self._slots.appendleft(slot := more)
        self._slots.rotate(-1)
        return slot


class _Batch:
    """One compiled variant's part of a table."""

    def __init__(self, layout: Layout, where: slice, kernel: Any, arguments: Any) -> None:
        self.layout, self.where, self.kernel, self.arguments = layout, where, kernel, arguments
        self.blocks = 0


class _StagingSlot:
    """Pinned memory of the host and memory of the device, for the table and the coefficients of one step."""

    def __init__(self, device: Any, nbytes: int) -> None:
        self._device = device
        self.pinned = device.reserve_pinned(nbytes)
        self.source = address(self.pinned)
        self._memory, self.target = device.reserve(nbytes)
        self.event = device.event()
        self.version = 0  # of the table in it

    def __del__(self) -> None:
        # Pinned memory must not be given back while a copy from it is under way.
        with contextlib.suppress(Exception), self._device.active():
            self._device.wait(self.event)
