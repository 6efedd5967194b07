"""What the tests of conversions share: a problem to train on, and how near two libraries must come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_state, snapshot

SHAPES: dict[str, tuple[int, ...]] = {"head": (3,), "layer/b": (), "layer/w": (4, 3)}
STEPS = 7
# Roundings differ, over 7 steps of 0.05, and the gradient makes up to 20 times as much of a difference. Most of it
# is in 1 - beta**step, which optax and Keras compute in the parameter's dtype: 2e-5 of a step in float32.
TOLERANCE = {"float32": 5e-5, "float64": 1e-12, "complex64": 5e-5, "complex128": 1e-12}


def params(dtype: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {name: np.asarray(rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    return {
        name: np.array(value * (1 + 0.5j) if np.dtype(dtype).kind == "c" else value, dtype)
        for name, value in drawn.items()
    }


def gradient(param: Any, step: int) -> np.ndarray:
    """Return a gradient that depends on the parameter, so that errors would add up."""
    return np.asarray(np.sin(np.asarray(param) * (1 + step)) + 0.1, np.asarray(param).dtype)


def train(ours: fastadam.Adam, arrays: Mapping[str, np.ndarray], first: int) -> None:
    for step in range(first, first + STEPS):
        grads = [gradient(array, step) for array in arrays.values()]
        ours.step(dict(zip(arrays, grads, strict=True)) if "param_names" in ours.param_groups[0] else grads)


def assert_near(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Compare element by element; the numbers are of the size of 1."""
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        other = np.asarray(theirs[name])
        assert other.dtype == array.dtype
        np.testing.assert_allclose(array, other, rtol=0, atol=TOLERANCE[array.dtype.name], err_msg=name)


def assert_refuses(convert_to: Callable[[fastadam.Adam], None], name: str, error: Any, match: str) -> None:
    """Fail unless a conversion to an optimizer for three numbers raises this, and changes nothing."""
    ours = fastadam.Adam({name: np.ones(3, np.float32)}, lr=0.5)
    ours.step({name: np.full(3, 2, np.float32)})
    before, options = snapshot(ours), repr(ours.param_groups)
    with pytest.raises(error, match=match):
        convert_to(ours)
    assert_same_state(snapshot(ours), before)
    assert repr(ours.param_groups) == options
