"""What hypothesis draws: hyperparameters, sizes, shapes, and numbers of every kind."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

# How many times as many examples are drawn as in a plain run.
TIMES = float(os.environ.get("FASTADAM_EXAMPLES", "1"))


def examples(usual: int, **others: Any) -> hypothesis.settings:
    """Return the settings of a test that draws so many examples in a plain run, and others in longer ones."""
    return hypothesis.settings(max_examples=max(1, round(usual * TIMES)), **others)


REALS = (np.float32, np.float64)
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)

# Around the lengths at which vector loops, blocks and shares begin and end.
EDGES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 8191, 8192, 8193)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 200))
shapes = st.one_of(
    st.just(()),
    sizes.map(lambda n: (n,)),
    st.tuples(st.integers(0, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
)
seeds = st.integers(0, 2**32 - 1)

betas = st.one_of(
    st.just(0.0),
    st.sampled_from([0.5, 0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9, 1 - 2**-53]),
    st.floats(1e-300, 1 - 2**-53),
    st.floats(0.0, 53.0).map(lambda digits: 1 - 2**-digits),
)
steps = st.one_of(
    st.integers(1, 1000), st.integers(1, 2**53), st.floats(0.0, 53.0).map(lambda digits: int(2**digits))
)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the options of a group."""
    return {
        "lr": draw(st.sampled_from([1e-4, 1e-3, 0.1, 1.0, 0.0])),
        "betas": (
            draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
            draw(st.sampled_from([0.0, 0.9, 0.99, 0.999])),
        ),
        "eps": draw(st.sampled_from([1e-8, 1e-5, 1e-3])),
        "weight_decay": draw(st.sampled_from([0.0, 0.0, 1e-2, 0.3])),
        "amsgrad": draw(st.booleans()),
        "maximize": draw(st.booleans()),
        "decoupled_weight_decay": draw(st.booleans()),
    }


def magnitudes(dtype: Any) -> st.SearchStrategy[float]:
    """Draw numbers whose squares, times the smallest coefficient, neither overflow nor get denormal."""
    low, high = (1e-14, 1e14) if np.dtype(dtype) == np.float32 else (1e-100, 1e100)
    numbers = st.floats(low, high).map(lambda x: float(np.dtype(dtype).type(x)))
    return st.one_of(st.just(0.0), numbers, numbers.map(lambda x: -x))


def smallest(dtype: Any) -> st.SearchStrategy[float]:
    """Draw numbers around the smallest normal one, below which they are denormal, and those whose squares are."""
    tiny = float(np.finfo(dtype).tiny)
    around, root = st.floats(2.0**-20, 2.0**20), st.floats(2.0**-10, 2.0**10)
    numbers = st.one_of(around.map(lambda x: x * tiny), root.map(lambda x: x * tiny**0.5))
    signed = st.one_of(numbers, numbers.map(lambda x: -x)).map(lambda x: float(np.dtype(dtype).type(x)))
    return st.one_of(st.just(0.0), signed, magnitudes(dtype))


def anything(dtype: Any) -> st.SearchStrategy[float]:
    """Draw every number there is: denormal, huge, infinite, NaN."""
    width = 8 * np.dtype(dtype).itemsize
    return st.floats(width=width, allow_nan=True, allow_infinity=True, allow_subnormal=True)
