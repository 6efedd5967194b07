"""Optimizers that meet bad input, in every layout, beside twins that never do; and what looks like an array."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_state, random_arrays, snapshot

SHAPES = ((3, 4), (5,), ())
NAMES = ("w", "b", "scale")
LAYOUTS = ("in place", "packed", "objects", "groups", "named", "packed and named")
FLOAT32 = np.dtype(np.float32)


class Subclass(np.ndarray):
    """An ndarray subclass, as np.memmap is one."""


# What only looks like torch: the tests must not need it.
Tensor = type("Tensor", (), {"__module__": "torch", "__array__": lambda self, *args, **kwargs: np.ones(5)})


class OnDevice:
    """What looks like an array on a GPU."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012 - never looked into


class Ambiguous:
    """What cannot be compared, as tensors of several elements cannot."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("truth value is ambiguous")


class Bench:
    """An optimizer in one of the layouts, with two good steps behind it, so that no moment is zero."""

    def __init__(self, layout: str, backend: str, **options: Any) -> None:
        self.innocent: Bench  # set by `take`
        self.layout = layout
        self.key = (layout, backend, tuple(options.items()))
        arrays = random_arrays(SHAPES, FLOAT32, seed=1)
        self.flat: Any = None
        self.objects: list[Any] = []
        params: Any = arrays
        if layout.startswith("packed"):
            named = dict(zip(NAMES, arrays, strict=True))
            params = self.flat = fastadam.pack(named if "named" in layout else arrays)
            arrays = self.flat.param_views
        elif layout == "objects":
            params = self.objects = [fastadam.Parameter(array) for array in arrays]
        elif layout == "groups":
            params = [{"params": arrays[:1], "lr": 0.02}, {"params": arrays[1:], "amsgrad": True}]
        elif layout == "named":
            params = dict(zip(NAMES, arrays, strict=True))
        self.arrays = arrays
        self.names = NAMES if "named" in layout else ()
        self.opt = fastadam.Adam(params, **{"lr": 0.01, "weight_decay": 0.1, "backend": backend, **options})
        self.good_step(2)
        self.good_step(3)

    def step(self, grads: list[Any]) -> None:
        """Step in the way of the layout: with a list, with a mapping, or with `Parameter.grad`."""
        if self.objects:
            for parameter, grad in zip(self.objects, grads, strict=True):
                parameter.grad = grad
            self.opt.step()
        elif self.names:
            self.opt.step(dict(zip(self.names, grads, strict=True)))
        else:
            self.opt.step(grads)

    def good_step(self, seed: int) -> None:
        self.step(random_arrays(SHAPES, FLOAT32, seed))


# Pairs of equal benches that passed a test and can serve in the next one: refused input leaves no trace.
_pairs: dict[Any, list[tuple[Bench, Bench]]] = {}


def take(layout: str, backend: str, **options: Any) -> Bench:
    """Return a bench that meets bad input; `assert_goes_on` compares it with its twin that never does."""
    print("layout:", layout)  # pytest shows it where the test fails
    key = (layout, backend, tuple(options.items()))
    if _pairs.get(key):
        bench, innocent = _pairs[key].pop()
    else:
        bench, innocent = Bench(layout, backend, **options), Bench(layout, backend, **options)
    bench.innocent = innocent
    return bench


def each_layout(backend: str, layouts: Iterable[str] = LAYOUTS, **options: Any) -> Iterator[Bench]:
    return (take(layout, backend, **options) for layout in layouts)


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare two snapshots, the quick way first."""
    if [array.tobytes() for array in actual.values()] != [array.tobytes() for array in expected.values()]:
        assert_same_state(actual, expected)
    assert actual.keys() == expected.keys()


def assert_goes_on(bench: Bench) -> None:
    """Take one more good step; the bits are those of the twin that never met anything bad."""
    bench.good_step(4)
    bench.innocent.good_step(4)
    assert_same(snapshot(bench.opt), snapshot(bench.innocent.opt))
    _pairs.setdefault(bench.key, []).append((bench, bench.innocent))


@contextlib.contextmanager
def refused(opt: fastadam.Adam, error: Any, match: str) -> Iterator[None]:
    """Expect an error that leaves parameters, moments, step counts and groups as they were."""
    before, groups = snapshot(opt), len(opt.param_groups)
    with pytest.raises(error, match=match):
        yield
    assert_same(snapshot(opt), before)
    assert len(opt.param_groups) == groups


def unaligned(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy at an odd address."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    odd = raw[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    return odd


def read_only(array: np.ndarray) -> np.ndarray:
    fixed = array.copy()
    fixed.flags.writeable = False
    return fixed


def flat_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


FIVE = np.ones(5, np.float32)
