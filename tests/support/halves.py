"""Parameters of 16 bits, by a float32 optimizer whose numbers are rounded between its steps."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastadam
from fastadam.memory.formats import BFLOAT16_STOCHASTIC, FLOAT16_STOCHASTIC
from tests.support.compact import Kept, random_bits
from tests.support.foreign import library

ml_dtypes: Any = library("ml_dtypes")
BFLOAT16, FLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
HALVES = (BFLOAT16, FLOAT16)
# Those that take gradients of each other.
MIXED = (FLOAT32, BFLOAT16, FLOAT16)
DECAYS: dict[str, dict[str, Any]] = {
    "no decay": {},
    "l2": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "amsgrad": {"amsgrad": True},
    "amsgrad l2": {"amsgrad": True, "weight_decay": 0.1},
    "amsgrad decoupled": {"amsgrad": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
}

STOCHASTIC = {BFLOAT16: BFLOAT16_STOCHASTIC, FLOAT16: FLOAT16_STOCHASTIC}
PARAM = 0  # the role


def numbers(shapes: Any, dtype: Any, seed: int, scale: float = 1.0) -> list[np.ndarray]:
    """Return normal random numbers in a dtype."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape) * scale, np.float32).astype(dtype) for shape in shapes]


def bits(array: Any) -> np.ndarray:
    """Return the bits of real or whole numbers; every NaN counts as the same one."""
    array = np.array(array)
    if array.dtype.kind not in "iu":
        array[np.isnan(array)] = np.nan
    return array.view(f"u{array.itemsize}")


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Fail unless two arrays have the same dtype, shape and bits."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    differ = np.flatnonzero(bits(actual) != bits(expected))
    assert differ.size == 0, f"{what}: {differ.size} of {actual.size} differ, first at {differ[:3]}"


class Rounded:
    """Steps float32 arrays, whose weights, and moments where asked for, are rounded after each step.

    Parameters
    ----------
    params : list of ndarray
        Of any dtype, which they are rounded to.
    moments : dtype or None
        What moments are rounded to; None for the parameters'.
    rounding, seed
        Of the weights, as those of `fastadam.Adam`.
    **options
        Of `fastadam.Adam`.
    """

    def __init__(
        self,
        params: list[np.ndarray],
        moments: Any = None,
        rounding: str = "nearest",
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.dtypes = [param.dtype for param in params]
        self.moments, self.rounding, self.seed = moments, rounding, seed
        self.wide = [param.astype(np.float32) for param in params]
        self.optimizer = fastadam.Adam(self.wide, backend="numpy", **options)

    def step(self, grads: list[Any], **how: Any) -> None:
        """Take a step with gradients in float32; None leaves a parameter out."""
        self.optimizer.step([None if grad is None else grad.astype(np.float32) for grad in grads], **how)
        for i, (array, dtype, grad) in enumerate(zip(self.wide, self.dtypes, grads, strict=True)):
            if grad is None or dtype == FLOAT32:
                continue
            state = self.optimizer.state[i]
            with np.errstate(over="ignore"):
                for name in set(state) - {"step"}:
                    state[name][...] = state[name].astype(self.moments or dtype)
                if self.rounding == "nearest":
                    array[...] = array.astype(dtype)
                else:
                    self._round(array, dtype, int(state["step"]), i)

    def _round(self, array: np.ndarray, dtype: Any, step: int, position: int) -> None:
        number_format = STOCHASTIC[dtype]
        kept = Kept(number_format, np.zeros(array.size, number_format.stored))
        kept.write(array.reshape(-1), random_bits(self.seed, step, position, PARAM, array.size))
        array[...] = kept.read().reshape(array.shape)

    def weights(self) -> list[np.ndarray]:
        """Return the weights in the dtypes of the parameters."""
        return [array.astype(dtype) for array, dtype in zip(self.wide, self.dtypes, strict=True)]
