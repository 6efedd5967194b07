"""Small arrays that tests of the face for arrays share, and the simplest run over them."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastadam
from tests.support.bits import assert_same_bits, random_arrays

SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), ()]
F32 = np.float32


def arrays(seed: int = 0, dtype: Any = np.float64) -> list[np.ndarray]:
    return random_arrays(SHAPES, dtype, seed)


def after_two_steps(params: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    """Return what the simplest use makes of `params`: a list of arrays, a list of gradients."""
    copies = [param.copy() for param in params]
    optimizer = fastadam.Adam(copies, **options)
    optimizer.step(arrays(1))
    optimizer.step(arrays(2))
    return copies


def assert_equal(actual: Any, expected: list[np.ndarray]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_same_bits(np.asarray(a), e)
