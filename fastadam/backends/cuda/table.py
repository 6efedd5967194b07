"""Batches of several spans: a table in device memory describes them, beside the rows of coefficients.

Spans for the general kernels go by a table, too, however few they are; their entries say more.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.backends.cuda.general_kernels import GENERAL_TABLE
from fastadam.backends.cuda.kernels import AVERAGES_TABLE, N_COEFFICIENTS
from fastadam.backends.cuda.kernels import TABLE as ENTRY
from fastadam.backends.cuda.launches import AVERAGES, TABLE, arguments_of, launcher
from fastadam.backends.cuda.layout import Layout
from fastadam.backends.cuda.staging import Staging
from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE
from fastadam.step.backend import Call
from fastadam.step.quiet import Quiet


class Tables:
    """Such batches of one plan, with the memory that their steps need.

    Parameters
    ----------
    device : Gpu
    spans : ndarray of SPAN
        Theirs alone; looked at in each launch.
    rows : ndarray of ROW
    batches : list of (int, int, int)
        Variant, first span and number of spans of each. Either all are for the general kernels, or none.
    scales : mapping of dtype to int
        See `fastadam.backends.cuda.flat.Flat`.
    weights : ndarray of float64, optional
        How far the averages of each row's spans move; by default there are none.
    keys : ndarray of int64, optional
        What the random bits of each row's spans come from, for the general kernels.
    """

    def __init__(
        self,
        device: Any,
        spans: Array,
        rows: Array,
        batches: list[tuple[int, int, int]],
        scales: Mapping[Any, int],
        weights: Array | None = None,
        keys: Array | None = None,
    ) -> None:
        self._device, self._spans, self._rows, self._scales = device, spans, rows, scales
        self._launcher = launcher(device)
        self._quiet = Quiet()
        self._noted: Array | None = None
        self._version = self._n_rows = 0
        self._weights, self._keys = weights, keys
        which, entry, columns = TABLE, ENTRY, N_COEFFICIENTS
        if weights is not None:
            which, entry, columns = AVERAGES, AVERAGES_TABLE, N_COEFFICIENTS + 1
        if keys is not None:
            entry = GENERAL_TABLE
        self._batches = []
        self._table = np.zeros(len(spans), entry)
        # What is for each row comes first: it is copied for every step, the table is not.
        self._sections: dict[np.dtype[Any], int] = {}
        end = 0 if keys is None else keys.nbytes
        for variant, first, count in batches:
            layout = Layout(variant)
            if layout.real not in self._sections:
                self._sections[layout.real] = end
                end += len(rows) * columns * layout.real.itemsize
                end += -end % 8
            batch = _Batch(
                layout,
                slice(first, first + count),
                self._launcher.kernel(variant, which),
                arguments_of(variant, which),
            )
            self._batches.append(batch)
        self._table_at = end
        self._nbytes = end + self._table.nbytes
        self._staging = Staging(device, self._nbytes)

    def launches(self, stream: int) -> list[Call]:
        """Return the driver's calls that copy what the kernels read, and launch them."""
        self._refresh()
        device, slot = self._device, self._staging.take()
        values = self._rows.view(np.float64)[: self._n_rows * N_COEFFICIENTS]
        if self._weights is not None:
            scalars = values.reshape(-1, N_COEFFICIENTS)
            values = np.column_stack([scalars, self._weights[: self._n_rows]]).reshape(-1)
        for real, at in self._sections.items():
            section = slot.pinned[at : at + values.size * real.itemsize].view(real)
            self._quiet.do(operator.setitem, section, ..., values)  # too large for a float32: infinite
        copied = [(at, values.size * real.itemsize) for real, at in self._sections.items()]
        if self._keys is not None:
            keys = self._keys[: self._n_rows]
            slot.pinned[: keys.nbytes] = keys.view(np.uint8)
            copied.append((0, keys.nbytes))
        if slot.version != self._version:
            slot.pinned[self._table_at :] = self._table.view(np.uint8)
            calls = [
                device.copy_call(slot.target, slot.source, self._nbytes, stream),
                functools.partial(setattr, slot, "version", self._version),
            ]
        else:
            calls = [device.copy_call(slot.target + at, slot.source + at, nbytes, stream) for at, nbytes in copied]
        for batch in self._batches:
            if batch.blocks:
                spans = slot.target + self._table_at + batch.where.start * self._table.itemsize
                count = batch.where.stop - batch.where.start
                rows = slot.target + self._sections[batch.layout.real]
                words = spans, count, rows, self._scales.get(batch.layout.real, 0)
                batch.arguments.write(*words, *(() if self._keys is None else (slot.target,)))
                calls.append(self._launcher.launch_call(batch.kernel, batch.blocks, stream, batch.arguments))
        return [*calls, device.record_call(slot.event, stream)]

    def _refresh(self) -> None:
        """Describe the spans anew, if one of them has changed."""
        words = self._spans.view(np.int64)
        if self._noted is not None and (words == self._noted).all():
            return
        self._noted = words.copy()
        self._n_rows = int(self._spans["row"].max()) + 1  # there may be room for many more
        averages = () if self._weights is None else (AVERAGE,)
        for name in self._table.dtype.names or ():
            if name not in ("vectors", "first_block"):
                self._table[name] = self._spans[name]
        for batch in self._batches:
            layout, part = batch.layout, self._table[batch.where]
            part["vectors"] = layout.vectors(part, averages)
            threads = layout.threads(part["size"], part["vectors"])
            ends = np.cumsum(-(-threads // layout.block))
            part["first_block"] = ends - (-(-threads // layout.block))
            batch.blocks = int(ends[-1])
        self._version += 1


class _Batch:
    """One compiled variant's part of a table."""

    def __init__(self, layout: Layout, where: slice, kernel: Any, arguments: Any) -> None:
        self.layout, self.where, self.kernel, self.arguments = layout, where, kernel, arguments
        self.blocks = 0
