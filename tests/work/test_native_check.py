"""The native check of gradients, and work lists that are built once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam import adam, backends
from fastadam.memory import array_offsets as offsets
from fastadam.work import arrays as spans
from tests.support.bits import assert_same_bits
from tests.support.strategies import examples


def test_array_offsets_are_known_here() -> None:
    """On CPython with 64 bits the fast check must be on: a silent fallback would only be slow."""
    assert offsets.array_offsets() is not None


def test_steps_without_array_offsets_give_the_same_bits(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> np.ndarray:
        param = np.ones(20)
        optimizer = fastadam.Adam([param, np.ones(3)], backend=backend)
        for t in range(3):
            optimizer.step([np.arange(20.0) + t, None if t == 1 else np.ones(3)])
        return param

    expected = run()
    for name in ("c", "numba"):
        monkeypatch.setattr(backends.load(name), "array_offsets", lambda: None)
    monkeypatch.setattr(spans, "array_offsets", lambda: None)
    assert_same_bits(run(), expected)


def test_plain_gradients_take_the_native_check(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled backends step plain gradients without a look from Python, and only those."""
    if backend == "numpy":
        pytest.skip("the NumPy backend has no native check")
    looked = []
    monkeypatch.setattr(adam, "step_with_care", lambda planner, work, grads, *rest: looked.append(len(grads)))
    plain = [np.ones((2, 3)), np.ones(4, np.complex64), np.ones(()), np.ones(0)]
    optimizer = fastadam.Adam([grad.copy() for grad in plain], backend=backend)
    optimizer.step(plain)
    packed = fastadam.Adam(fastadam.pack([np.ones(3)]), backend=backend)
    packed.step()
    packed.step(np.ones(3))
    assert looked == []
    for odd in ([None, *plain[1:]], [np.ones((3, 2)).T, *plain[1:]], [*plain[:3], np.ones(1)]):
        optimizer.step(odd)
    assert looked == [4, 4, 4]


def test_work_lists_are_built_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first steps no work list is built (and so nothing compiled) again, also with Nones."""
    params = [np.ones(3), np.ones(4)]
    optimizer = fastadam.Adam(params, backend=backend)
    patterns: list[list[Any]] = [[np.ones(3), np.ones(4)], [np.ones(3), None], [None, np.ones(4)]]
    for grads in patterns * 2:
        optimizer.step(grads)
    built = []
    original = spans.WorkList.__init__
    monkeypatch.setattr(spans.WorkList, "__init__", lambda *a, **k: (built.append(1), original(*a, **k))[1])
    for grads in patterns * 3:
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step(grads)
    assert built == []
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step(patterns[0])
    assert built == [1]


@given(data=st.data())
@examples(15)
def test_the_native_check_finds_the_first_gradient_that_overlaps_what_is_written(
    backend: str, data: st.DataObject
) -> None:
    """The search for the next fence begins where the last one ended, forwards and backwards."""
    if backend == "numpy":
        pytest.skip("the NumPy backend has no native check")
    arena = np.ones(400, np.float32)
    starts = data.draw(st.lists(st.integers(0, 49), min_size=1, max_size=20, unique=True))
    sizes = [data.draw(st.integers(0, 8)) for _ in starts]
    params = [arena[8 * start : 8 * start + size] for start, size in zip(starts, sizes, strict=True)]
    written = np.zeros(400, bool)
    for start, size in zip(starts, sizes, strict=True):
        written[8 * start : 8 * start + size] = True
    grads, meets = [], []
    for size in sizes:
        place = data.draw(st.integers(0, 400 - size))
        inside = data.draw(st.booleans())
        grads.append(arena[place : place + size] if inside else np.ones(size, np.float32))
        meets.append(inside and bool(written[place : place + size].any()))
    optimizer = fastadam.Adam(params, backend=backend)
    expected = meets.index(True) if True in meets else -1
    assert optimizer._planner.in_pieces.try_step(tuple(grads)) == expected
