"""Steps over rows: `fastadam.Rows` and masks have the bits of steps over arrays of which each row is one."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastadam
from fastadam.step import row_plan
from tests.support.bits import assert_same_bits, assert_same_state, snapshot
from tests.support.strategies import examples

N_ROWS = 13
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "weight_decay": 0.3,
        "amsgrad": True,
        "maximize": True,
        "decoupled_weight_decay": True,
        "betas": (0.8, 0.9),
    },
    "l2": {"weight_decay": 0.1, "eps": 1e-3},
    "scaled": {"max_grad_norm": 1e9},
}
COMPACT: dict[str, tuple[str, int, dict[str, Any]]] = {  # with a dtype and a width
    "plain": ("float32", 5, {}),
    "decay": ("float64", 3, {"weight_decay": 0.2, "decoupled_weight_decay": True}),
    "bfloat16 state": ("float32", 7, {"state_dtype": "bfloat16", "seed": 3}),
    "int8 state": ("float32", 64, {"state_dtype": "int8", "amsgrad": True}),
    "int8 state of complex numbers": ("complex64", 32, {"state_dtype": "int8"}),
    "masters": ("float16", 3, {"master_weights": True, "weight_decay": 0.1}),
    "stochastic": ("float16", 5, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
    "averages": ("float32", 4, {"ema_decay": 0.7, "ema_warmup": True, "weight_decay": 0.1}),
    "averages that do not warm up": ("float64", 2, {"ema_decay": 0.9}),
    "eps of 0": ("float32", 3, {"eps": 0}),
    "a schedule": ("float32", 3, {"lr": lambda step: 0.1 / step}),
}


def numbers(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Return random numbers."""
    found = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.standard_normal(shape)
    return np.asarray(found).astype(dtype)


def dense(indices: Any, grads: np.ndarray, n_rows: int = N_ROWS) -> np.ndarray:
    """Return the gradient of all rows; of a row that comes several times, added one after the other."""
    wide = np.float32 if grads.itemsize == 2 else grads.dtype
    found = np.zeros((n_rows, *grads.shape[1:]), wide)
    seen = set()
    for index, grad in zip(np.asarray(indices).tolist(), grads.astype(wide), strict=True):
        found[index] = found[index] + grad if index in seen else grad
        seen.add(index)
    return found if len(seen) < len(grads) else found.astype(grads.dtype)


def touched(indices: Any, n_rows: int = N_ROWS) -> np.ndarray:
    """Return the mask of rows."""
    mask = np.zeros(n_rows, bool)
    mask[np.asarray(indices, int)] = True
    return mask


@hypothesis.given(
    st.sampled_from(list(OPTIONS)),
    st.sampled_from(["float32", "float64", "float16", "complex64"]),
    st.sampled_from([(), (1,), (5,), (2, 3), (70,), (0,)]),
    st.lists(
        st.tuples(st.sampled_from(["rows", "rows", "mask", "all", "none"]), st.lists(st.integers(0, N_ROWS - 1))),
        max_size=6,
    ),
    st.integers(0, 2**32),
)
@examples(60)
def test_rows_have_the_bits_of_parameters_of_their_own(
    backend: str, options: str, dtype: str, rest: tuple[int, ...], steps: list[Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table, other = numbers(rng, (N_ROWS, *rest), dtype), numbers(rng, 3, "float32")
    singles, single_other = [row.copy() for row in table], other.copy()
    kw = {"lr": 0.1, "backend": backend, **OPTIONS[options]}
    ours = fastadam.Adam({"table": table, "other": other}, **kw)
    theirs = fastadam.Adam([*(np.atleast_1d(row) for row in singles), single_other], **kw)
    singles = theirs.param_groups[0]["params"][:-1]
    for kind, indices in steps:
        grads, grad_other = numbers(rng, (len(indices), *rest), dtype), numbers(rng, 3, "float32")
        of_rows: list[Any] = [None] * N_ROWS
        if kind == "rows":
            ours.step({"table": fastadam.Rows(indices, grads), "other": grad_other})
            whole = dense(indices, grads)
            of_rows = [np.atleast_1d(whole[i]) if i in indices else None for i in range(N_ROWS)]
        elif kind == "mask":
            whole = numbers(rng, (N_ROWS, *rest), dtype)
            ours.step({"table": whole, "other": grad_other}, mask={"table": touched(indices)})
            of_rows = [np.atleast_1d(whole[i]) if i in indices else None for i in range(N_ROWS)]
        elif kind == "all":
            whole = numbers(rng, (N_ROWS, *rest), dtype)
            ours.step({"table": whole, "other": grad_other})
            of_rows = [np.atleast_1d(each) for each in whole]
        else:
            ours.step({"table": None, "other": grad_other})
        theirs.step([*of_rows, grad_other])
        assert_same_bits(table, np.reshape(singles, table.shape).astype(dtype), kind)
        assert_same_bits(other, single_other)
    if any(kind != "none" for kind, _ in steps) and table.size:
        counts = [int(theirs._groups[0].step_of(i)) for i in range(N_ROWS)]
        state = ours.state["table"]
        assert state.get("row_step", np.full(N_ROWS, state["step"])).tolist() == counts
        for name in ("exp_avg", "exp_avg_sq"):
            for i in range(N_ROWS):
                assert_same_bits(np.atleast_1d(state[name][i]), theirs._groups[0].moment(name, i), name)


@pytest.mark.parametrize("case", COMPACT)
@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from(["rows", "mask", "all", "none", "edit"]), st.lists(st.integers(0, N_ROWS - 1))),
        max_size=9,
    ),
    st.integers(0, 2**32),
)
@examples(15)
def test_rows_that_catch_up_have_the_bits_of_dense_steps(
    backend: str, case: str, steps: list[Any], seed: int
) -> None:
    dtype, width, options = COMPACT[case]
    rng = np.random.default_rng(seed)
    table, other = numbers(rng, (N_ROWS, width), dtype), numbers(rng, 3, dtype)
    expected = table.copy(), other.copy()
    if "ema_decay" not in options and case not in ("masters", "stochastic"):
        options = {**options, "max_grad_norm": 1e9}
    kw = {"lr": 0.1, "backend": backend, **options}
    ours = fastadam.Adam([table, other], lazy="exact", **kw)
    theirs = fastadam.Adam(list(expected), **kw)
    for kind, indices in steps:
        whole, grad_other = numbers(rng, (N_ROWS, width), dtype), numbers(rng, 3, dtype)
        whole[~touched(indices)] = 0
        if kind == "edit":
            value = float(rng.uniform(0, 0.9))
            for each in (ours, theirs):
                each.betas = (value, 0.9)
                each.weight_decay = 0.1 if options.get("eps") != 0 else 0.0
            continue
        if kind == "none":
            ours.step([None, grad_other])
            theirs.step([None, grad_other])
            continue
        if kind == "rows":
            unique = rng.permutation(np.unique(np.asarray(indices, int)))
            ours.step([fastadam.Rows(unique, whole[unique]), grad_other])
        elif kind == "mask":
            ours.step([whole, grad_other], mask={0: touched(indices)})
        else:
            ours.step([whole, grad_other])
        theirs.step([whole, grad_other])
        assert_same_bits(table[touched(indices)], expected[0][touched(indices)])
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))
    assert "row_step" not in ours.state.get(0, {})


def test_averages_move_in_all_rows(backend: str) -> None:
    rng = np.random.default_rng(0)
    table = numbers(rng, (N_ROWS, 3), "float64")
    optimizer = fastadam.Adam(table, lr=0.1, ema_decay=0.75, backend=backend)
    average = table.copy()
    for step in range(1, 5):
        indices = rng.choice(N_ROWS, 4)
        optimizer.step(fastadam.Rows(indices, numbers(rng, (4, 3), "float64")))
        average = table.copy() if step == 1 else average + 0.25 * (table - average)
        assert_same_bits(optimizer.ema[0], average)


def test_the_norm_is_that_of_the_rows_one_after_the_other(backend: str) -> None:
    rng = np.random.default_rng(0)
    table, other = numbers(rng, (N_ROWS, 300), "float32"), numbers(rng, 3, "float32")
    expected = table.copy(), other.copy()
    ours = fastadam.Adam([table, other], lr=0.1, max_grad_norm=0.5, backend=backend)
    theirs = fastadam.Adam(list(expected), lr=0.1, backend=backend)
    indices = np.array([8, 1, 11, 2, 3])
    grads, grad_other = numbers(rng, (5, 300), "float32"), numbers(rng, 3, "float32")
    ours.step([fastadam.Rows(indices, grads), grad_other], grad_scale=4.0)
    ordered = grads[np.argsort(indices)]
    norm = fastadam.clip_grad_norm([ordered.copy(), grad_other.copy()], np.inf) / 4.0
    assert ours.grad_norm == norm
    factor = 0.5 / (norm + 1e-6)
    theirs.step([dense(indices, grads), grad_other], grad_scale=4.0 / factor)
    np.testing.assert_allclose(table[indices], expected[0][indices], rtol=1e-5)
    mask = fastadam.Adam([expected[0], expected[1]], max_grad_norm=0.5, backend=backend)
    mask.step([dense(indices, grads), grad_other], grad_scale=4.0, mask={0: touched(indices)})
    assert mask.grad_norm == norm


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(backend: str, value: float) -> None:
    table = np.ones((N_ROWS, 3))
    optimizer = fastadam.Adam({"table": table}, skip_nonfinite=True, backend=backend)
    grads = np.ones((2, 3))
    optimizer.step({"table": fastadam.Rows([1, 5], grads)})
    before = snapshot(optimizer)
    grads[1, 1] = value
    optimizer.step({"table": fastadam.Rows([1, 5], grads)}, zero_grad=True)
    assert optimizer.skipped_steps == 1
    assert not grads.any()
    assert_same_state(snapshot(optimizer), before)
    optimizer.skip_nonfinite, optimizer.error_if_nonfinite = False, True
    grads[0, 0] = value
    with pytest.raises(RuntimeError, match="gradients of parameter 'table' are not finite"):
        optimizer.step({"table": fastadam.Rows([1, 5], grads)})
    masked = np.ones((N_ROWS, 3))
    masked[3] = value  # where the mask has nothing
    optimizer.step({"table": masked}, mask={"table": touched([1, 2])})
    assert optimizer.grad_norm == np.sqrt(6)


def test_gradients_become_zero(backend: str) -> None:
    table = np.ones((N_ROWS, 3), np.float32)
    flat = fastadam.pack({"table": table, "b": np.ones(2, np.float32)})
    optimizer = fastadam.Adam(flat, backend=backend)
    flat.grad[...] = 1
    optimizer.step(zero_grad=True, mask={"table": touched([3])})
    assert not flat.grad.any()
    assert (flat.params["table"] != 1).any(axis=1).tolist() == touched([3]).tolist()
    for indices in ([5, 1], [1, 1], [1, 2]):
        grads = np.ones((2, 3), np.float32)
        optimizer.step({"table": fastadam.Rows(indices, grads), "b": None}, zero_grad=True)
        assert not grads.any()
    with pytest.raises(ValueError, match=r"read from a copy.*zero_grad=True cannot fill it"):
        optimizer.step({"table": fastadam.Rows([0, 1], np.ones((3, 2), np.float32).T), "b": None}, zero_grad=True)


def test_forms_of_rows_and_masks(backend: str) -> None:
    def stepped(make: Any) -> np.ndarray:
        table = np.arange(12.0).reshape(4, 3)
        return np.array(make(table))

    grads = np.array([[1.0, 2.0, -1.0], [3.0, 0.5, 1.0]])
    whole = dense([2, 0], grads, 4)

    def bare(table: np.ndarray) -> np.ndarray:
        fastadam.Adam(table, backend=backend).step(fastadam.Rows((2, 0), grads))
        return table

    def held(table: np.ndarray) -> np.ndarray:
        param = fastadam.Parameter(table)
        param.grad = fastadam.Rows(np.array([2, 0], np.uint8), grads)
        optimizer = fastadam.Adam([param], backend=backend)
        optimizer.step()
        optimizer.zero_grad()
        assert param.grad is None
        return table

    def masked(table: np.ndarray) -> np.ndarray:
        fastadam.Adam(table, backend=backend).step(whole, mask=touched([2, 0], 4))
        return table

    def packed(table: np.ndarray) -> np.ndarray:
        flat = fastadam.pack([table, table[:1]])
        optimizer = fastadam.Adam(flat, backend=backend)
        optimizer.step(np.concatenate([whole.ravel(), np.zeros(3)]), mask={0: touched([2, 0], 4)})
        optimizer.step([None, np.zeros((1, 3))])
        return np.array(flat.params[0])

    def packed_alone(table: np.ndarray) -> np.ndarray:
        flat = fastadam.pack([table])
        fastadam.Adam(flat, backend=backend).step(whole.ravel(), mask=touched([2, 0], 4))
        return np.array(flat.params[0])

    def nested(table: np.ndarray) -> np.ndarray:
        params = {"layers": [{"table": table, "b": np.zeros(1)}]}
        optimizer = fastadam.Adam(params, backend=backend)
        optimizer.step({"layers": [{"table": fastadam.Rows(range(0, 4, 2), grads[::-1]), "b": None}]})
        return table

    found = [stepped(each) for each in (bare, held, masked, packed, packed_alone, nested)]
    for each in found[1:]:
        assert_same_bits(each, found[0])
    assert (found[0] != np.arange(12.0).reshape(4, 3)).any(axis=1).tolist() == [True, False, True, False]


Bad = tuple[Any, Any, type[Exception], str]
BAD: dict[str, Bad] = {
    "negative": ([1, -1], (2, 3), ValueError, r"indices of the rows of parameter 'table' go from -1 to 1"),
    "out of range": ([1, N_ROWS], (2, 3), ValueError, r"it has 13 rows, from 0 to 12; give rows that it has"),
    "float": (np.array([1.0]), (1, 3), TypeError, r"are an array of float64; give whole numbers"),
    "bool": (touched([1]), (1, 3), TypeError, r"are an array of bool; give np.flatnonzero of a mask"),
    "2-D": (np.array([[1]]), (1, 3), ValueError, r"have shape \(1, 1\); give one number for each"),
    "a number": (3, (1, 3), TypeError, r"are an int; give whole numbers"),
    "None": (None, (1, 3), TypeError, r"are None; give whole numbers"),
    "strings": (["a"], (1, 3), TypeError, r"give whole numbers"),
    "ragged": ([[1], [1, 2]], (2, 3), (TypeError, ValueError), r"."),  # type: ignore[dict-item]
    "huge": ([2**70], (1, 3), (TypeError, ValueError), r"whole numbers|go from"),  # type: ignore[dict-item]
    "too few grads": ([1, 2], (1, 3), ValueError, r"has shape \(1, 3\).*\(2, 3\)"),
    "narrow grads": ([1, 2], (2, 2), ValueError, r"has shape \(2, 2\).*\(2, 3\)"),
    "flat grads": ([1], (3,), ValueError, r"has shape \(3,\).*\(1, 3\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_before_anything_is_written(backend: str, case: str) -> None:
    indices, shape, error, message = BAD[case]
    optimizer = fastadam.Adam({"table": np.ones((N_ROWS, 3)), "other": np.ones(2)}, backend=backend)
    before = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step({"other": np.ones(2), "table": fastadam.Rows(indices, np.ones(shape))})
    assert_same_state(snapshot(optimizer), before)


def test_what_else_is_no_gradient_of_rows(backend: str) -> None:
    table, scalar = np.ones((N_ROWS, 3)), np.array(1.0)
    optimizer = fastadam.Adam({"table": table, "scalar": scalar}, backend=backend)
    before = snapshot(optimizer)
    rows, whole, right = fastadam.Rows([1], np.ones((1, 3))), np.ones((N_ROWS, 3)), touched([1])
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        ([rows, fastadam.Rows([0], np.ones(1))], None, ValueError, "single number"),
        ([whole, scalar.copy()], {"scalar": touched([0])}, ValueError, "single number"),
        ([rows, None], {"table": right}, ValueError, "give no mask"),
        ([fastadam.Rows([1], [[1.0, 1.0, 1.0]]), None], None, TypeError, "grads of type a list"),
        ([fastadam.Rows([1], np.ones((1, 3), "f4")), None], None, TypeError, "has dtype float32"),
        ([fastadam.Rows([1], table[:1]), None], None, ValueError, "shares memory"),
        (rows, None, TypeError, "by itself, but there are 2 parameters"),
        ([whole, None], {"table": np.ones(N_ROWS)}, TypeError, "array of float64.*mask != 0"),
        ([whole, None], {"table": right[:-1]}, ValueError, r"shape \(12,\).*13 rows"),
        ([whole, None], {"table": [True] * N_ROWS}, TypeError, "is a list"),
        ([whole, None], {"tabel": right}, ValueError, "'tabel': no parameter"),
        ([whole, None], right, TypeError, "mask must be a mapping"),
        ([whole, None], {"table": right, 0: None}, ValueError, "two entries"),
    ]
    for grads, mask, error, message in cases:
        with pytest.raises(error, match=message):
            optimizer.step(grads, mask=mask)
        assert_same_state(snapshot(optimizer), before)
    with pytest.raises(ValueError, match=r"lazy must be .*got 'later'"):
        fastadam.Adam(table, lazy="later")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="lazy cannot be assigned; what rows have missed depends on it"):
        optimizer.lazy = "exact"  # type: ignore[misc]


def test_rows_that_would_share_blocks_are_refused(backend: str) -> None:
    table = np.ones((4, 48), np.float32)
    optimizer = fastadam.Adam(table, state_dtype="int8", backend=backend)
    with pytest.raises(ValueError, match=r"rows of 48 numbers.*blocks of 64.*state_dtype='bfloat16'"):
        optimizer.step(fastadam.Rows([1], np.ones((1, 48), np.float32)))
    assert (table == 1).all()
    optimizer.step(np.ones_like(table))


def test_options_and_threads_between_steps(backend: str) -> None:
    rng = np.random.default_rng(1)
    tables = [numbers(rng, (400, 3), "float32") for _ in range(2)]
    expected = [table.copy() for table in tables]
    ours = fastadam.Adam(tables, backend=backend, lazy="exact")
    theirs = fastadam.Adam(expected, backend=backend)
    for step in range(8):
        if step == 3:
            ours.amsgrad = theirs.amsgrad = True
        if step == 4:
            ours.threads = 1
        if step == 5:
            ours.add_param_group({"params": [numbers(rng, (7, 2), "float64")]})
            theirs.add_param_group({"params": [ours.param_groups[1]["params"][0].copy()]})
        if step == 6:
            ours.backend = "numpy"
        grads: list[Any] = []
        whole: list[Any] = []
        for table in [each for group in ours.param_groups for each in group["params"]]:
            indices = np.unique(rng.choice(len(table), 1 + len(table) * step // 8))
            grads.append(fastadam.Rows(indices, numbers(rng, (len(indices), table.shape[1]), table.dtype)))
            whole.append(dense(indices, grads[-1].grads, len(table)))
        ours.step(grads)
        theirs.step(whole)
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize("lazy", ["skip", "exact"])
def test_state_goes_on_after_copies_and_checkpoints(backend: str, lazy: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(2)

    def new() -> Any:
        table, other = np.ones((N_ROWS, 3), np.float32), np.ones(3)
        return fastadam.Adam({"table": table, "other": other}, lr=0.1, lazy=lazy, backend=backend)

    def step(optimizers: list[Any]) -> None:
        indices = np.unique(rng.choice(N_ROWS, 5))
        grads = numbers(rng, (len(indices), 3), "float32")
        for each in optimizers:
            each.step({"table": fastadam.Rows(indices, grads), "other": np.ones(3)})

    first = new()
    for _ in range(4):
        step([first])
    others = [copy.deepcopy(first), pickle.loads(pickle.dumps(first)), new(), new()]
    params = first.param_groups[0]["params"]
    for ours, theirs in zip(others[2].param_groups[0]["params"], params, strict=True):
        ours[...] = theirs
    saved = first.state_dict()
    assert ("row_step" in saved["state"][0]) == (lazy == "skip")
    others[2].load_state_dict(saved)
    fastadam.save(tmp_path / "a.safetensors", first)
    fastadam.load(tmp_path / "a.safetensors", others[3])
    assert all(each.lazy == lazy for each in others)
    for _ in range(4):
        step([first, *others])
        for each in others:
            each.catch_up()
            first.catch_up()
            assert_same_state(snapshot(each), snapshot(first))
            assert_same_bits(
                each.state[0].get("row_step", np.zeros(0)), first.state[0].get("row_step", np.zeros(0))
            )


def test_bad_row_counters_are_refused(backend: str) -> None:
    table = np.ones((N_ROWS, 3))
    optimizer = fastadam.Adam({"table": table}, backend=backend)
    optimizer.step({"table": fastadam.Rows([1, 2], np.ones((2, 3)))})
    before = snapshot(optimizer)
    for bad in (
        np.ones(N_ROWS),
        np.ones(4, int),
        np.full(N_ROWS, 2),
        np.full(N_ROWS, -1),
        np.ones((N_ROWS, 1), int),
    ):
        saved = optimizer.state_dict()
        saved["state"][0]["row_step"] = bad
        with pytest.raises(ValueError, match=r"state dict, parameter 'table': row_step must be"):
            optimizer.load_state_dict(saved)
    exact = fastadam.Adam({"table": table.copy()}, lazy="exact", backend=backend)
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="delete 'row_step' from the state"):
        exact.load_state_dict(saved)
    del saved["state"][0]["row_step"]
    exact.load_state_dict(saved)
    assert_same_state(snapshot(optimizer), before)


def test_an_interrupt_in_the_middle_leaves_a_plan_that_is_whole(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    table = numbers(rng, (50, 3), "float32")
    expected = table.copy()
    ours, theirs = fastadam.Adam(table, backend=backend), fastadam.Adam(expected, backend="numpy")
    functions = ["_make_room", "_make_rows", "_make_counters", "_lay_rows", "first"]
    for turn in range(12):
        indices = rng.permutation(50)[: 1 + 4 * turn]
        grads = numbers(rng, (len(indices), 3), "float32")
        before = snapshot(ours)
        with monkeypatch.context() as patch:
            name = functions[turn % len(functions)]
            real = getattr(row_plan.RowPlan, name)

            def broken(*args: Any, real: Any = real) -> None:
                real(*args)
                raise KeyboardInterrupt

            patch.setattr(row_plan.RowPlan, name, broken)
            try:
                ours.step(fastadam.Rows(indices, grads))
            except KeyboardInterrupt:
                assert_same_state(snapshot(ours), before)
                patch.undo()
                ours.step(fastadam.Rows(indices, grads))
        theirs.step(fastadam.Rows(indices, grads))
        assert_same_bits(table, expected)


def test_nothing_keeps_gradients_alive_nor_reads_them_later(backend: str) -> None:
    class Watched(np.ndarray):
        pass

    table = np.ones((N_ROWS, 3))
    optimizer = fastadam.Adam(table, backend=backend)
    grads = np.ones((2, 3)).view(Watched)
    gone = weakref.ref(grads)
    optimizer.step(fastadam.Rows([4, 1], grads))
    del grads
    gc.collect()
    assert gone() is None
    noise = [np.full((2, 3), np.nan) for _ in range(100)]
    optimizer.step(fastadam.Rows([0], np.ones((1, 3))))
    assert np.isfinite(table).all()
    assert len(noise) == 100


def test_state_in_a_file(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    rng = np.random.default_rng(4)
    for lazy in ("skip", "exact"):
        tables = [np.ones((N_ROWS, 3)) for _ in range(2)]
        kw: Any = {"lr": 0.1, "lazy": lazy, "backend": backend}
        try:
            ours = fastadam.Adam(tables[0], state_path=tmp_path / lazy, **kw)
        except OSError as error:
            pytest.skip(str(error))
        theirs = fastadam.Adam(tables[1], **kw)
        for step in range(5):
            indices = rng.choice(N_ROWS, 4)
            grads = numbers(rng, (4, 3), "float64")
            for each in (ours, theirs):
                each.step(fastadam.Rows(indices, grads) if step != 2 else dense(indices, grads))
        for each in (ours, theirs):
            each.catch_up()
        with ours._exclusive("save"):
            assert_same_state(snapshot(ours), snapshot(theirs))


def test_conversions_say_that_row_counters_are_lost() -> None:
    torch = pytest.importorskip("torch")
    from fastadam.convert import to_torch

    table = np.ones((N_ROWS, 3))
    optimizer = fastadam.Adam({"table": table})
    optimizer.step({"table": fastadam.Rows([1], np.ones((1, 3)))})
    optimizer.step({"table": fastadam.Rows([1], np.ones((1, 3)))})
    with pytest.warns(UserWarning, match=r"to_torch: .* rows of parameter 'table' are lost, which are 0 to 2"):
        state = to_torch(optimizer)
    assert state["state"][0]["step"] == torch.tensor(2.0)


@pytest.mark.parametrize("lazy", ["skip", "exact"])
@pytest.mark.parametrize("state_dtype", [None, "int8"])
def test_counters_move_with_rows_that_come_and_go(backend: str, lazy: Any, state_dtype: Any) -> None:
    rng = np.random.default_rng(5)
    tables = [numbers(rng, (N_ROWS, 64), "float32")]
    tables.append(tables[0].copy())
    ours, theirs = (
        fastadam.Adam([table], lr=0.1, lazy=each, state_dtype=state_dtype, backend=backend)
        for table, each in zip(tables, (lazy, "skip"), strict=True)
    )
    counts = np.zeros(N_ROWS, int)
    for step in range(9):
        n = len(counts)
        indices = rng.choice(n, 4, replace=False)
        grads = numbers(rng, (4, 64), "float32")
        ours.step([fastadam.Rows(indices, grads)])
        whole = dense(indices, grads, n)
        theirs.step([whole] if lazy == "exact" else [fastadam.Rows(indices, grads)])
        counts[indices] += 1
        if step % 3 == 2:
            keep = np.flatnonzero(np.arange(n) % 4)
            tables = [each.resize(0, keep=keep, grow=2) for each in (ours, theirs)]
            counts = np.append(counts[keep], [0, 0])
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))
    if lazy == "skip":
        assert ours.state[0]["row_step"].tolist() == counts.tolist()
    ours.reset(0)
    assert not len(ours.state)
    before = ours.param_groups[0]["params"][0].copy()
    ours.step([fastadam.Rows([1], np.ones((1, 64), np.float32))])
    np.testing.assert_allclose(ours.param_groups[0]["params"][0][1], before[1] - np.float32(0.1), rtol=1e-5)


def test_options_that_change_in_every_step_are_those_of_the_step(backend: str) -> None:
    rng = np.random.default_rng(6)
    table, expected = np.ones((N_ROWS, 3)), np.ones((N_ROWS, 3))
    ours = fastadam.Adam(table, lazy="exact", backend=backend)
    theirs = fastadam.Adam(expected, backend=backend)
    for step in range(12):
        for each in (ours, theirs):
            each.param_groups[0]["lr"] = 0.1 / (step + 1)
        indices = np.unique(rng.choice(N_ROWS, 3))
        grads = numbers(rng, (len(indices), 3), "float64")
        ours.step(fastadam.Rows(indices, grads))
        theirs.step(dense(indices, grads))
        assert_same_bits(table[indices], expected[indices])
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))


def test_a_step_within_a_catch_up_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.ones((N_ROWS, 3))
    optimizer = fastadam.Adam(table, lazy="exact", weight_decay=0.1, backend=backend)
    for row in range(4):
        optimizer.step(fastadam.Rows([row], np.ones((1, 3))))
    real = row_plan.RowPlan.first
    raised = []

    def as_a_handler(*args: Any) -> None:
        real(*args)
        for call in (optimizer.step, optimizer.state_dict, optimizer.catch_up):
            with pytest.raises(RuntimeError, match="while a step"):
                call(*([[np.ones((N_ROWS, 3))]] if call == optimizer.step else []))
        raised.append(True)

    monkeypatch.setattr(row_plan.RowPlan, "first", as_a_handler)
    optimizer.catch_up()
    assert raised
    monkeypatch.undo()
    optimizer.step([np.ones((N_ROWS, 3))])


def test_rows_that_are_read_catch_up_before(backend: str) -> None:
    rng = np.random.default_rng(7)
    table = numbers(rng, (N_ROWS, 3), "float32")
    expected = table.copy()
    ours = fastadam.Adam({"table": table}, lr=0.1, weight_decay=0.1, lazy="exact", backend=backend)
    theirs = fastadam.Adam([expected], lr=0.1, weight_decay=0.1, backend=backend)
    for _ in range(15):
        batch = rng.choice(N_ROWS, 3)
        ours.catch_up({"table": batch})
        assert_same_bits(table[batch], expected[batch])
        grads = np.float32(2) * table[batch]
        ours.step({"table": fastadam.Rows(batch, grads)})
        theirs.step([dense(batch, grads)])
    before = table.copy()
    for bad, error, match in (
        ({"table": [N_ROWS]}, ValueError, "it has 13 rows"),
        ({"tabel": [1]}, ValueError, "'tabel': no parameter"),
        ({"table": [1.0]}, TypeError, "whole numbers"),
        ([1], TypeError, "rows must be a mapping"),
    ):
        with pytest.raises(error, match=match):
            ours.catch_up(bad)  # type: ignore[arg-type]
        assert_same_bits(table, before)
    ours.catch_up({0: range(N_ROWS)})
    assert_same_state(snapshot(ours), snapshot(theirs))
    ours.catch_up()
    assert_same_state(snapshot(ours), snapshot(theirs))
