"""NumPy parameters in float16 and bfloat16, and gradients of another dtype than their parameters'."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.groups.patterns import MOST_PATTERNS
from fastadam.memory.array_offsets import array_offsets
from tests.adam.test_remedies import accepted
from tests.support.halves import (
    BFLOAT16,
    DECAYS,
    FLOAT16,
    FLOAT32,
    HALVES,
    MIXED,
    Rounded,
    assert_same,
    numbers,
)
from tests.support.strategies import examples, options, seeds, shapes

SHAPES = [(70,), (3, 3), (), (0,), (9001,)]


def made(dtypes: Any, seed: int = 0) -> list[np.ndarray]:
    """Return parameters of these dtypes in turn, and of `SHAPES`."""
    return [numbers([shape], dtypes[i % len(dtypes)], seed + i)[0] for i, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("grad_dtype", MIXED, ids=str)
@pytest.mark.parametrize("dtype", MIXED, ids=str)
def test_a_step_is_that_of_float32_rounded_once(dtype: Any, grad_dtype: Any, decay: str, backend: str) -> None:
    params = made([dtype])
    expected = Rounded(params, lr=0.01, **DECAYS[decay])
    optimizer = fastadam.Adam(params, lr=0.01, backend=backend, **DECAYS[decay])
    for seed in range(5):
        grads = made([grad_dtype], seed)
        optimizer.step(grads)
        expected.step(grads)
    for i, (param, other) in enumerate(zip(params, expected.weights(), strict=True)):
        assert_same(param, other, f"parameter {i}")
        for name in set(optimizer.state[i]) - {"step"}:
            assert_same(optimizer.state[i][name], expected.optimizer.state[i][name].astype(dtype), name)


@given(data=st.data(), choices=options(), seed=seeds)
@examples(30)
def test_any_mixture_steps_as_if_all_were_float32(
    data: st.DataObject, choices: dict[str, Any], seed: int, backend: str
) -> None:
    each = data.draw(st.lists(shapes, min_size=1, max_size=5))
    dtypes = [data.draw(st.sampled_from(MIXED)) for _ in each]
    params = [
        numbers([shape], dtype, seed + i)[0] for i, (shape, dtype) in enumerate(zip(each, dtypes, strict=True))
    ]
    limit = data.draw(st.sampled_from([None, 0.1, 1e9]))
    expected = Rounded(params, max_grad_norm=limit, **choices)
    optimizer = fastadam.Adam(params, max_grad_norm=limit, backend=backend, **choices)
    for step in range(4):
        how = {"grad_scale": data.draw(st.sampled_from([1.0, 1024.0])), "zero_grad": data.draw(st.booleans())}
        grads: list[Any] = []
        for i, shape in enumerate(each):
            grad = numbers([shape], data.draw(st.sampled_from(MIXED)), seed + 7 * step + i)[0]
            grads.append(data.draw(st.sampled_from([grad, grad, None])))
        expected.step(grads, **how)
        optimizer.step(grads, **how)
        assert not how["zero_grad"] or not any(grad is not None and np.any(grad) for grad in grads)
        if any(grad is not None for grad in grads):
            assert optimizer.grad_norm == expected.optimizer.grad_norm
    for i, (param, other) in enumerate(zip(params, expected.weights(), strict=True)):
        assert_same(param, other, f"parameter {i}")


@pytest.mark.parametrize("grad_dtype", MIXED, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_packed_groups(dtype: Any, grad_dtype: Any, backend: str) -> None:
    params = made([dtype])
    flat = fastadam.pack(params)
    assert flat.param.dtype == flat.grad.dtype == flat.params[1].dtype == dtype
    one, other = fastadam.Adam(flat, backend=backend), fastadam.Adam(params, backend=backend)
    for seed in range(3):
        grads = made([grad_dtype], seed)
        other.step(grads)
        one.step(np.concatenate([grad.reshape(-1) for grad in grads]) if seed else grads)
        own = made([dtype], seed)
        for view, grad in zip(flat.grads, own, strict=True):
            view[...] = grad
        one.step()
        other.step(own)
    for view, param in zip(flat.params, params, strict=True):
        assert_same(np.asarray(view), param)


def test_where_gradients_live(backend: str) -> None:
    arrays = made([BFLOAT16, FLOAT32])
    expected = copy.deepcopy(arrays)
    params = {str(i): fastadam.Parameter(array) for i, array in enumerate(arrays)}
    one, other = fastadam.Adam(params, backend=backend), fastadam.Adam(expected, backend=backend)
    for seed in range(4):
        grads = made([FLOAT32, FLOAT16, BFLOAT16], seed)
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad
        one.step(zero_grad=True)
        assert not any(param.grad.any() for param in params.values())
        nested = {"a": made([FLOAT32, FLOAT16, BFLOAT16], seed)}
        other.step(nested["a"])
    one.zero_grad(set_to_none=False)
    one.zero_grad()
    assert params["0"].grad is None
    for array, each in zip(arrays, expected, strict=True):
        assert_same(array, each)


def test_nested_gradients_of_other_dtypes(backend: str) -> None:
    first, second = np.ones(3, BFLOAT16), np.ones(2, FLOAT32)
    expected = Rounded([first, second])
    optimizer = fastadam.Adam({"a": [first, {"b": second}]}, backend=backend)
    for _ in range(2):
        grads = [np.ones(3, FLOAT32), np.ones(2, FLOAT16)]
        optimizer.step({"a": [grads[0], {"b": grads[1]}]})
        expected.step(grads)
    for param, other in zip((first, second), expected.weights(), strict=True):
        assert_same(param, other)


def test_a_number_is_a_gradient_too(backend: str) -> None:
    param = np.ones((), BFLOAT16)
    expected = Rounded([param], lr=0.5)
    optimizer = fastadam.Adam(param, lr=0.5, backend=backend)
    for number in (np.float16(1), np.ones(1, BFLOAT16)[0], np.float32(3)):
        optimizer.step([number])
        expected.step([number])
    assert_same(param, expected.weights()[0])


@pytest.mark.skipif(array_offsets() is None, reason="native code cannot read arrays here")
def test_plans_are_made_once_for_dtypes_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadam.work import planner

    made_lists = []
    original = planner.WorkList
    monkeypatch.setattr(planner, "WorkList", lambda *given, **how: made_lists.append(1) or original(*given, **how))
    params = made([FLOAT32, BFLOAT16])
    optimizer = fastadam.Adam(params, backend="c")
    del made_lists[:]
    for _ in range(3):
        optimizer.step(made([FLOAT32, BFLOAT16]))
    assert not made_lists  # those of the parameters are what it begins with
    for i in range(40):
        optimizer.step(made([MIXED[i % 3]]))
        optimizer.lr = 0.1 / (1 + i)
    assert len(made_lists) == 3
    # What is in use is tried first: one native call, and no look at each gradient in Python.
    grads = made([MIXED[39 % 3]])
    assert optimizer._planner.by_member.try_step(tuple(grads)) == -1


def test_ever_other_mixtures_do_not_pile_up() -> None:
    params = [np.ones(2, np.float32) for _ in range(6)]
    optimizer = fastadam.Adam(params, backend="c")
    for number in range(3 * MOST_PATTERNS):
        optimizer.step([np.ones(2, MIXED[number // 3**i % 3]) for i in range(6)])
    assert len(list(optimizer._planner._patterns)) <= MOST_PATTERNS


def test_missing_gradients_of_ever_other_dtypes(backend: str) -> None:
    rng = np.random.default_rng(0)
    params = made([FLOAT32, BFLOAT16, FLOAT16])
    expected = Rounded(params)
    optimizer = fastadam.Adam(params, backend=backend)
    for step in range(3 * MOST_PATTERNS):
        grads = [
            None if rng.random() < 0.4 else numbers([shape], MIXED[rng.integers(3)], step)[0] for shape in SHAPES
        ]
        optimizer.step(grads)
        expected.step(grads)
    for param, other in zip(params, expected.weights(), strict=True):
        assert_same(param, other)


LAYOUTS: dict[str, Any] = {
    "plain": lambda grad: grad,
    "reversed": lambda grad: grad[::-1].copy()[::-1] if grad.ndim else grad,
    "by columns": lambda grad: np.array(grad, order="F"),
    "every other": lambda grad: np.repeat(grad, 2, axis=0)[::2] if grad.ndim else grad,
    "a subclass": lambda grad: grad.view(type("Own", (np.ndarray,), {})),
    "missing": lambda grad: None,
}


@pytest.mark.parametrize("n", [5, 50])  # a few, and so many that Python looks at all of them
def test_other_dtypes_in_other_layouts(n: int, backend: str) -> None:
    rng = np.random.default_rng(n)
    each = [[(3, 4), (5,), ()][i % 3] for i in range(n)]
    params = [numbers([shape], MIXED[i % 3], i)[0] for i, shape in enumerate(each)]
    expected = Rounded(params)
    optimizer = fastadam.Adam(params, backend=backend)
    for step in range(2 * MOST_PATTERNS + 3):
        layouts = list(LAYOUTS)[: len(LAYOUTS) - step % 2]  # in every other step, none is missing
        grads = [
            LAYOUTS[layouts[rng.integers(len(layouts))]](numbers([shape], MIXED[rng.integers(3)], step + i)[0])
            for i, shape in enumerate(each)
        ]
        optimizer.step(grads)
        expected.step(grads)
    for param, other in zip(params, expected.weights(), strict=True):
        assert_same(param, other)


@pytest.mark.skipif(array_offsets() is None, reason="native code cannot read arrays here")
def test_one_odd_gradient_has_nobody_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [np.ones((2, 3), np.float32) for _ in range(5)]
    optimizer = fastadam.Adam(params, backend="c")
    work = optimizer._planner.by_member
    monkeypatch.setattr(type(work), "dtypes_of", lambda *given: pytest.fail("all were looked at"))
    for place in range(5):
        grads = [np.ones((2, 3), np.float32) for _ in range(5)]
        grads[place] = np.asfortranarray(grads[place])
        optimizer.step(grads)
    assert optimizer.state[0]["step"] == 5


@pytest.mark.parametrize("dtype", MIXED, ids=str)
def test_steps_that_are_not_finite(dtype: Any, backend: str) -> None:
    params = made([dtype])
    before = copy.deepcopy(params)
    optimizer = fastadam.Adam(params, skip_nonfinite=True, backend=backend)
    for i, grad_dtype in enumerate(MIXED):
        grads = made([grad_dtype])
        grads[1][0, 0] = [np.nan, np.inf, -np.inf][i]
        optimizer.step(grads, zero_grad=i == 2)
        assert not grads[0].any() if i == 2 else grads[0].any()
    assert optimizer.skipped_steps == 3
    assert len(optimizer.state) == 0
    optimizer.skip_nonfinite, optimizer.error_if_nonfinite = False, True
    grads = made([BFLOAT16])
    grads[1][0, 0] = np.inf
    with pytest.raises(RuntimeError, match="parameter 1"):
        optimizer.step(grads)
    for param, each in zip(params, before, strict=True):
        assert_same(param, each)


REFUSED: dict[str, Any] = {
    "float64": np.float64,
    "complex": np.complex64,
    "whole numbers": np.int32,
    "other bytes": np.dtype(np.float32).newbyteorder(),
    "halves with other bytes": FLOAT16.newbyteorder(),
    "bfloat16 with other bytes": BFLOAT16.newbyteorder(),
    "bits without a meaning": "V2",
}


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dtype", MIXED, ids=str)
def test_gradients_of_other_dtypes_are_refused_before_anything_is_written(
    dtype: Any, name: str, backend: str
) -> None:
    params = [np.ones(3, FLOAT32), np.ones(3, dtype)]
    bad = np.zeros(3, REFUSED[name])
    optimizer = fastadam.Adam(params, lr=0.5, backend=backend)
    for first in (np.ones(3, FLOAT32), np.ones(3, FLOAT16)):
        with pytest.raises(TypeError, match=rf"parameter 1 .*has {dtype}, which takes gradients of float32, bf"):
            optimizer.step([first, bad])
    assert len(optimizer.state) == 0
    accepted(lambda grad: optimizer.step([np.ones(3, FLOAT16), grad]), "grad", bad)
    assert float(params[0][0]) == 0.5


@pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.complex128])
def test_others_take_their_own_dtype_alone(dtype: Any, backend: str) -> None:
    param = np.ones(3, dtype)
    optimizer = fastadam.Adam(param, backend=backend)
    for grad_dtype in MIXED:
        with pytest.raises(TypeError, match=rf"has dtype {grad_dtype}, its parameter has {np.dtype(dtype)}; conv"):
            optimizer.step([np.ones(3, grad_dtype)])
        assert (param == 1).all()
        accepted(lambda grad: optimizer.step([grad]), "grad", np.zeros(3, grad_dtype))


@pytest.mark.parametrize(
    "name", ["halves with other bytes", "bfloat16 with other bytes", "bits without a meaning"]
)
def test_parameters_after_following_the_message(name: str) -> None:
    for make in (fastadam.Adam, fastadam.Parameter):
        with pytest.raises(
            TypeError, match="supported are float32, float64, bfloat16, float16, complex64, complex1"
        ):
            make(np.zeros(3, REFUSED[name]))
        _, _, variable = accepted(make, "w", np.zeros(3, REFUSED[name]))
        assert variable.dtype in MIXED
    flat, _, _ = accepted(lambda x: fastadam.pack([x]), "x", np.zeros(3, REFUSED[name]))
    assert flat.param.dtype in MIXED


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_clip_grad_norm(dtype: Any) -> None:
    grads = numbers([(50,), (3, 4)], dtype, 0)
    wide = [grad.astype(np.float32) for grad in grads]
    assert fastadam.clip_grad_norm(grads, 0.25) == fastadam.clip_grad_norm(wide, 0.25)
    for grad, each in zip(grads, wide, strict=True):
        assert_same(grad, each.astype(dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_averages_are_refused(dtype: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"parameter 0 is {dtype}, which is computed with in float32; hold it in that"
    ):
        fastadam.Adam(np.ones(3, dtype), ema_decay=0.9)
    optimizer = fastadam.Adam(np.ones(3, dtype))
    with pytest.raises(TypeError, match="leave ema_decay=None"):
        optimizer.ema_decay = 0.9


@pytest.mark.parametrize("make", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_go_on_the_same(make: Any, backend: str) -> None:
    optimizer = fastadam.Adam(made(MIXED), backend=backend)
    optimizer.step(made([FLOAT16]))
    twin = make(optimizer)
    for each in (optimizer, twin):
        each.step(made([BFLOAT16]))
    for i, param in enumerate(optimizer.param_groups[0]["params"]):
        assert_same(twin.param_groups[0]["params"][i], param)
        assert_same(twin.state[i]["exp_avg_sq"], optimizer.state[i]["exp_avg_sq"])


def test_the_library_does_not_import_ml_dtypes() -> None:
    code = """
import sys, numpy as np, fastadam
for dtype in (np.float16, np.float32):
    optimizer = fastadam.Adam(np.ones(3, dtype))
    optimizer.step(np.ones(3, np.float16))
try:
    fastadam.Adam(np.ones(3, "V2"))
except TypeError:
    pass
assert "ml_dtypes" not in sys.modules
import ml_dtypes
fastadam.Adam(np.ones(3, ml_dtypes.bfloat16)).step(np.ones(3, ml_dtypes.bfloat16))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
