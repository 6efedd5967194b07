"""Parameters that are pruned and grow again: their time."""

from __future__ import annotations

import numpy as np

from .measured import Benchmark, need_memory, seconds_of


class PruneAndGrow(Benchmark):
    """A tenth of the rows of one array is taken away, and as many new ones are added."""

    param_names = ("state_dtype", "rows")
    params = (["float32", "int8"], [10**3, 10**5])
    width = 59

    def setup(self, state_dtype: str, rows: int) -> None:
        import fastadam

        if not hasattr(fastadam.Adam, "resize"):
            raise NotImplementedError("this version has no resize")
        need_memory(40 * rows * self.width)
        optimizer = fastadam.Adam([np.zeros((rows, self.width), np.float32)], state_dtype=state_dtype)  # type: ignore[arg-type]
        optimizer.step([np.ones((rows, self.width), np.float32)])
        left = np.flatnonzero(np.arange(rows) % 10)
        more = rows - len(left)

        def change() -> None:
            optimizer.resize(0, keep=left)
            optimizer.resize(0, grow=more)

        self.change = change

    def track_seconds(self, state_dtype: str, rows: int) -> float:
        return seconds_of(self.change)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
