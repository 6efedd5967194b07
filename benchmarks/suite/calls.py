"""How often a step enters native code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .measured import LAYOUTS, TORCH_FACE, Benchmark, make_step, need_module, shapes_of


class NativeCalls(Benchmark):
    """Calls of the C extension in one step; without torch's or NumPy's own native code."""

    param_names = ("layout", "tensors")
    params = ([*LAYOUTS, TORCH_FACE], [12, 3000])

    def setup(self, layout: str, tensors: int) -> None:
        module = need_module("fastadam.backends.c")
        self.counter = Counter(module.lib)
        module.lib = self.counter
        self.step = make_step("c", layout, shapes_of(tensors))

    def track_calls(self, layout: str, tensors: int) -> int:
        self.counter.calls = 0
        self.step()
        return self.counter.calls

    track_calls.unit = "calls per step"  # type: ignore[attr-defined]


class Counter:
    """Stands before a cffi library and counts the calls of its functions."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.lib, name)
        return self.counted(found) if callable(found) else found

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls += 1
            return function(*args)

        return call
