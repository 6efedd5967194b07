"""What all changes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import Side, draw  # noqa: E402

SHAPES = [(7,), (3, 4), (4, 3), (), (3, 4), (2, 3, 4, 5), (0,), (300,)]
Change = Callable[[Side], object]


def new_list() -> tuple[dict[str, Change], Callable[[Change], Change]]:
    """Return a list of changes by their names, and the decorator that puts a function there.

    A function changes something on one side; it is called several times.
    """
    changes: dict[str, Change] = {}

    def change(f: Change) -> Change:
        changes[f.__name__.replace("_", " ").strip()] = f
        return f

    return changes, change


def like(tensor: Any, seed: int = 5) -> Any:
    return draw(tensor.shape, tensor.dtype, seed)
