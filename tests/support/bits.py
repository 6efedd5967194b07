"""Compare arrays bit by bit, and errors in units in the last place."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastadam


def bits(array: np.ndarray) -> np.ndarray:
    """Return the numbers' bit patterns; every NaN counts as the same one."""
    reals = np.ascontiguousarray(array).reshape(-1)
    reals = reals.view(
        {"complex64": np.float32, "complex128": np.float64}.get(array.dtype.name, array.dtype)
    ).copy()
    if reals.dtype.kind == "f":
        reals[np.isnan(reals)] = np.nan
    return reals.view(f"u{reals.itemsize}")


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """Fail unless both have the same shape, dtype and bits."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    differ = np.flatnonzero(bits(actual) != bits(expected))
    assert differ.size == 0, f"{what}: {differ.size} of {actual.size} differ, first at {differ[:3]}"


def snapshot(optimizer: fastadam.Adam) -> dict[str, np.ndarray]:
    """Return copies of all parameters, moments and step counters, by name of what they are."""
    found: dict[str, Any] = {}
    for i, group in enumerate(optimizer._groups):
        for j, member in enumerate(group.members):
            found[f"param {i}.{j}"] = member.array.copy()
            found[f"step {i}.{j}"] = np.array(group.steps[j])
            for name in group.moments:
                found[f"{name} {i}.{j}"] = group.moment(name, j).copy()
    return found


def assert_same_state(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Fail unless two snapshots agree in every bit."""
    assert actual.keys() == expected.keys()
    for what, value in expected.items():
        assert_same_bits(actual[what], value, what)


def random_arrays(shapes: Any, dtype: Any, seed: int, scale: float = 1.0) -> list[np.ndarray]:
    """Return normal random arrays."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    arrays = [rng.standard_normal(shape) * scale for shape in shapes]
    if dtype.kind == "c":
        arrays = [array + 1j * rng.standard_normal(array.shape) * scale for array in arrays]
    return [np.asarray(array, dtype=dtype) for array in arrays]
