"""How far float32 is from float64."""

from __future__ import annotations

import numpy as np

from .measured import BACKENDS, Benchmark, current, maker

SIZE = 10_000
LR = 1e-3  # that of the steps by hand


class Accuracy(Benchmark):
    """Largest distance from the same steps in float64, over parameters of all magnitudes.

    In units in the last place, in float32, of the largest of the parameter before, after, and the way Adam can go:
    what cancels cannot be had to an ulp of the small rest (``tests/support/oracle.py`` measures every operation).
    """

    param_names = ("backend", "steps")
    params = (BACKENDS, [1, 10, 100])

    def setup(self, backend: str, steps: int) -> None:
        self.make = maker(backend, "packed")

    def track_error(self, backend: str, steps: int) -> float:
        import fastadam

        rng = np.random.default_rng(0)
        magnitudes = 10.0 ** rng.uniform(-4, 4, SIZE)
        before = (rng.choice([-1, 1], SIZE) * magnitudes).astype(np.float32)
        grads = (rng.standard_normal((steps, SIZE)) * 10.0 ** rng.uniform(-4, 4, SIZE)).astype(np.float32)
        own = before.copy()
        optimizer = fastadam.Adam([own], lr=LR, backend=backend)
        exact = before.astype(np.float64)
        by_hand = current("contenders").numpy_per_tensor([exact], [[grad.astype(np.float64)] for grad in grads])
        for grad in grads:
            optimizer.step([grad])
            by_hand()
        scale = np.maximum(np.maximum(np.abs(before), np.abs(exact)), steps * LR)
        ulp = np.spacing(scale.astype(np.float32))
        return float(np.max(np.abs(own - exact) / ulp))

    track_error.unit = "ulp"  # type: ignore[attr-defined]
