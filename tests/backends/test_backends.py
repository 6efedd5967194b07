"""The backends: registry, structs, instruction sets, threads, and the native check of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastadam
from fastadam import adam, backends
from fastadam.backends import c
from fastadam.memory import array_offsets as offsets
from fastadam.memory import native, structs
from fastadam.memory.structs import SPAN
from fastadam.step import threads
from fastadam.work import arrays as spans
from tests.conftest import AVAILABLE, STATES
from tests.support.bits import assert_same_bits

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason=STATES["c"])


def test_available_backends_lists_all_in_order() -> None:
    assert list(STATES) == ["c", "numba", "numpy", "cuda"]
    assert STATES["numpy"] == "available"


def test_auto_takes_the_first_one_available() -> None:
    assert fastadam.Adam(np.ones(1)).backend == AVAILABLE[0]


def test_a_named_backend_is_the_one_used(backend: str) -> None:
    assert fastadam.Adam(np.ones(1), backend=backend).backend == backend


def test_a_missing_backend_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.load("numba"), "why_missing", lambda: "no luck today")
    with pytest.raises(fastadam.BackendUnavailableError, match="'numba' is not available: no luck today"):
        fastadam.Adam(np.ones(1), backend="numba")
    assert fastadam.available_backends()["numba"] == "no luck today"


@needs_c
def test_an_extension_that_was_built_for_other_structs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of the source without a new build: it would read and write anywhere."""
    monkeypatch.setattr(c, "why_missing", c.why_missing.__wrapped__)  # which keeps no answer
    longer = np.dtype([*SPAN.dtype.descr, ("more", np.int64)])
    for name, dtype in (("fastadam_span", longer), ("fastadam_new", SPAN.dtype)):
        with monkeypatch.context() as patch:
            patch.setitem(c.STRUCTS, name, dtype)
            assert "pip install" in fastadam.available_backends()["c"]
            with pytest.raises(fastadam.BackendUnavailableError, match=f"built from another source.*{name}"):
                fastadam.Adam(np.ones(1), backend="c")
    assert fastadam.available_backends()["c"] == "available"


def test_auto_falls_back_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c", "numba"):
        monkeypatch.setattr(backends.load(name), "why_missing", lambda: "away")
    assert fastadam.Adam(np.ones(1)).backend == "numpy"


@needs_c
@pytest.mark.parametrize("struct", c.STRUCTS)
def test_structs_have_the_layout_of_the_numpy_dtypes(struct: str) -> None:
    assert c.other_struct({struct: c.STRUCTS[struct]}) is None


@needs_c
def test_an_extension_that_was_built_for_other_constants_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "why_missing", c.why_missing.__wrapped__)  # which keeps no answer
    other = native.Constants("Another block.", {"BLOCK": 2 * structs.BLOCK})
    monkeypatch.setattr(c, "CONSTANTS", [*native.CONSTANTS, other])
    with pytest.raises(fastadam.BackendUnavailableError, match=r"built from another source.*FASTADAM_BLOCK"):
        fastadam.Adam(np.ones(1), backend="c")


@needs_c
def test_instruction_sets_can_be_forced(instruction_set: str) -> None:
    assert c.instruction_set() == instruction_set


@needs_c
def test_an_instruction_set_that_is_missing_is_refused() -> None:
    before = c.instruction_set()
    with pytest.raises(ValueError, match="'mmx' is not available here; this processor has baseline"):
        c.use_instruction_set("mmx")
    assert c.instruction_set() == before


@needs_c
def test_the_best_instruction_set_is_the_default() -> None:
    assert c.instruction_set() == c.instruction_sets()[-1]


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
    monkeypatch.setattr(adam, "step_with_care", lambda planner, work, grads, unplain: looked.append(len(grads)))
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


def test_thread_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    share = threads.ELEMENTS_PER_THREAD
    assert [threads.threads_for(n, 4) for n in (0, share, 2 * share - 1, 2 * share, 9 * share)] == [
        1,
        1,
        1,
        2,
        4,
    ]
    assert threads.check_limit(7) == 7
    monkeypatch.setattr(threads, "_forbidden", True)
    assert threads.threads_for(9 * share, 4) == 1


@given(data=st.data())
@settings(max_examples=60)
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
