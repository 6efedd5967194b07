"""Plans over plain memory: all backends give the same bits in every format and variant."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastadam import backends
from fastadam.memory.arrays import address
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import AMSGRAD, BLOCK, CHUNK, ROLES, ROW, SPAN, TAKEN, Varying
from fastadam.step.coefficients import Coefficients, varying
from fastadam.step.counters import COUNTER_TYPES, counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variant_of, variants_of
from tests.conftest import AVAILABLE, STATES
from tests.support import strategies
from tests.support.eager import narrow, step_span, widen
from tests.support.plans import HALVES, HYPERS, bits_of, numbers
from tests.support.strategies import examples


def step(
    number_format: Any, backend: str, hyper: Hyperparameters, sizes: list[int], limit: int
) -> list[np.ndarray]:
    """Take two steps over spans of these sizes; return the parameters and moments."""
    arrays = [
        [numbers(number_format, size, 10 * i + j, positive=j > 2) for j in range(len(ROLES))]
        for i, size in enumerate(sizes)
    ]
    spans = np.zeros(len(sizes), SPAN.dtype)
    for span, each in zip(spans, arrays, strict=True):
        for name, array in zip(ROLES, each, strict=True):
            span[name] = address(array)
        span["size"] = each[0].size
    steps = [np.array([6 + i], dtype) for i, dtype in enumerate(COUNTER_TYPES.values())]
    counters = np.concatenate([counters_in(each) for each in steps])
    variants = variants_of(np.full(len(sizes), number_format.code), flags_of(hyper))
    plan = Plan(spans, variants, counters[:1], counters, [backends.load(backend)], limit, True)
    plan.write_options([Coefficients(hyper)])
    for _ in range(2):
        assert plan.take() == TAKEN
    assert [each.item() for each in steps] == [8, 9, 10]
    return [array for each in arrays for j, array in enumerate(each) if ROLES[j] != "grad"]


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
def test_every_backend_gives_the_bits_of_the_reference(backend: str, number_format: Any, hyper: Any) -> None:
    sizes = [1, 0, 4099, 33, 20_000]
    expected = step(number_format, "numpy", hyper, sizes, 1)
    for array, wanted in zip(step(number_format, backend, hyper, sizes, 1), expected, strict=True):
        np.testing.assert_array_equal(bits_of(array, number_format.name), bits_of(wanted, number_format.name))


def counter(step: int, dtype: Any) -> np.ndarray:
    return np.array([step - 1], dtype)


@given(
    strategies.betas,
    strategies.betas,
    st.one_of(strategies.steps, st.integers(1, 2**53)),
    st.floats(0, 1e300),
    st.floats(0, 1),
    st.sampled_from([np.dtype(np.int64), np.dtype(np.float64)]),
)
@example(0.9, 0.999, 1, 1e-3, 0.0, np.dtype(np.int64))
@example(0.0, 1 - 2**-53, 2**53, 1e300, 1.0, np.dtype(np.float64))
def test_backends_compute_the_scalars_of_a_step_bit_by_bit_alike(
    backend: str, beta1: float, beta2: float, step: int, lr: float, weight_decay: float, dtype: Any
) -> None:
    """Every backend computes them where it runs; fastadam.step.coefficients has the formula."""
    hyper = Hyperparameters(lr, (beta1, beta2), weight_decay=weight_decay, decoupled_weight_decay=True)
    taken = [counter(step, dtype), counter(7, np.int64), counter(1, np.float64)]
    rows = np.concatenate([counters_in(each) for each in taken])
    array = np.ones(3, np.float32)
    spans = np.zeros(1, SPAN.dtype)
    for name in ROLES:
        spans[name] = address(array)  # a row that no span has is computed, too
    plan = Plan(spans, np.zeros(1, np.int64), rows, rows[:0], [backends.load(backend)], 1, True)
    others = [Hyperparameters(), Hyperparameters(lr=0.0)]
    coefficients = [Coefficients(each) for each in (hyper, *others)]
    plan.write_options(coefficients)
    assert plan.take() == TAKEN
    found = [plan.rows[name] for name in Varying._fields]
    expected = np.array([varying(each.rates, n) for each, n in zip(coefficients, (step, 7, 1), strict=True)]).T
    np.testing.assert_array_equal(np.array(found).view(np.int64), expected.copy().view(np.int64))


@pytest.mark.parametrize("host", ["c", "numba", "numpy"])
def test_shares_of_one_plan_take_the_same_step(backend: str, host: str) -> None:
    """As where a model is on several devices: rows are computed once, and the step is counted once."""
    if host not in AVAILABLE:
        pytest.skip(STATES[host])
    arrays = np.ones((2, 4, 5), np.float32)
    arrays[:, 2:] = 0
    spans = np.zeros(2, SPAN.dtype)
    spans["size"] = 5
    for span, each in zip(spans, arrays, strict=True):
        for name, array in zip(ROLES, each, strict=False):
            span[name] = address(array)
    steps = np.zeros(1, np.int64)
    counters = counters_in(steps)
    both = [backends.load(host), backends.load(backend)]
    plan = Plan(spans, np.zeros(2, np.int64), counters, counters, both, 1, False, np.array([0, 1]))
    plan.write_options([Coefficients(Hyperparameters(lr=0.1))])
    for t in range(1, 4):
        assert plan.take() == TAKEN
        assert steps == [t]
        np.testing.assert_array_equal(arrays[0].view(np.int32), arrays[1].view(np.int32))
    assert np.all(arrays[:, 0] < 1)


def test_rows_that_are_not_in_use_are_left_alone(backend: str) -> None:
    steps = np.array([3, -1])  # the second one would give a bias correction of zero
    spans = np.zeros(1, SPAN.dtype)
    plan = Plan(
        spans, np.zeros(1, np.int64), counters_in(steps), counters_in(steps[:1]), [backends.load(backend)], 1, True
    )
    plan.write_options([Coefficients(Hyperparameters())])
    assert plan.take() == TAKEN
    assert steps.tolist() == [4, -1]
    assert plan.rows[1].item() == (0.0,) * len(ROW.dtype.names or ())


@pytest.mark.parametrize("number_format", HALVES, ids=[each.name for each in HALVES])
def test_halves_on_every_instruction_set(instruction_set: str, number_format: Any) -> None:
    for hyper in HYPERS.values():
        expected = step(number_format, "numpy", hyper, [4099], 1)
        for array, wanted in zip(step(number_format, "c", hyper, [4099], 1), expected, strict=True):
            np.testing.assert_array_equal(bits_of(array, number_format.name), bits_of(wanted, number_format.name))


@pytest.mark.usefixtures("small_shares")
@pytest.mark.parametrize("number_format", HALVES, ids=[each.name for each in HALVES])
def test_halves_on_several_threads(backend: str, number_format: Any) -> None:
    sizes = [100, 1, 31, 4000, 7]
    expected = step(number_format, backend, HYPERS["amsgrad l2"], sizes, 1)
    for array, wanted in zip(step(number_format, backend, HYPERS["amsgrad l2"], sizes, 3), expected, strict=True):
        np.testing.assert_array_equal(bits_of(array, number_format.name), bits_of(wanted, number_format.name))


SHORT = [each for each in FORMATS if each.compute == np.float32]
SIZES = [1, 0, CHUNK + 3, 33, BLOCK + 2 * CHUNK]  # around the ends of chunks


def mixed_spans(formats: list[Any]) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Return spans whose arrays are each in a format of its own, and the arrays."""
    arrays = [
        [numbers(each, size, 10 * i + j, positive=j > 2) for j, each in enumerate(formats)]
        for i, size in enumerate(SIZES)
    ]
    spans = np.zeros(len(SIZES), SPAN.dtype)
    spans["size"] = SIZES
    for span, each in zip(spans, arrays, strict=True):
        for role, array in zip(ROLES, each, strict=True):
            span[role] = address(array)
    return spans, arrays


def take_mixed(backend: str, formats: list[Any], hyper: Hyperparameters, limit: int) -> list[np.ndarray]:
    """Take a step over spans of these formats; return the bits of all arrays."""
    spans, arrays = mixed_spans(formats)
    codes = np.array([[each.code] * len(SIZES) for each in formats])
    steps = np.array([6])
    counters = counters_in(steps)
    variants = variants_of(codes, flags_of(hyper))
    plan = Plan(spans, variants, counters, counters, [backends.load(backend)], limit, True)
    plan.write_options([Coefficients(hyper)])
    assert plan.take() == TAKEN
    assert steps == [7]
    names = [each.name for each in formats] * len(SIZES)
    return [bits_of(array, name) for array, name in zip(itertools.chain(*arrays), names, strict=True)]


formats_of_arrays = st.lists(st.sampled_from(SHORT), min_size=len(ROLES), max_size=len(ROLES))


@pytest.mark.usefixtures("small_shares")
@examples(40)
@given(formats_of_arrays, st.sampled_from(list(HYPERS.values())), st.sampled_from([1, 3]))
def test_each_array_has_a_format_of_its_own(backend: str, formats: list[Any], hyper: Any, limit: int) -> None:
    expected = take_mixed("numpy", formats, hyper, 1)
    for found, wanted in zip(take_mixed(backend, formats, hyper, limit), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@given(formats_of_arrays, st.sampled_from(list(HYPERS.values())))
def test_a_step_in_any_formats_is_the_rounded_step_in_float32(formats: list[Any], hyper: Any) -> None:
    """The reference itself: all is widened, stepped as float32, and rounded once."""
    _, arrays = mixed_spans(formats)
    wide = [[widen(array, own) for array, own in zip(each, formats, strict=True)] for each in arrays]
    row = {**varying(Coefficients(hyper).rates, 7)._asdict(), **Coefficients(hyper).constant._asdict()}
    scalars = np.array(tuple(row.values()), ROW.dtype)
    found = take_mixed("numpy", formats, hyper, 1)
    for i, each in enumerate(wide):
        span = np.zeros((), SPAN.dtype)
        kept = [np.ascontiguousarray(array).copy() for array in each]
        for role, array in zip(ROLES, kept, strict=True):
            span[role] = address(array)
        span["size"] = SIZES[i]
        with np.errstate(all="ignore"):
            (number,) = variants_of([0], flags_of(hyper)).tolist()
            step_span(variant_of(number), span, scalars)
            for j, (role, array, own) in enumerate(zip(ROLES, kept, formats, strict=True)):
                written = role != "grad" and (hyper.amsgrad or role != "max_exp_avg_sq")
                stored = narrow(array, own) if written else arrays[i][j]
                np.testing.assert_array_equal(found[len(ROLES) * i + j], bits_of(stored, own.name))


def test_variants_are_numbered_both_ways() -> None:
    for codes in itertools.product(range(len(FORMATS)), repeat=len(ROLES)):
        formats = [FORMATS[code] for code in codes]
        for flags in {flags_of(hyper) for hyper in HYPERS.values()}:
            needed = formats if flags & AMSGRAD else [*formats[:-1], formats[-2]]
            compute = needed[0].compute
            moments = [each for each in needed[2:] if each.compute != compute and compute != np.float64]
            if needed[1].compute != compute or moments:
                with pytest.raises(ValueError, match="are in formats that are computed with in other dtypes"):
                    variants_of(np.array(codes).reshape(-1, 1), flags)
                continue
            (number,) = variants_of(np.array(codes).reshape(-1, 1), flags).tolist()
            assert variant_of(number) == (needed[0].compute, tuple(needed), flags)
