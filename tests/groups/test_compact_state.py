"""Compact state: what it is read as, and that saved runs go on with the same bits, and are converted."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory.formats import BFLOAT16, INT8, ROOT8
from fastadam.step.compact_arrays import decode, encode
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.strategies import examples

SHAPES: list[tuple[int, ...]] = [(13, 5), (), (64,), (0,), (129,)]
STATE_DTYPES = (None, "float32", "bfloat16", "int8")
DTYPES = ("float32", "float64", "complex64")
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def make(start: list[np.ndarray], packed: bool, **options: Any) -> fastadam.Adam:
    """Return an optimizer over copies of arrays."""
    params: Any = fastadam.pack(start) if packed else [array.copy() for array in start]
    return fastadam.Adam(params, lr=0.05, backend="c", **options)


def run(optimizer: fastadam.Adam, dtype: str, first: int, steps: int = 5) -> fastadam.Adam:
    """Take steps with gradients that depend on their number alone."""
    for step in range(first, first + steps):
        optimizer.step(random_arrays(SHAPES, dtype, step))
    return optimizer


def with_params_of(optimizer: fastadam.Adam, dtype: str, packed: bool, **options: Any) -> fastadam.Adam:
    """Return a fresh optimizer whose parameters are as those of another are now."""
    return make([member.array for member in optimizer._groups.members], packed, **options)


def loaded(saved: Any, optimizer: fastadam.Adam) -> fastadam.Adam:
    """Load a state dict into an optimizer and return it."""
    optimizer.load_state_dict(saved)
    return optimizer


@examples(20)
@given(
    state_dtype=st.sampled_from(STATE_DTYPES),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.booleans(), st.booleans()),
    amsgrad=st.booleans(),
    seed=strategies.seeds,
    way=st.sampled_from(["load", "pickle", "copy"]),
)
def test_runs_go_on_the_same_after_saving_and_copying(
    state_dtype: Any, dtype: str, layouts: tuple[bool, bool], amsgrad: bool, seed: int, way: str
) -> None:
    """Five steps, saved or copied, and five more have the bits of ten, the random ones too."""
    options: dict[str, Any] = {"state_dtype": state_dtype, "amsgrad": amsgrad}
    start = random_arrays(SHAPES, dtype, seed)
    whole = run(make(start, layouts[0], **options, seed=seed), dtype, 0, 10)
    first = run(make(start, layouts[0], **options, seed=seed), dtype, 0)
    if way == "load":
        saved = pickle.loads(pickle.dumps(first.state_dict()))
        second = loaded(saved, with_params_of(first, dtype, layouts[1], **options))
        assert second.param_groups[0]["seed"] == seed
    else:
        second = pickle.loads(pickle.dumps(first)) if way == "pickle" else copy.deepcopy(first)
    assert_same_state(snapshot(run(second, dtype, 5)), snapshot(whole))


def nearest(numbers: np.ndarray, name: str, state_dtype: str | None) -> np.ndarray:
    """Return what the numbers of a moment are once they lie in another format."""
    pairs = (
        numbers.reshape(-1).view(np.float32).reshape(*numbers.shape, 2) if numbers.dtype.kind == "c" else numbers
    )
    if state_dtype == "bfloat16":
        found = decode(*encode(pairs, BFLOAT16), BFLOAT16)
    elif state_dtype == "int8":
        number_format = INT8 if name == "exp_avg" else ROOT8
        found = decode(*encode(pairs, number_format), number_format)
    else:
        found = pairs.astype(np.float32)
    found = np.array(found)
    return found.reshape(-1).view(np.complex64).reshape(numbers.shape) if numbers.dtype.kind == "c" else found


@examples(30)
@given(
    source=st.sampled_from(STATE_DTYPES),
    target=st.sampled_from(STATE_DTYPES),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.booleans(), st.booleans()),
    amsgrad=st.booleans(),
    seed=strategies.seeds,
)
def test_state_of_other_formats_is_converted_to_nearest(
    source: Any, target: Any, dtype: str, layouts: tuple[bool, bool], amsgrad: bool, seed: int
) -> None:
    start = random_arrays(SHAPES, dtype, seed)
    ours = run(make(start, layouts[0], state_dtype=source, amsgrad=amsgrad), dtype, 0)
    theirs = loaded(ours.state_dict(), make(start, layouts[1], state_dtype=target, amsgrad=amsgrad))
    assert theirs.param_groups[0]["state_dtype"] == target
    for key, entry in ours.state.items():
        for name in MOMENTS[: 2 + amsgrad]:
            expected = entry[name] if source == target else nearest(entry[name], name, target)
            found = theirs.state[key][name]
            assert_same_bits(found.astype(expected.dtype), expected, f"{name} {key}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_compact_state_is_read_as_numbers(state_dtype: Any, dtype: str) -> None:
    """Copies in the parameter's shape, which cannot be written to, without scales."""
    optimizer = run(make(random_arrays(SHAPES, dtype, 0), False, state_dtype=state_dtype), dtype, 0)
    for shape, entry in zip(SHAPES, optimizer.state.values(), strict=True):
        assert set(entry) == {"step", "exp_avg", "exp_avg_sq"}
        for name in ("exp_avg", "exp_avg_sq"):
            assert entry[name].shape == shape
            assert entry[name].dtype == (np.complex64 if dtype == "complex64" else np.float32)
            with pytest.raises(ValueError, match="read-only"):
                entry[name][...] = 0


def _drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.pop(name)


def _put(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.update({name: change(entry[name])})


@pytest.mark.parametrize("target", STATE_DTYPES)
@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (_drop("exp_avg_scale"), ValueError, "exp_avg has codes of 8 bits, and exp_avg_scale is missing"),
        (_put("exp_avg_scale", lambda each: each[:-1]), ValueError, r"exp_avg_scale is float32 of shape \(1,\)"),
        (_put("exp_avg_scale", lambda each: each.astype(float)), ValueError, "exp_avg_scale is float64"),
        (_put("exp_avg_sq", lambda each: each.view(np.int8)), TypeError, "exp_avg_sq has dtype int8.*uint8"),
        (_put("exp_avg", lambda each: each.astype(np.float32)), TypeError, "exp_avg has dtype float32.*int8"),
        (_put("exp_avg", lambda each: each[:-1]), ValueError, "exp_avg has shape"),
        (lambda entry: entry.update(max_exp_avg_sq_scale=entry["exp_avg_scale"]), ValueError, "no max_exp_avg_sq"),
    ],
)
def test_codes_and_scales_that_do_not_belong_together_are_refused(
    target: Any, damage: Any, error: Any, match: str
) -> None:
    """Whatever the optimizer keeps itself; and nothing has changed then."""
    start = random_arrays(SHAPES, "float32", 1)
    saved = run(make(start, False, state_dtype="int8"), "float32", 0).state_dict()
    damage(saved["state"][0])
    optimizer = run(make(start, False, state_dtype=target), "float32", 3)
    before = snapshot(optimizer)
    with pytest.raises(error, match=match):
        optimizer.load_state_dict(saved)
    assert_same_state(snapshot(optimizer), before)


def test_float64_moments_of_a_float32_parameter_stay_refused() -> None:
    start = random_arrays(SHAPES, "float32", 1)
    optimizer = run(make(start, False), "float32", 0)
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].astype(np.float64)
    with pytest.raises(TypeError, match="exp_avg has dtype float64"):
        optimizer.load_state_dict(saved)
