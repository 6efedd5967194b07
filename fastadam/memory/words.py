"""Words that error messages share: what a value is called, how it looks, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST_SHOWN = 80


def name_of(value: Any) -> str:
    """Return the name of the type of `value`, with the library it comes from."""
    kind = type(value)
    module = str(getattr(kind, "__module__", "")).partition(".")[0]
    return kind.__qualname__ if module in ("builtins", "") else f"{module}.{kind.__qualname__}"


def a_name_of(value: Any) -> str:
    """Return the name of the type of `value` with its article, such as ``an int``; ``None`` for None."""
    if value is None:
        return "None"
    name = name_of(value)
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shown(value: Any, say: Callable[[Any], str] = repr) -> str:
    """Return what `repr` or `str` says of `value`, in one line and shortened; where that fails, its type."""
    try:
        text = " ".join(say(value).split())
    except Exception:  # foreign code, which is not to take the place of the error that names it
        return f"<{name_of(value)}>"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 4]} ..."


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return how many there are of something, such as ``1 item``, ``2 items`` or, with `many`, ``2 entries``."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
