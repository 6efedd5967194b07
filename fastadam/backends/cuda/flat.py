"""A batch of one span, such as a packed group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastadam.backends.cuda.launches import FLAT, arguments_of, launcher
from fastadam.backends.cuda.layout import Layout
from fastadam.memory.arrays import Array


class Flat:
    """A batch of one span: its description goes along with the launch.

    Parameters
    ----------
    device : Gpu
    variant : int
    spans : ndarray of SPAN
    index : int
        Of the span.
    rows : ndarray of ROW
    scales : mapping of dtype to int
        Where a device has what ``grad_scale`` is multiplied by, in each compute dtype; empty where that is all.
    """

    def __init__(
        self, device: Any, variant: int, spans: Array, index: int, rows: Array, scales: Mapping[Any, int]
    ) -> None:
        self._spans, self._index, self._rows = spans, index, rows
        self._layout = Layout(variant)
        self._launcher = launcher(device)
        self._kernel = self._launcher.kernel(variant, FLAT)
        self._arguments = arguments_of(variant, FLAT)
        self._scale = scales.get(self._layout.real, 0)

    def launches(self, stream: int) -> list[Callable[[], tuple[Any]]]:
        """Return the launch as a call of the driver, or nothing where there is nothing to step."""
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, row, *_ = self._spans[self._index].item()
        layout = self._layout
        addresses = param | grad | exp_avg | exp_avg_sq | (max_exp_avg_sq if layout.amsgrad_on else 0)
        vectors = 0 if addresses % layout.vector_bytes else size // layout.lanes
        threads = size - vectors * (layout.lanes - 1)
        if not threads:
            return []
        span = param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors
        self._arguments.write(*span, self._scale, *self._rows[row].item())
        blocks = -(-threads // layout.block)
        return [self._launcher.launch_call(self._kernel, blocks, stream, self._arguments)]
