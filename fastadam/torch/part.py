"""One parameter of a step that is taken with care: its tensors, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import COUNTER_FLOAT32, COUNTER_FLOAT64
from fastadam.torch.compact import Layout
from fastadam.torch.devices import ordinal_of
from fastadam.torch.sparse import Rows
from fastadam.torch.tensors import (
    apart,
    extent,
    format_code,
    has_its_memory,
    is_aligned,
    is_dense,
    is_plain,
    same_layout,
)

# The types of step counters that native code counts, by dtype.
COUNTERS = {torch.float32: COUNTER_FLOAT32, torch.float64: COUNTER_FLOAT64}


class Part:
    """One parameter of a step, checked: its tensors have its shape, dtype and device.

    What was checked, and is stepped then, are views. Nobody else has them, so that no code that runs in between
    can exchange what lies behind them, and they keep the memory alive.

    Parameters
    ----------
    position : int
        Among all parameters of the optimizer.
    group : int
    param : Tensor
    state : dict
    step : Tensor
        The counter.
    names : tuple of str
        Those of the tensors of the state that a step needs beside the counter: moments, then masters and scales.
    tensors : tuple of Tensor
        What is under these names.
    written : tuple of Tensor
        Views (see `fastadam.torch.tensors.view_of`) of the parameter and of those, which a step writes.
    read, counter : Tensor
        Views of the gradient and of the step counter.
    layout : Layout
        How all of them are to lie, by the options of the group.
    label : str
        How error messages call it.
    rows : Rows, optional
        Those that are stepped; `read` has their values, in the gradient's order. By default all are stepped.

    Attributes
    ----------
    extents : list of (int, int)
        The addresses between which `written` lie.
    has_memory : bool
        Whether there are numbers to step; meta tensors have none.
    ordinal : int or None
        The number of the CUDA device that the tensors are on, None for the host.
    lies_plainly : bool
        Whether parameter and state can be stepped where they are.
    formats : tuple of int
        The codes of the formats of its arrays, in the order of `fastadam.memory.structs.ROLES`.
    counts_plainly : bool
        Whether native code can count the step.
    """

    def __init__(
        self,
        position: int,
        group: int,
        param: Tensor,
        state: dict[str, Any],
        step: Tensor,
        names: tuple[str, ...],
        tensors: tuple[Tensor, ...],
        written: tuple[Tensor, ...],
        read: Tensor,
        counter: Tensor,
        layout: Layout,
        label: str,
        rows: Rows | None = None,
    ) -> None:
        self.position, self.group, self.label, self.rows = position, group, label, rows
        self.param, self.state, self.step, self.names, self.tensors = param, state, step, names, tensors
        self.written, self.read, self.counter = written, read, counter
        self.extents = [extent(tensor) for tensor in written]
        like = written[0]
        self.has_memory: bool = like.device.type != "meta"
        self.ordinal = ordinal_of(param)
        self.layout = layout
        param_format, _, *moment_formats = layout.formats
        self.formats = param_format, format_code(read), *moment_formats
        if layout.is_plain:
            lie_alike = is_dense(like) and all(same_layout(tensor, like) for tensor in written)
        else:
            lie_alike = all(tensor.is_contiguous() for tensor in written)
        self.lies_plainly = lie_alike and all(is_plain(tensor) and is_aligned(tensor) for tensor in written)
        self.counts_plainly = (
            counter.numel() == 1
            and counter.device.type == "cpu"
            and counter.dtype in COUNTERS
            and is_aligned(counter)
            and has_its_memory(counter)
        )

    def as_dense(self) -> Part:
        """Return the same parameter as if its gradient were dense, and of its dtype."""
        of_param = self.position, self.group, self.param, self.state, self.step, self.names, self.tensors
        return Part(*of_param, self.written, self.written[0], self.counter, self.layout, self.label)


def all_apart(parts: Sequence[Part]) -> bool:
    """Whether no two written tensors or counters of these parts lie in each other's range of memory."""
    written = [each for part in parts if part.has_memory for each in part.extents]
    counters = [extent(part.counter) for part in parts if part.counter.device.type == "cpu"]
    return apart([*written, *counters])
