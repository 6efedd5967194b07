"""Steps over compact state: their time, and what the state takes."""

from __future__ import annotations

import inspect

import numpy as np

from .measured import COMPILED, SETTLED, Benchmark, current, need_backend, need_memory, seconds_of

STATE_DTYPES = ["float32", "bfloat16", "int8"]


def need_state_dtypes() -> None:
    """Have asv skip the benchmark where the package is older than they are."""
    import fastadam

    if "state_dtype" not in inspect.signature(fastadam.Adam).parameters:
        raise NotImplementedError("this version has no state_dtype")


class CompactStep(Benchmark):
    """One step over one float32 array, whose moments lie in less bytes."""

    param_names = ("backend", "state_dtype", "size")
    params = (COMPILED, STATE_DTYPES, [10**5, 10**6, 10**7])

    def setup(self, backend: str, state_dtype: str, size: int) -> None:
        need_backend(backend)
        need_state_dtypes()
        need_memory(24 * size)
        make = current("contenders").fastadam_in_place(backend, state_dtype=state_dtype)
        self.step = make([np.full(size, 0.5, np.float32)], [[np.ones(size, np.float32)]])
        for _ in range(SETTLED):
            self.step()

    def track_seconds(self, backend: str, state_dtype: str, size: int) -> float:
        return seconds_of(self.step)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]


class CompactState(Benchmark):
    """Bytes of the moments, with all that belongs to them, for each parameter of a large array."""

    param_names = ("state_dtype",)
    params = (STATE_DTYPES,)
    size = 10**6

    def setup(self, state_dtype: str) -> None:
        need_state_dtypes()

    def track_bytes_per_parameter(self, state_dtype: str) -> float:
        import fastadam

        param = np.zeros(self.size, np.float32)
        optimizer = fastadam.Adam([param], state_dtype=state_dtype)  # type: ignore[arg-type]
        optimizer.step([np.ones(self.size, np.float32)])
        (entry,) = optimizer.state_dict()["state"].values()
        taken: int = sum(value.nbytes for name, value in entry.items() if name != "step")
        return taken / self.size

    track_bytes_per_parameter.unit = "bytes"  # type: ignore[attr-defined]
