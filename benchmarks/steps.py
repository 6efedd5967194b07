"""asv benchmarks: the time of a step. Run with ``asv run``; what a machine lacks is skipped."""

from __future__ import annotations

import numpy as np

import fastadam
from fastadam.cli import contenders, shapes


class Step:
    """One step over one tensor, by backend, layout and size."""

    param_names = ("backend", "layout", "size")
    params = (["c", "numba", "numpy"], ["packed", "in place"], [10**3, 10**5, 10**7])

    def setup(self, backend: str, layout: str, size: int) -> None:
        self.step = make(backend, layout, [(size,)])

    def time_step(self, backend: str, layout: str, size: int) -> None:
        self.step()


class ManyTensors:
    """One step over many tensors, by backend, layout and set of shapes."""

    param_names = ("backend", "layout", "shapes")
    params = (["c", "numba"], ["packed", "in place"], ["ppo pair", "3,000 tiny tensors"])

    def setup(self, backend: str, layout: str, name: str) -> None:
        self.step = make(backend, layout, shapes.ppo_pair() if name == "ppo pair" else shapes.tiny_tensors())

    def time_step(self, backend: str, layout: str, name: str) -> None:
        self.step()


def make(backend: str, layout: str, sizes: shapes.Shapes) -> contenders.Step:
    """Return a step function that has been called once, so that kernels are compiled and pages there."""
    if fastadam.available_backends()[backend] != "available":
        raise NotImplementedError(f"{backend} is not available")  # how asv is told to skip
    params = [np.full(shape, 0.5, np.float32) for shape in sizes]
    grads = [np.full(shape, 0.1, np.float32) for shape in sizes]
    maker = contenders.fastadam_packed if layout == "packed" else contenders.fastadam_in_place
    step = maker(backend)(params, [grads])
    step()
    return step
