"""What the tests of growth share: how parameters are held, and optimizers that are made anew."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import fastadam
from tests.support.bits import assert_same_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LAYOUTS = ("list", "dict", "nested", "Parameters", "packed")
# Of a group: the dtype of its arrays, and options.
FORMATS: list[tuple[Any, dict[str, Any]]] = [
    (np.float32, {}),
    (np.float32, {}),
    (np.float64, {}),
    (np.complex64, {}),
    (np.float32, {"state_dtype": "bfloat16"}),
    (np.float32, {"state_dtype": "int8"}),
    (np.complex64, {"state_dtype": "int8"}),
    (np.float16, {"master_weights": True}),
    (BFLOAT16, {"master_weights": True, "state_dtype": "int8"}),
    (BFLOAT16, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
]
AVERAGED = [each for each in FORMATS if each[0] not in (np.float16, BFLOAT16)]
SHAPES: list[tuple[int, ...]] = [(5,), (1, 1), (4, 3), (3, 64), (7, 32), (2, 5, 2), (0, 3), (3, 0), (70,), ()]
INHERITED = ("ema", "master_param")


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    found = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.standard_normal(shape)
    return np.asarray(found).astype(dtype)


def hold(layout: str, values: list[np.ndarray]) -> Any:
    """Return what holds copies of arrays, for an optimizer."""
    arrays = [value.copy() for value in values]
    named = {f"w{i}": array for i, array in enumerate(arrays)}
    if layout == "dict":
        return named
    if layout == "nested":
        return {"first": arrays[0], "more": [{"w": array} for array in arrays[1:]]}
    if layout == "Parameters":
        return [fastadam.Parameter(array) for array in arrays]
    return fastadam.pack(named if len(arrays) > 1 else arrays) if layout == "packed" else arrays


def values_of(optimizer: Any) -> list[np.ndarray]:
    """Return all parameters, as plain arrays."""
    found = [each for group in optimizer.param_groups for each in group["params"]]
    return [np.array(each.data if isinstance(each, fastadam.Parameter) else each) for each in found]


def anew(optimizer: Any, backend: str, values: list[np.ndarray], saved: Any) -> Any:
    """Return another optimizer, over plain arrays in lists, with this state."""
    place, groups = 0, []
    for group in saved["param_groups"]:
        count = len(group["params"])
        fixed = {key: group[key] for key in ("state_dtype", "master_weights", "rounding", "seed")}
        groups.append({"params": [value.copy() for value in values[place : place + count]], **fixed})
        place += count
    settings = {"ema_decay": optimizer.ema_decay} if optimizer.ema_decay is not None else {}
    other = fastadam.Adam(groups, backend=backend, **settings)
    other.load_state_dict(saved)
    return other


def same(one: Any, other: Any) -> None:
    """Compare parameters and state dicts, but for names."""
    for i, (first, second) in enumerate(zip(values_of(one), values_of(other), strict=True)):
        assert_same_bits(first, second, f"parameter {i}")
    found, expected = one.state_dict(), other.state_dict()
    assert found["state"].keys() == expected["state"].keys()
    for key, entry in found["state"].items():
        assert entry.keys() == expected["state"][key].keys()
        for name, value in entry.items():
            assert_same_bits(np.asarray(value), np.asarray(expected["state"][key][name]), f"{name} {key}")
    for group, others in zip(found["param_groups"], expected["param_groups"], strict=True):
        assert {**group, "param_names": 0} == {**others, "param_names": 0}


def small(**options: Any) -> Any:
    """Return an optimizer that has been stepped."""
    optimizer = fastadam.Adam({"w": np.ones((4, 2)), "s": np.ones(())}, **options)
    optimizer.step({"w": np.ones((4, 2)), "s": np.ones(())})
    return optimizer
