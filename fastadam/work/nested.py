"""Gradients that are nested as the parameters are, or under their names.

Where native code can be used, it reads exact dicts, lists and tuples in one call, without running any code of
anyone's; all others, and whatever is wrong, Python reads (`fastadam.memory.nesting.Nesting.read`). Either way each
gradient is looked at later, together with all others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.groups import Tree
from fastadam.memory.array_offsets import array_offsets
from fastadam.memory.native import Block
from fastadam.memory.nesting import Container, Nesting, is_container
from fastadam.memory.structs import CONTAINER, NESTING, PENDING


class Reader:
    """Reads the gradients of one optimizer.

    Parameters
    ----------
    trees : list of Tree
        How its parameters were given.
    positions : mapping of str to int
        Of the parameters, by name.

    Attributes
    ----------
    trees : list of Tree
    reads_lists : bool
        Whether gradients in a list may be nested, or in another order than that of the positions.
    """

    def __init__(self, trees: Sequence[Tree], positions: Mapping[str, int]) -> None:
        self.trees = trees
        self._is_nested = any(tree.nesting.is_nested for tree in trees)
        self._positions = positions
        order = _positions(trees)
        self._count = len(order)
        self._is_shared_out = order != tuple(range(self._count))
        self.reads_lists = self._is_nested or self._is_shared_out

    @functools.cached_property
    def _by_position(self) -> Way | None:
        """How lists are read: as the parameters', or all groups'; None where these are in a mapping."""
        if len(self.trees) > 1:
            return Way(_in_a_list(self.trees))
        (tree,) = self.trees
        return None if tree.nesting.containers[0].is_mapping else Way(tree)

    @functools.cached_property
    def _by_key(self) -> Way | None:
        """How mappings are read: as the parameters', or one of all groups', whose keys differ."""
        tree = _in_a_mapping(self.trees)
        return None if tree is None else Way(tree)

    @functools.cached_property
    def _by_path(self) -> Way:
        """How mappings of all names are read."""
        outermost = Container("", True, tuple(self._positions), tuple(range(len(self._positions))))
        return Way(Tree(Nesting([outermost], self._positions), tuple(self._positions.values())))

    def read_mapping(self, grads: Mapping[Any, Any]) -> tuple[Any, ...]:
        """Return the gradients in the order of the parameters, from a mapping.

        Raises
        ------
        TypeError, ValueError
            If it is not nested as the parameters are, and has other keys than their names.
        """
        if not self._positions:
            raise TypeError("grads is a mapping, but the parameters have no names; pass a list in their order")
        way = self._by_key or self._by_path
        found = way.try_native(grads)
        if found is None and self._is_nested and grads.keys() == self._positions.keys():
            way = self._by_path
            found = way.try_native(grads)
        return way.read(grads) if found is None else found

    def read_list(self, grads: list[Any] | tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the gradients in the order of the parameters, from a list that may be nested as they are.

        None where it is not meant to be: there is one gradient after another.

        Raises
        ------
        TypeError, ValueError
            If it is nested otherwise, or options by name have made the order another one.
        """
        way = self._by_position
        if way is not None:
            found = way.try_native(grads)
            if found is not None:
                return found
            if len(grads) != self._count or not self._is_nested or any(map(is_container, grads)):
                return way.read(grads)
        if self._is_shared_out:
            raise TypeError(
                "grads is a list without the nesting of the parameters, which options by name have put into "
                "groups in another order; nest gradients as the parameters are, or give them under their names"
            )
        return None


class Way:
    """Reads gradients that are nested in one way.

    Parameters
    ----------
    tree : Tree
    """

    def __init__(self, tree: Tree) -> None:
        self._nesting, self._positions = tree
        self._count = len(tree.positions)
        self._block: Block | None = None
        self._kept: list[Any] = []  # objects whose addresses are in the block
        self._read_native: Callable[[int, int], int] | None = None
        self._bind()

    def _bind(self) -> None:
        """Describe the nesting to native code, where there is some."""
        from fastadam.backends import c  # not loaded for parameters that are not nested

        containers = self._nesting.containers
        keys = [key for each in containers if each.is_mapping for key in each.keys]
        if c.why_missing() is not None or array_offsets() is None or any(type(key) is not str for key in keys):
            return
        described = np.zeros(len(containers), CONTAINER.dtype)
        counts = [len(each.children) for each in containers]
        described["n"] = counts
        described["first"] = np.cumsum([0, *counts[:-1]])
        described["is_mapping"] = [each.is_mapping for each in containers]
        children = [
            self._positions[child] if child >= 0 else child for each in containers for child in each.children
        ]
        objects = [id(key) for each in containers for key in (each.keys if each.is_mapping else each.children)]
        self._kept = keys
        self._block = block = Block(NESTING)
        block["n"] = self._count
        block.point("containers", described)
        block.point("children", np.array(children, np.int64))
        block.point("keys", np.array(objects, np.int64))
        block.point("pending", np.zeros(len(containers), PENDING.dtype))
        block.point("leaves", np.zeros(self._count, np.int64))
        self._described = described
        self._read_native = functools.partial(
            c.lib.fastadam_read_nested, c.ffi.cast("fastadam_nesting *", block.address)
        )

    def try_native(self, grads: Any) -> tuple[Any, ...] | None:
        """Return the gradients in the order of the parameters; None where Python has to read them."""
        if self._read_native is None:
            return None
        found: list[Any] = [None]
        return found[0] if self._read_native(id(grads), id(found)) else None

    def read(self, grads: Any) -> tuple[Any, ...]:
        """Return the gradients in the order of the parameters.

        Raises
        ------
        TypeError, ValueError
            If they are nested otherwise.
        """
        found: list[Any] = [None] * self._count
        leaves, tuples = self._nesting.read(grads, "grads")
        for position, leaf in zip(self._positions, leaves, strict=True):
            found[position] = leaf
        if self._block is not None:
            # Native code takes these in the same places from now on: their names have been compared.
            for number, kind in tuples.items():
                self._kept.append(kind)
                self._described["tuple_type"][number] = id(kind)
        return tuple(found)


def _in_a_list(trees: Sequence[Tree]) -> Tree:
    """Return the tree of a list of all trees."""
    containers: list[Container] = []
    paths: list[str] = []
    roots = []
    for number, (nesting, _) in enumerate(trees):
        roots.append(~(len(containers) + 1) if nesting.containers else len(paths))
        containers += _moved(nesting, len(containers) + 1, len(paths), str(number))
        paths += nesting.paths
    outermost = Container("", False, (), tuple(roots))
    return Tree(Nesting([outermost, *containers], paths), _positions(trees))


def _in_a_mapping(trees: Sequence[Tree]) -> Tree | None:
    """Return the tree of a mapping with all that is in the trees, where they have names that differ; else None."""
    outermost = [tree.nesting.containers[0] for tree in trees if tree.nesting.containers]
    keys = [key for each in outermost for key in each.keys]
    if len(outermost) < len(trees) or not all(each.keys for each in outermost) or len(set(keys)) < len(keys):
        return None
    containers: list[Container] = []
    paths: list[str] = []
    children: list[int] = []
    for nesting, _ in trees:
        # Without its own outermost container, the place of whose number is that of the new one.
        first, *moved = _moved(nesting, len(containers), len(paths), "")
        children += first.children
        containers += moved
        paths += nesting.paths
    made = Container("", True, tuple(keys), tuple(children))
    return Tree(Nesting([made, *containers], paths), _positions(trees))


def _moved(nesting: Nesting, containers: int, leaves: int, path: str) -> list[Container]:
    """Return a nesting's containers behind as many others, in a container at `path`."""
    return [
        each._replace(
            path=".".join(filter(None, (path, each.path))),
            children=tuple(child + leaves if child >= 0 else child - containers for child in each.children),
        )
        for each in nesting.containers
    ]


def _positions(trees: Sequence[Tree]) -> tuple[int, ...]:
    return tuple(position for tree in trees for position in tree.positions)
