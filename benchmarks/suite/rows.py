"""Steps over some rows of a table: their time."""

from __future__ import annotations

import numpy as np

from .measured import Benchmark, need_memory, seconds_of

ROWS, WIDTH = 10**6, 64


class Rows(Benchmark):
    """Random rows of one array of a million, as `fastadam.Rows` and by a mask."""

    param_names = ("by", "share")
    params = (["Rows", "mask"], [0.0001, 0.01, 0.3])

    def setup(self, by: str, share: float) -> None:
        import fastadam

        if not hasattr(fastadam, "Rows"):
            raise NotImplementedError("this version has no rows")
        need_memory(5 * 4 * ROWS * WIDTH)
        rng = np.random.default_rng(0)
        optimizer = fastadam.Adam([np.zeros((ROWS, WIDTH), np.float32)])
        indices = rng.choice(ROWS, round(ROWS * share), replace=False)
        if by == "mask":
            mask = np.zeros(ROWS, bool)
            mask[indices] = True
            grads = np.ones((ROWS, WIDTH), np.float32)
            self.step = lambda: optimizer.step([grads], mask={0: mask})
        else:
            rows = fastadam.Rows(indices, np.ones((len(indices), WIDTH), np.float32))
            self.step = lambda: optimizer.step([rows])
        self.step()  # type: ignore[no-untyped-call]

    def track_seconds(self, by: str, share: float) -> float:
        return seconds_of(self.step)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
