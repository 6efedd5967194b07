"""What is compared: how weights and state are kept, and a trainee that keeps them so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import fastadam

# Where the examples are, from which two of the tasks come.
EXAMPLES = Path(__file__).parents[2] / "examples"
if str(EXAMPLES) not in sys.path:
    sys.path.append(str(EXAMPLES))

Floats = NDArray[np.float32]


class Setting(NamedTuple):
    """How weights and state are kept.

    Attributes
    ----------
    weights : str
        Their dtype.
    options : dict
        Of the optimizer.
    """

    weights: str
    options: dict[str, Any]


REFERENCE = "float32"
SETTINGS = {
    REFERENCE: Setting("float32", {}),
    "bfloat16 state": Setting("float32", {"state_dtype": "bfloat16"}),
    "int8 state": Setting("float32", {"state_dtype": "int8"}),
    "masters": Setting("bfloat16", {"master_weights": True}),
    "masters, int8 state": Setting("bfloat16", {"master_weights": True, "state_dtype": "int8"}),
    "stochastic": Setting("bfloat16", {"rounding": "stochastic", "state_dtype": "float32"}),
    "stochastic, int8 state": Setting("bfloat16", {"rounding": "stochastic", "state_dtype": "int8"}),
    "nearest": Setting("bfloat16", {"state_dtype": "float32"}),
    "all bfloat16, nearest": Setting("bfloat16", {}),
}


class Trainee:
    """Weights as a setting keeps them, and the float32 numbers that a model computes with.

    Parameters
    ----------
    seen : sequence of float32 ndarray
        What the model computes with; it is filled with the weights as they are kept.
    setting : Setting
    **options
        More options of the optimizer.
    """

    def __init__(self, seen: Sequence[Floats], setting: Setting, **options: Any) -> None:
        self.seen = list(seen)
        self.kept: list[Any] = self.seen
        if setting.weights == "bfloat16":
            self.kept = [each.astype(ml_dtypes.bfloat16) for each in self.seen]
        self.optimizer = fastadam.Adam(self.kept, **{"backend": "c", "threads": 1, **setting.options, **options})
        self._show()

    def _show(self) -> None:
        if self.kept is not self.seen:
            for seen, kept in zip(self.seen, self.kept, strict=True):
                seen[...] = kept

    def step(self, grads: Sequence[Floats]) -> None:
        """Take a step with float32 gradients."""
        self.optimizer.step(grads)
        self._show()

    @property
    def lr(self) -> Any:
        """The learning rate."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.optimizer.lr = lr


class Run(NamedTuple):
    """What one training gave.

    Attributes
    ----------
    final : float
        What counts in the end.
    curve : list of float
        How it went, at even distances.
    """

    final: float
    curve: list[float]
