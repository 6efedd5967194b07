"""Says in one error all that does not fit: what is missing, unexpected, or of another shape."""

from __future__ import annotations

MOST_LISTED = 10


def raise_for(problems: list[tuple[str, list[str]]], what: str) -> None:
    """Raise a ValueError that lists the problems, if there are any."""
    parts = []
    for problem, found in problems:
        if found:
            more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
            parts.append(f"{problem}: {', '.join(found[:MOST_LISTED])}{more}")
    if parts:
        raise ValueError(f"{what}: {'; '.join(parts)}")
