"""The memory of a step."""

from __future__ import annotations

import numpy as np

from .measured import BACKENDS, LAYOUTS, Benchmark, maker, need_memory

SIZE = 10**7


class PeakMemory(Benchmark):
    """Peak memory of a process that makes an optimizer over ten million float32 parameters; and takes a step.

    The step brings the moments into memory, 8 bytes per parameter, and whatever it needs for itself.
    """

    param_names = ("backend", "layout", "process")
    params = (BACKENDS, LAYOUTS, ["without a step", "with a step"])

    def setup(self, backend: str, layout: str, process: str) -> None:
        make = maker(backend, layout)
        need_memory(32 * SIZE)
        maker(backend, layout)([np.ones(1, np.float32)], [[np.ones(1, np.float32)]])()  # compiles
        self.step = make([np.ones(SIZE, np.float32)], [[np.ones(SIZE, np.float32)]])

    def peakmem_process(self, backend: str, layout: str, process: str) -> None:
        if process == "with a step":
            self.step()
