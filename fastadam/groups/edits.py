"""Notices what the user has edited in an optimizer's groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Edits:
    """Compares the options of groups with those that were last checked.

    Parameters
    ----------
    read : callable, optional
        Returns what is compared of a group's dict; the default compares all of it.
    """

    __slots__ = ("_options", "_params", "_read")

    def __init__(self, read: Callable[[Mapping[str, Any]], Any] | None = None) -> None:
        self._read = read
        self.forget()

    def note(self, options: Sequence[Any], params: Sequence[Any]) -> None:
        """Remember checked options, and the object under ``"params"``, of each group.

        Parameters
        ----------
        options : sequence
            Of each group, what `read` returned for it, or a copy of its dict. They are the options that were
            checked: what was edited since must not be among them, or nobody would notice it.
        params : sequence
            Of each group.
        """
        self._options, self._params = list(options), list(params)

    def forget(self) -> None:
        """Take the groups for edited until the next `note`."""
        self._options, self._params = [None], [None]

    def noticed(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the groups' dicts differ from what was last noted.

        Values are compared, which Python does by identity first; the objects under ``"params"`` have to be the
        same.
        """
        try:
            # Nearly always the same objects.
            if (groups if self._read is None else list(map(self._read, groups))) != self._options:
                return True
            i = 0
            for params in self._params:
                if groups[i]["params"] is not params:
                    return True
                i += 1  # noqa: SIM113 - `enumerate` and `zip` cost more than all the rest
        except Exception:  # an array where a number belongs, a key that is missing, what else cannot be compared
            return True
        return False
