"""Notices what the user has edited in an optimizer's groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastadam.step.backend import Call
from fastadam.step.interrupts import in_one_go


class Edits:
    """Compares the options of groups with those that were last checked.

    Parameters
    ----------
    read : callable, optional
        Returns what is compared of a group's dict; the default compares all of it.
    """

    __slots__ = ("_options", "_params", "_read", "_sizes")

    def __init__(self, read: Callable[[Mapping[str, Any]], Any] | None = None) -> None:
        self._read = read
        self.forget()

    def note(
        self,
        options: Sequence[Any],
        params: Sequence[Any],
        read: Callable[[Mapping[str, Any]], Any] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Remember checked options, and the object under ``"params"``, of each group.

        Parameters
        ----------
        options : sequence
            Of each group, what `read` returned for it, or a copy of its dict. They are the options that were
            checked: what was edited since must not be among them, or nobody would notice it.
        params : sequence
            Of each group.
        read : callable, optional
            What is used from now on, if it is another one.
        sizes : sequence of int, optional
            Of the groups' dicts, where it is to be noticed that something is in there that is not read.
        """
        others = [functools.partial(setattr, self, "_sizes", sizes)]
        if read is not None:
            others.append(functools.partial(setattr, self, "_read", read))
        in_one_go([*others, *self.note_calls(options, params)])

    def note_calls(self, options: Sequence[Any], params: Sequence[Any]) -> list[Call]:
        """Return native calls that do what `note` does."""
        return [
            functools.partial(setattr, self, "_options", list(options)),
            functools.partial(setattr, self, "_params", list(params)),
        ]

    def forget(self) -> None:
        """Take the groups for edited until the next `note`."""
        self._options, self._params = [None], [None]
        self._sizes: Sequence[int] | None = None

    def noticed(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the groups' dicts differ from what was last noted.

        Values are compared, which Python does by identity first; the objects under ``"params"`` have to be the
        same.
        """
        try:
            # Nearly always the same objects.
            if (groups if self._read is None else list(map(self._read, groups))) != self._options:
                return True
            i, sizes = 0, self._sizes
            for params in self._params:
                group = groups[i]
                if group["params"] is not params or (sizes is not None and len(group) != sizes[i]):
                    return True
                i += 1  # noqa: SIM113 - `enumerate` and `zip` cost more than all the rest
        except Exception:
            if self._cannot_be_compared(groups):
                return True
            raise  # a signal's handler raised it, which is not to be lost
        return False

    def _cannot_be_compared(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether comparing fails: an array where a number belongs, a key that is missing."""
        try:
            bool((groups if self._read is None else list(map(self._read, groups))) != self._options)
            [group["params"] for group in groups]
        except Exception:
            return True
        return False
