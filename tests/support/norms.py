"""Gradients of all sizes and their norm, for any backend."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from fastadam.memory.structs import BLOCK, MEASURES
from fastadam.step.norm import Norm
from fastadam.work.norms import measure
from tests.support.strategies import DTYPES, seeds

LENGTHS = (0, 1, 5, 15, 16, 17, 31, 32, 33, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7)


def norm_of(grads: list[Any], backend: str = "auto", threads: int | None = None) -> float:
    norm = Norm()
    norm.block["wanted"] = MEASURES
    measure(grads, norm, backend, threads)
    return float(norm.block["norm"])


def bits(number: float) -> bytes:
    return np.float64(number).tobytes()


@st.composite
def gradients(draw: st.DrawFn) -> list[Any]:
    """Draw gradients of different lengths, dtypes and magnitudes, with some numbers far larger than the others."""
    grads = []
    for _ in range(draw(st.integers(1, 4))):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        rng = np.random.default_rng(draw(seeds))
        reach = 38 if dtype.type(0).real.itemsize == 4 else 300
        size = 10.0 ** draw(st.integers(-reach, reach - 10))
        grad = rng.standard_normal(draw(st.sampled_from(LENGTHS)))
        spread = draw(st.sampled_from([0.0, 0.0, 20.0]))
        grad = grad * np.power(10.0, -spread * rng.random(len(grad)))
        if np.issubdtype(dtype, np.complexfloating):
            grad = grad + 1j * rng.standard_normal(len(grad))
        with np.errstate(all="ignore"):
            grads.append((grad * size).astype(dtype))
    return grads
