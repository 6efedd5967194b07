"""Steps over rows among what others do: code of the user's that runs in a step, odd arrays, other calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.memory import rows as memory_rows
from fastadam.work import lazy
from tests.conftest import AVAILABLE
from tests.support.bits import assert_same_bits, assert_same_state, snapshot

N_ROWS = 13


class Acting:
    """A row number that does something when it is read."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __array__(self, *args: Any, **kw: Any) -> np.ndarray:
        self._act()
        return np.array(1)

    def __int__(self) -> int:
        return 1


def acts(table: np.ndarray, grads: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what foreign code may do to a parameter and a gradient in the middle of a step."""
    return {
        "a gradient gets other memory": lambda: grads.resize((1, 2), refcheck=False),
        "a gradient gets another shape": lambda: setattr(grads, "shape", (1, grads.size)),
        "a gradient gets another dtype": lambda: setattr(grads, "dtype", np.float32),
        "a parameter gets other memory": lambda: table.resize((1, 2), refcheck=False),
        "a parameter gets another shape": lambda: setattr(table, "shape", (table.size,)),
    }


ACTS = tuple(acts(np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("form", ["rows", "mask", "dense"])
@pytest.mark.parametrize("where", ["index", "schedule"])
def test_foreign_code_in_a_step_moves_no_memory(backend: str, act: str, form: str, where: str) -> None:
    n = 3000
    table, other = np.zeros((n, 2)), np.zeros((4, 2))
    grads = np.ones((n, 2))
    calls = [0]

    def schedule(step: int) -> float:
        calls[0] += 1
        if where == "schedule" and calls[0] > 1:  # after all checks
            acts(table, grads)[act]()
        return 0.5

    optimizer = fastadam.Adam([table, other], lr=schedule, backend=backend)
    index: Any = Acting(acts(table, grads)[act]) if where == "index" else 1
    given = fastadam.Rows(np.arange(n)[::-1], grads) if form == "rows" else grads
    mask = {0: np.ones(n, bool)} if form == "mask" else None
    error = ""
    try:
        optimizer.step([given, fastadam.Rows([index], np.ones((1, 2)))], mask=mask)
    except ValueError as raised:
        error = str(raised)
    if act.endswith("other memory"):
        assert "cannot resize" in error
        assert not table.any()
    else:
        assert not error
        np.testing.assert_allclose(table.reshape(-1), -0.5)


def test_indices_that_another_thread_changes_are_stepped_as_they_were_checked() -> None:
    """What another thread may do between any two lines, a trace function does here."""
    refused = stepped = 0
    for turn in range(1, 60):
        table, indices = np.zeros((N_ROWS, 2)), np.array([1, 2])
        optimizer = fastadam.Adam(table)
        lines = 0

        def trace(frame: Any, event: str, argument: Any, indices: Any = indices, turn: int = turn) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != memory_rows.__file__:
                return None
            lines += event == "line"
            if lines == turn:
                indices[0] = 2**40
            return trace

        error, before = "", sys.gettrace()
        sys.settrace(trace)
        try:
            optimizer.step(fastadam.Rows(indices, np.ones((2, 2))))
        except ValueError as raised:
            error = str(raised)
        finally:
            sys.settrace(before)
        assert table.any(axis=1).tolist() == [not error and row in (1, 2) for row in range(N_ROWS)]
        assert not error or "go from 2 to 1099511627776" in error
        refused, stepped = refused + bool(error), stepped + (not error)
    assert refused
    assert stepped


class Subclass(fastadam.Rows):
    """Rows of the user's own, which are asked once."""

    asked = 0

    @property
    def grads(self) -> Any:  # type: ignore[override]
        self.asked += 1
        return np.ones((self.asked, 2))


def test_rows_of_a_subclass(backend: str) -> None:
    table = np.zeros((N_ROWS, 2))
    optimizer = fastadam.Adam(table, lr=0.5, backend=backend)
    given = Subclass.__new__(Subclass)
    given.indices = [3]
    optimizer.step(given)
    assert given.asked == 1
    assert table.any(axis=1).tolist() == [row == 3 for row in range(N_ROWS)]


def test_arrays_that_are_masked_are_neither_indices_nor_masks(backend: str) -> None:
    table = np.ones((N_ROWS, 2))
    optimizer = fastadam.Adam({"table": table}, backend=backend)
    before = snapshot(optimizer)
    indices = np.ma.masked_array([1, 2], mask=[True, False])
    with pytest.raises(TypeError, match=r"rows of parameter 'table' is a masked array.*\.compressed\(\)"):
        optimizer.step({"table": fastadam.Rows(indices, np.ones((2, 2)))})
    visible = np.ma.masked_array(np.ones(N_ROWS, bool), mask=True)
    with pytest.raises(TypeError, match=r"the mask of parameter 'table' is a masked array.*\.filled\(False\)"):
        optimizer.step({"table": np.ones_like(table)}, mask={"table": visible})
    assert_same_state(snapshot(optimizer), before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
def test_rows_that_overflow_when_they_are_added_are_not_finite(backend: str, dtype: Any) -> None:
    table = np.zeros((N_ROWS, 2), dtype)
    optimizer = fastadam.Adam(table, lr=0.5, max_grad_norm=np.inf, backend=backend)
    largest = np.full((2, 2), np.finfo(dtype).max, dtype)
    with np.errstate(all="raise"):
        optimizer.step(fastadam.Rows([1, 1], largest))
        assert set(np.geterr().values()) == {"raise"}
    if dtype == np.float16:  # which are added up in float32
        assert_same_bits(table[1], np.full(2, -0.5, dtype))
    else:
        assert optimizer.grad_norm == np.inf
        assert np.isnan(table[1]).all()
    assert not table[[0, 2]].any()


def test_rows_catch_up_steps_with_a_scale_that_is_not_finite_in_their_dtype(backend: str) -> None:
    """1e40 is none of float32, and zero times infinity is NaN, as in steps with gradients of zero."""
    tables = [np.zeros((N_ROWS, 2), np.float32) for _ in range(2)]
    ours = fastadam.Adam(tables[0], lazy="exact", backend=backend)
    theirs = fastadam.Adam(tables[1], backend=backend)
    tiny = np.full((1, 2), 1e-40, np.float32)
    whole = np.zeros((N_ROWS, 2), np.float32)
    whole[1] = tiny[0]
    for scale in (1.0, 1e-40):
        ours.step(fastadam.Rows([1], tiny), scale)
        theirs.step(whole, scale)
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))
    assert np.isnan(tables[0]).all()


@pytest.mark.parametrize("state_dtype", [None, "int8"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_new_rows_go_on_with_the_counter_of_their_parameter_where_rows_catch_up(
    backend: str, state_dtype: Any, weight_decay: float
) -> None:
    tables = [np.ones((3, 64), np.float32) for _ in range(2)]
    kw: Any = {"lr": 0.1, "state_dtype": state_dtype, "weight_decay": weight_decay, "backend": backend}
    ours, theirs = fastadam.Adam(tables[0], lazy="exact", **kw), fastadam.Adam(tables[1], **kw)
    grads = np.full((1, 64), 0.5, np.float32)

    def step(row: int) -> None:
        ours.step(fastadam.Rows([row], grads))
        whole = np.zeros_like(tables[1])
        whole[row] = grads[0]
        theirs.step(whole)

    for _ in range(3):
        step(1)
    tables[:] = [each.resize(0, keep=[2, 1], grow=2) for each in (ours, theirs)]
    for row in (3, 3, 0):
        step(row)
        assert_same_bits(tables[0][row], tables[1][row])
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))


def test_averages_have_all_steps_whenever_the_block_is_entered(backend: str) -> None:
    tables = [np.ones((N_ROWS, 2)) for _ in range(2)]
    kw: Any = {"lr": 0.1, "ema_decay": 0.5, "weight_decay": 0.1, "backend": backend}
    ours, theirs = fastadam.Adam(tables[0], lazy="exact", **kw), fastadam.Adam(tables[1], **kw)
    whole = np.zeros((N_ROWS, 2))
    whole[1] = 1.0

    def step() -> None:
        ours.step(fastadam.Rows([1], whole[1:2]))
        theirs.step(whole)

    step()
    blocks = ours.averaged(), theirs.averaged()
    step()
    with blocks[0], blocks[1]:
        assert_same_bits(*tables)
    assert_same_state(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize("kind", ["skip", "exact"])
@pytest.mark.parametrize("shape", [(26,), (2, 13), (1, 26)])
def test_rows_of_a_parameter_that_got_another_shape_are_not_known(backend: str, kind: Any, shape: Any) -> None:
    tables = [np.ones((N_ROWS, 2)) for _ in range(2)]
    kw: Any = {"lr": 0.1, "weight_decay": 0.1, "lazy": kind, "backend": backend}
    ours, theirs = (fastadam.Adam({"table": table}, **kw) for table in tables)
    for each in (ours, theirs):
        for row in (1, 12, 1):
            each.step([fastadam.Rows([row], np.ones((1, 2)))])
    before = tables[0].copy()
    tables[0].shape = shape
    some = np.ones((1, *shape[1:]))
    for grads, mask in (
        (fastadam.Rows([shape[0] - 1], some), None),
        (np.ones(shape), {"table": np.ones(shape[0], bool)}),
        (np.ones(shape), None),
    ):
        with pytest.raises(ValueError, match=r"'table' had the shape \(13, 2\).*give it back its shape"):
            ours.step({"table": grads}, mask=mask)
    assert_same_bits(tables[0], before.reshape(shape))
    for each in (ours, theirs):
        each.catch_up()  # of rows as they were
    assert_same_bits(tables[0], tables[1].reshape(shape))
    tables[0].shape = (N_ROWS, 1, 2)  # the same rows
    ours.step([fastadam.Rows([3], np.ones((1, 1, 2)))])
    tables[0].shape = (N_ROWS, 2)
    theirs.step([fastadam.Rows([3], np.ones((1, 2)))])
    assert_same_state(snapshot(ours), snapshot(theirs))


def test_a_packed_buffer_of_one_array_beside_rows_that_have_stepped_apart(backend: str) -> None:
    """As many buffers as arrays: a gradient is of the buffer all the same, not of the array in it."""
    flats = [fastadam.pack({name: np.ones((3, 1, 2))}) for name in "ab"]
    optimizer = fastadam.Adam([{"params": flat} for flat in flats], lr=0.5, backend=backend)
    for flat in flats:
        flat.grad[...] = 1.0
    optimizer.step(mask={"a": np.array([True, False, False])})
    optimizer.step()
    np.testing.assert_allclose(flats[0].param, [0, 0, 0.5, 0.5, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(flats[1].param, np.zeros(6), atol=1e-6)


def test_another_backend_and_limit_of_threads_are_those_of_the_next_step() -> None:
    optimizer = fastadam.Adam(np.ones((N_ROWS, 2)), backend="numpy", threads=1)
    optimizer.step(fastadam.Rows([1], np.ones((1, 2))))
    optimizer.step(fastadam.Rows([1], np.ones((1, 2))))
    chosen = AVAILABLE[0]
    optimizer.backend, optimizer.threads = chosen, 2
    optimizer.step(fastadam.Rows([1], np.ones((1, 2))))
    (plan,) = [work._plan for work in optimizer._rows._plans]
    assert plan._limit == 2
    assert plan._backends == list(optimizer._planner.backends.values())
    assert chosen in str(plan._backends[0])


def test_steps_that_no_row_lacks_are_forgotten(backend: str) -> None:
    """What is kept for rows that are behind does not grow for ever where they catch up now and then."""
    optimizer = fastadam.Adam(np.ones((N_ROWS, 2)), lazy="exact", backend=backend)
    for step in range(20):
        optimizer.weight_decay = 0.1 / (step + 1)
        optimizer.step(fastadam.Rows([step % 3], np.ones((1, 2))))
        if step % 5 == 4:
            optimizer.catch_up()
            kept = optimizer._rows._missed._known[optimizer._groups[0]][0][1]
            assert kept == []


@pytest.mark.parametrize("call", ["catch_up", "state_dict", "averaged"])
def test_a_signal_handler_steps_nothing_while_rows_catch_up(
    backend: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [np.ones((N_ROWS, 2)) for _ in range(2)]
    kw: Any = {"lr": 0.1, "ema_decay": 0.5, "weight_decay": 0.1, "backend": backend}
    ours, theirs = fastadam.Adam(tables[0], lazy="exact", **kw), fastadam.Adam(tables[1], **kw)
    for row in (1, 2, 1, 3):
        whole = np.zeros((N_ROWS, 2))
        whole[row] = 1.0
        ours.step(fastadam.Rows([row], whole[row : row + 1]))
        theirs.step(whole)
    refused = 0

    def handled(calls: Any, real: Any = lazy.in_one_go) -> Any:
        nonlocal refused
        for ask in (ours.catch_up, ours.state_dict, lambda: ours.step(fastadam.Rows([4], np.ones((1, 2))))):
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
                ask()
            refused += 1
        return real(calls)

    monkeypatch.setattr(lazy, "in_one_go", handled)
    if call == "averaged":
        with ours.averaged():
            pass
    else:
        getattr(ours, call)()
    assert refused
    assert_same_state(snapshot(ours), snapshot(theirs))
    ours.step(fastadam.Rows([4], np.ones((1, 2))))


def test_a_mask_is_checked_where_there_is_no_gradient(backend: str) -> None:
    optimizer = fastadam.Adam({"table": np.ones((N_ROWS, 2))}, backend=backend)
    optimizer.step({"table": None}, mask={"table": np.ones(N_ROWS, bool)})
    with pytest.raises(ValueError, match=r"the mask of parameter 'table' has shape \(2,\)"):
        optimizer.step({"table": None}, mask={"table": np.ones(2, bool)})


@pytest.mark.parametrize(
    ("indices", "remedy"),
    [
        ([1, 2.0], r"np\.asarray\(indices, int\)"),
        (np.array([1.0]), r"indices\.astype\(int\)"),
        ({1, 2}, "whole numbers in a list or an array"),
        ([True, False], "np.flatnonzero of a mask"),
    ],
    ids=str,
)
def test_remedies_for_indices_work_on_what_was_given(indices: Any, remedy: str) -> None:
    optimizer = fastadam.Adam(np.ones((N_ROWS, 2)))
    with pytest.raises(TypeError, match=remedy):
        optimizer.step(fastadam.Rows(indices, np.ones((2, 2))))


def test_an_index_steps_nothing_while_rows_catch_up(backend: str) -> None:
    table = np.ones((N_ROWS, 2))
    optimizer = fastadam.Adam({"table": table}, lazy="exact", backend=backend)
    optimizer.step({"table": fastadam.Rows([1], np.ones((1, 2)))})
    asks = (
        optimizer.state_dict,
        lambda: optimizer.resize("table", keep=[0]),
        lambda: optimizer.step({"table": np.ones((N_ROWS, 2))}),
    )
    for ask in asks:
        with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
            optimizer.catch_up({"table": [Acting(ask)]})
    optimizer.catch_up({"table": [Acting(lambda: None)]})
    optimizer.step({"table": fastadam.Rows([2], np.ones((1, 2)))})
