"""Nested containers that hypothesis draws, and the same ones around other leaves."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hypothesis import strategies as st


class Layer(NamedTuple):
    """A named tuple, as people keep the arrays of a layer."""

    w: Any
    b: Any


class Leaf(NamedTuple):
    """Stands for an array of this shape, where a nesting is drawn."""

    shape: tuple[int, ...]


shapes = st.sampled_from([(), (1,), (3,), (2, 2), (0,), (5, 1)])
keys = st.sampled_from(["w", "b", "layer", "scale", "0", "", "é", "a b"])
MAPPINGS = (
    dict,
    OrderedDict,
    lambda items: defaultdict(list, items),
    UserDict,
    lambda items: MappingProxyType(dict(items)),
)


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw a container around what another strategy draws."""
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Layer, inner, inner),
        st.builds(
            lambda kind, items: kind(items), st.sampled_from(MAPPINGS), st.dictionaries(keys, inner, max_size=3)
        ),
    )


def count(tree: Any) -> int:
    """Return the number of leaves."""
    return len(list(leaves(tree)))


# Containers of all kinds with at least one array in them.
nestings = (
    st.recursive(shapes.map(Leaf), around, max_leaves=12)
    .map(lambda inner: {"all": [inner]} if isinstance(inner, Leaf) else inner)
    .filter(lambda tree: count(tree) > 0)
)


def items(tree: Any) -> list[tuple[str, Any]]:
    """Return what is in a container, by key, field or position."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, Layer):
        return list(tree._asdict().items())
    return [(str(i), item) for i, item in enumerate(tree)]


def leaves(tree: Any, path: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield paths and leaves, from the first to the last."""
    if isinstance(tree, Leaf) or not isinstance(tree, Mapping | Sequence):
        yield path or "", tree
        return
    for key, item in items(tree):
        yield from leaves(item, key if path is None else f"{path}.{key}")


def made_of(
    tree: Any, make: Callable[[Any], Any], change: Callable[[Any, Any], Any] = lambda old, new: new
) -> Any:
    """Return containers of the same types around what `make` returns for each leaf, in order.

    `change` is asked for each container, with the old one and the new one, and returns what takes its place.
    """
    if isinstance(tree, Leaf) or not isinstance(tree, Mapping | Sequence):
        return make(tree)
    made = [(key, made_of(item, make, change)) for key, item in items(tree)]
    if isinstance(tree, Layer):
        return change(tree, Layer(**dict(made)))
    if isinstance(tree, list | tuple):
        return change(tree, type(tree)(item for _, item in made))
    if isinstance(tree, defaultdict):
        return change(tree, defaultdict(list, made))
    if isinstance(tree, MappingProxyType):
        return change(tree, MappingProxyType(dict(made)))
    return change(tree, type(tree)(made))
