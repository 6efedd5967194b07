"""Numbers in every format, and options of every variant, for plans over plain memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam.memory.formats import BFLOAT16, FLOAT16
from fastadam.step.hyperparameters import Hyperparameters
from tests.support.eager import narrow

HALVES = [BFLOAT16, FLOAT16]


def bits_of(array: np.ndarray, name: str) -> np.ndarray:
    """Return the numbers' bits, with one NaN for all."""
    bits = array.view(f"u{array.itemsize}").copy()
    exponent, mantissa = {
        "bfloat16": (0x7F80, 0x7F),
        "float16": (0x7C00, 0x3FF),
        "float32": (0x7F800000, 0x7FFFFF),
        "float64": (0x7FF << 52, (1 << 52) - 1),
    }[name]
    bits[((bits & bits.dtype.type(exponent)) == exponent) & ((bits & bits.dtype.type(mantissa)) != 0)] = (
        exponent + 1
    )
    return bits


def numbers(number_format: Any, size: int, seed: int, *, positive: bool = False) -> np.ndarray:
    """Return numbers of a format: normal ones of all sizes, small ones around the least, and every special one."""
    rng = np.random.default_rng(seed)
    if number_format.stored.itemsize == 2:
        found = rng.integers(0, 2**16, size).astype(np.uint16).view(number_format.stored)
        usual = narrow(rng.standard_normal(size).astype(np.float32), number_format)
    else:
        found = rng.integers(0, 2 ** (8 * number_format.stored.itemsize), size, dtype=np.uint64)
        found = found.astype(f"u{number_format.stored.itemsize}").view(number_format.stored)
        usual = rng.standard_normal(size).astype(number_format.stored)
    least = 2.0**-14 if number_format is FLOAT16 else float(np.finfo(number_format.compute).smallest_normal)
    small = narrow((rng.standard_normal(size) * least).astype(number_format.compute), number_format)
    found = np.choose(rng.integers(0, 3, size), [found, usual, small])
    if positive:
        sign = found.dtype.itemsize * 8 - 1
        unsigned = found.view(f"u{found.itemsize}")
        found = (unsigned & unsigned.dtype.type((1 << sign) - 1)).view(found.dtype)
    return np.ascontiguousarray(found)


# One of each variant. Without eps, small moments stay what they are.
HYPERS = {
    "plain": Hyperparameters(lr=0.1),
    "l2": Hyperparameters(lr=0.1, weight_decay=0.1, maximize=True),
    "decoupled": Hyperparameters(lr=0.1, weight_decay=0.1, eps=0.0, decoupled_weight_decay=True),
    "amsgrad": Hyperparameters(lr=0.1, amsgrad=True),
    "amsgrad l2": Hyperparameters(lr=0.1, weight_decay=0.1, amsgrad=True),
    "amsgrad decoupled": Hyperparameters(lr=0.1, weight_decay=0.1, amsgrad=True, decoupled_weight_decay=True),
}
