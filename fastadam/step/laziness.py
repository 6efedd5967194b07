"""What becomes of steps that rows miss: those in which they have no gradient, and others have."""

from __future__ import annotations

from typing import Any, Literal

Lazy = Literal["skip", "exact"]
SKIP: Lazy = "skip"
EXACT: Lazy = "exact"


def check_lazy(lazy: Any) -> Lazy:
    """Return what is to become of steps that rows miss, checked.

    Raises
    ------
    ValueError
        If it is neither "skip" nor "exact".
    """
    if not isinstance(lazy, str) or lazy not in (SKIP, EXACT):
        raise ValueError(
            f'lazy must be "skip", with which rows do not move in steps without a gradient for them, or "exact", '
            f"with which they catch up, got {lazy!r}"
        )
    return SKIP if lazy == SKIP else EXACT
