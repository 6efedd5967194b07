"""Keeps what was made for steps in which some gradients are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Made = TypeVar("Made")

MOST_PATTERNS = 16


class Patterns(Generic[Made]):
    """What was made for the last patterns of missing gradients; when there are `MOST_PATTERNS`, it starts anew.

    Most trainings have a few patterns that take turns; one with a new pattern in each step must not fill the
    memory.
    """

    def __init__(self) -> None:
        self._made: dict[bytes, Made] = {}

    def find(self, pattern: bytes, make: Callable[[], Made]) -> Made:
        """Return what was made for a pattern, or make it.

        Parameters
        ----------
        pattern : bytes
            Which gradients there are, such as ``active.tobytes()``.
        make : callable
            Called where nothing is kept of this pattern.
        """
        if pattern not in self._made:
            if self.is_full:
                self._made.clear()
            self._made[pattern] = make()
        return self._made[pattern]

    @property
    def is_full(self) -> bool:
        """Whether another pattern would make it start anew."""
        return len(self._made) >= MOST_PATTERNS

    def __contains__(self, pattern: object) -> bool:
        return pattern in self._made

    def __iter__(self) -> Iterator[Made]:
        return iter(self._made.values())

    def clear(self) -> None:
        """Forget all."""
        self._made.clear()
