"""Parameters that were resized, and must not be taken for an optimizer's any more, as far as that is noticed."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fastadam.step.backend import Call

REMEDY = "use the parameter that resize has returned, and set it in the module: module.weight = new"


class Replaced:
    """The parameters that others have taken the place of, by weak references: they live no longer for that."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        # By identity: the old parameter, and the one that is in its place now.
        self._of: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Tensor]]] = {}

    def __contains__(self, param: object) -> bool:
        found = self._of.get(id(param))
        return found is not None and found[0]() is param

    def note_calls(self, old: Tensor, new: Tensor) -> list[Call]:
        """Return native calls that note that one parameter has taken the place of another."""
        now, gone = weakref.ref(new), weakref.ref(old)
        noted = {
            key: (before, now if after() is old else after)
            for key, (before, after) in list(self._of.items())
            if before() is not None
        }
        return [functools.partial(setattr, self, "_of", {**noted, id(old): (gone, now)})]

    def refuse(self, param: object, name: str = "param") -> None:
        """Refuse a parameter that was resized; others pass.

        Raises
        ------
        ValueError
        """
        if param in self:
            raise ValueError(f"{name} was resized before, and is no longer the optimizer's; {REMEDY}")

    def refuse_gradients(self, params: Iterable[Tensor]) -> None:
        """Refuse a step for which the gradient is at a parameter that was resized, and not at the new one.

        Resizing leaves the old one without a gradient, so that it is still in use if it has one.

        Parameters
        ----------
        params : iterable of Tensor
            The optimizer's.

        Raises
        ------
        RuntimeError
        """
        if not self._of:
            return
        held = {id(param): i for i, param in enumerate(params)}
        for before, after in list(self._of.values()):
            old, new = before(), after()
            if (
                old is not None
                and new is not None
                and old.grad is not None
                and new.grad is None
                and id(new) in held
                and id(old) not in held
            ):
                raise RuntimeError(
                    f"parameter {held[id(new)]} has no gradient, and the one that it has replaced has one: it was "
                    f"resized, and is still in use; {REMEDY}"
                )

    def refuse_entries(self, state: Mapping[Any, Any], params: Iterable[Tensor]) -> None:
        """Refuse a state in which something is kept under a parameter that was resized.

        Raises
        ------
        RuntimeError
        """
        if not self._of:
            return
        held = set(map(id, params))
        for before, _ in list(self._of.values()):
            old = before()
            if old is not None and old in state and id(old) not in held:
                raise RuntimeError(
                    f"optimizer.state has an entry of a parameter that was resized (to look it up makes one); "
                    f"drop it by optimizer.state.pop(old), and from now on {REMEDY}"
                )
