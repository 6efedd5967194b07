"""Finds Adam's own state in the chains that optax makes, and puts another in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.convert.exchange import describe
from fastadam.groups.members import Member

# The moments of optax's states, in the order of ours.
FIELDS = {"ScaleByAdamState": ("mu", "nu"), "ScaleByAmsgradState": ("mu", "nu", "nu_max")}
INJECTED = ("InjectStatefulHyperparamsState", "InjectHyperparamsState")
SCHEDULE, SCHEDULED_OPTION = "ScaleByScheduleState", "WrappedScheduleState"
MASKED, EMPTY = "MaskedState", "EmptyState"


class Found:
    """Adam's state, found in a state of optax.

    Types are told by their names, so that optax need not be imported.

    Parameters
    ----------
    state : optax state
    what : str
        The conversion's name, for messages.

    Attributes
    ----------
    adam : ScaleByAdamState or ScaleByAmsgradState
    counters : list of (str, object)
        Adam's own and all others, with what they belong to; not yet checked.
    scheduled : bool
        Whether the learning rate follows a schedule.
    hyperparams : mapping or None
        What inject_hyperparams shows.
    names : list of str or None
        The parameters' paths in their tree; None for a tree that is one array.
    labels : list of str
        How messages call them.
    leaves : list of list
        The arrays of each moment.
    treedef : object
        The structure of the tree.

    Raises
    ------
    TypeError, ValueError
        If Adam's state is not in it exactly once, or beside it something that would be lost.
    ImportError
        If JAX is missing.
    """

    def __init__(self, state: Any, what: str) -> None:
        self.what = what
        found = list(_walk(state, what))
        adams = [node for node in found if type(node).__name__ in FIELDS]
        injected = [node for node in found if type(node).__name__ in INJECTED]
        if len(adams) != 1 or len(injected) > 1:
            raise ValueError(
                f"{what}: the optax state holds {len(adams)} states of Adam and {len(injected)} of "
                f"inject_hyperparams; pass one that holds one of Adam, and at most one of the others"
            )
        self.adam = adams[0]
        self.counters = [("Adam", self.adam.count)]
        schedules = [node.count for node in found if type(node).__name__ == SCHEDULE]
        self.hyperparams: Mapping[str, Any] | None = None
        for node in injected:
            self.hyperparams = node.hyperparams
            self.counters.append(("inject_hyperparams", node.count))
            for key, each in getattr(node, "hyperparams_states", {}).items():
                if key != "learning_rate" or type(each).__name__ != SCHEDULED_OPTION:
                    raise TypeError(
                        f"{what}: {key} follows a {type(each).__name__}, and here only lr can be a function, of "
                        f"the step alone; convert the inner_state, and see to the options yourself"
                    )
                schedules.append(each.count)
        self.counters += [("the schedule", count) for count in schedules]
        self.scheduled = bool(schedules)
        self._flatten()

    def _flatten(self) -> None:
        from jax import tree_util

        fields = FIELDS[type(self.adam).__name__]
        trees = [tree_util.tree_flatten_with_path(getattr(self.adam, field)) for field in fields]
        self.treedef = trees[0][1]
        if any(treedef != self.treedef for _, treedef in trees):
            raise ValueError(f"{self.what}: {', '.join(fields)} are trees of different structures")
        self.names, self._dotted = (
            [tree_util.keystr(path, simple=True, separator=separator) or None for path, _ in trees[0][0]]
            for separator in "/."
        )
        self.labels = [f"parameter {i if name is None else name!r}" for i, name in enumerate(self.names)]
        self.leaves = [[leaf for _, leaf in pairs] for pairs, _ in trees]
        for field, leaves in zip(fields, self.leaves, strict=True):
            for label, leaf in zip(self.labels, leaves, strict=True):
                if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
                    raise TypeError(f"{self.what}: {field} of {label} is {leaf!r:.100}, which is no array")
                if describe(leaf)[1].startswith("complex"):
                    raise TypeError(
                        f"{self.what}: {label} is complex; optax squares the modulus of a gradient and this "
                        f"library each part, so the state of one is of no use to the other"
                    )

    def names_like(self, members: Sequence[Member]) -> Sequence[str | None]:
        """Return the names; with dots for slashes where the parameters' are so, which were given as a tree."""
        return self._dotted if {member.name for member in members} == set(self._dotted) else self.names


def _walk(node: Any, what: str) -> Iterator[Any]:
    """Yield the states in a chain that hold anything."""
    kind = type(node).__name__
    if kind in (*FIELDS, SCHEDULE):
        yield node
    elif kind in INJECTED:
        yield node
        yield from _walk(node.inner_state, what)
    elif kind == MASKED:
        yield from _walk(node.inner_state, what)
    elif type(node) in (tuple, list) or isinstance(node, dict):
        for each in node.values() if isinstance(node, dict) else node:
            yield from _walk(each, what)
    elif kind != EMPTY:
        raise TypeError(
            f"{what}: there is a {kind}, which is no part of Adam's state and would be lost; convert the "
            f"ScaleByAdamState in it by itself"
        )


def rebuild(
    node: Any,
    found: Found,
    count: int,
    moments: Sequence[Sequence[Any]],
    hyperparams: Mapping[str, float] | None,
) -> Any:
    """Return a copy of a state with other numbers in it.

    Parameters
    ----------
    node : optax state
    found : Found
        What is in it.
    count : int
        The value of all counters.
    moments : sequence of sequence of ndarray
        In the order of ``found.leaves``.
    hyperparams : mapping or None
        What inject_hyperparams is to show instead.
    """
    import jax

    def like(old: Any, value: Any) -> Any:
        # On the device where the old one is.
        return jax.device_put(np.asarray(value, old.dtype), getattr(old, "sharding", None))

    def counted(node: Any, **others: Any) -> Any:
        return node._replace(count=like(node.count, count), **others)

    def walk(node: Any) -> Any:
        kind = type(node).__name__
        if kind in FIELDS:
            trees = {}
            for field, olds, arrays in zip(FIELDS[kind], found.leaves, moments, strict=True):
                trees[field] = found.treedef.unflatten(map(like, olds, arrays))
            return counted(node, **trees)
        if kind in INJECTED:
            changed: dict[str, Any] = {"inner_state": walk(node.inner_state)}
            if hasattr(node, "hyperparams_states"):
                changed["hyperparams_states"] = {k: counted(v) for k, v in node.hyperparams_states.items()}
            shown = {k: like(node.hyperparams[k], value) for k, value in (hyperparams or {}).items()}
            return counted(node, **changed, hyperparams={**node.hyperparams, **shown})
        if kind == MASKED:
            return node._replace(inner_state=walk(node.inner_state))
        if kind == SCHEDULE:
            return counted(node)
        if isinstance(node, dict):
            return type(node)((key, walk(each)) for key, each in node.items())
        return type(node)(map(walk, node)) if type(node) in (tuple, list) else node

    return walk(node)
