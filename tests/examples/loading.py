"""The examples, which are no package, as modules; and what their tests share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    """Import an example as Python finds it when it is run: its folder comes first."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def run_main(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> None:
    """Run an example's `main` as the command line would, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    load(name).main()


def central_differences(function: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Return the derivatives of a function by the elements of a float64 array that it reads."""
    slopes = np.empty_like(array)
    for index in np.ndindex(array.shape):
        old = array[index]
        array[index] = old + step
        above = function()
        array[index] = old - step
        below = function()
        array[index] = old
        slopes[index] = (above - below) / (2 * step)
    return slopes
