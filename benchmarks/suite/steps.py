"""The time of one step."""

from __future__ import annotations

from .measured import BACKENDS, COMPILED, LAYOUTS, TORCH_FACE, Benchmark, make_step, seconds_of, shapes_of


class Step(Benchmark):
    """One step over one array."""

    param_names = ("backend", "layout", "size", "dtype")
    params = (BACKENDS, LAYOUTS, [10**3, 10**5, 10**7], ["float32", "float64"])

    def setup(self, backend: str, layout: str, size: int, dtype: str) -> None:
        self.step = make_step(backend, layout, [(size,)], dtype)

    def track_seconds(self, backend: str, layout: str, size: int, dtype: str) -> float:
        return seconds_of(self.step)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]


class ManyTensors(Benchmark):
    """One step over several tensors: those of PPO (12, or all in 1), of GPT-2 small, and 3,000 tiny ones."""

    param_names = ("backend", "layout", "tensors")
    params = (COMPILED, [*LAYOUTS, TORCH_FACE], [12, 1, 148, 3000])

    def setup(self, backend: str, layout: str, tensors: int) -> None:
        self.step = make_step(backend, layout, shapes_of(tensors))

    def track_seconds(self, backend: str, layout: str, tensors: int) -> float:
        return seconds_of(self.step)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
