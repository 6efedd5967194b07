"""The NumPy backend's programs: native calls alone, in little memory, with the bits of the formula itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastadam.backends import load
from fastadam.backends.numpy import CHUNK, formulas
from fastadam.backends.numpy.codecs import beside
from fastadam.backends.numpy.formulas import program_of
from fastadam.backends.numpy.recording import LARGEST_OF_ROWS
from fastadam.memory.arrays import address
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import ROLES, ROW, SPAN, TAKEN
from fastadam.step.coefficients import Coefficients, varying
from fastadam.step.counters import counters_in
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variant_of, variants_of
from tests.platforms import golden
from tests.support.compact_memory import BY_NAME, COMBINATIONS, Memory, compare
from tests.support.eager import step_span
from tests.support.plans import HYPERS, bits_of, numbers

SIZES = [1, 0, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


def variant(number_format: Any, hyper: Any) -> int:
    (found,) = variants_of([number_format.code], flags_of(hyper)).tolist()
    return int(found)


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("flushes", [False, True])
def test_programs_are_ufuncs_and_assignments_in_few_rooms(number_format: Any, hyper: Any, flushes: bool) -> None:
    program = program_of(variant(number_format, hyper), flushes)
    assert all(call.function is None or isinstance(call.function, np.ufunc) for call in program.calls)
    written = {call.output.which for call in program.calls if call.output.kind == "array"}
    assert written == set(ROLES) - {"grad"} - (set() if hyper.amsgrad else {"max_exp_avg_sq"})
    assert sum(program.rooms) <= 40  # bytes for each number of a chunk


@pytest.mark.parametrize("formats", COMBINATIONS.values(), ids=COMBINATIONS)
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("flushes", [False, True])
def test_programs_of_compact_formats_are_native_calls(formats: str, hyper: Any, flushes: bool) -> None:
    chosen = [BY_NAME[name] for name in formats.split()]
    number = int(variants_of([[each.code] for each in chosen], flags_of(hyper))[0])
    program = program_of(number, flushes)
    native = (np.ufunc, type(LARGEST_OF_ROWS))
    assert all(call.function is None or isinstance(call.function, native) for call in program.calls)
    assert LARGEST_OF_ROWS.func == np.maximum.reduce
    written = {call.output.which for call in program.calls if call.output.kind == "array"}
    roles = [role for role in ROLES if hyper.amsgrad or role != "max_exp_avg_sq"]
    expected = {role for role in roles if role != "grad"}
    for role, each in zip(roles, chosen, strict=False):
        along = beside(role, each)
        expected |= {along[0]} if along is not None else set()
    assert written == expected
    assert sum(program.rooms) <= 80  # bytes for each number of a chunk


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_compact_arrays_that_moved_are_found(combination: str) -> None:
    """Chunks are kept from step to step, and follow each array, scale and master to other memory."""
    hyper = HYPERS["amsgrad"]
    ours, theirs = (Memory(combination, [200, CHUNK + 70]) for _ in range(2))
    plan = ours.plan("numpy", hyper)
    for step in (6, 7, 8):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")
        ours.params = [[kept.copy() for kept in each] for each in ours.params]
        plan.spans[...] = ours.spans()


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
def test_replayed_steps_have_the_bits_of_the_formula(number_format: Any, hyper: Any) -> None:
    """Over spans of several rows and of all sizes around a chunk's, moved to other memory between the steps."""
    made = [
        [numbers(number_format, size, 10 * i + j, positive=j > 2) for j in range(len(ROLES))]
        for i, size in enumerate(SIZES)
    ]
    expected = [[array.copy() for array in each] for each in made]
    spans = np.zeros(len(SIZES), SPAN.dtype)
    spans["row"] = np.arange(len(SIZES)) % 2
    steps = np.array([6, 60], np.int64)
    counters = counters_in(steps)
    variants = np.full(len(SIZES), variant(number_format, hyper))
    spans["size"] = SIZES
    plan = Plan(spans, variants, counters, counters, [load("numpy")], 1, False)
    plan.write_options([Coefficients(hyper)] * 2)
    for taken in range(3):
        arrays = [[array.copy() for array in each] for each in made]
        for span, each, wanted in zip(plan.spans, arrays, expected, strict=True):
            for role, array in zip(ROLES, each, strict=True):
                span[role] = address(array)
            step = [6, 60][span["row"]] + taken + 1
            row = (*varying(Coefficients(hyper).rates, step), *Coefficients(hyper).constant)
            at = np.zeros((), SPAN.dtype)
            at["size"] = span["size"]
            for role, array in zip(ROLES, wanted, strict=True):
                at[role] = address(array)
            with np.errstate(all="ignore"):
                step_span(variant_of(int(variants[0])), at, np.array(row, ROW.dtype))
        plan.take()
        for each, wanted in zip(arrays, expected, strict=True):
            for array, other in zip(each, wanted, strict=True):
                np.testing.assert_array_equal(
                    bits_of(array, number_format.name), bits_of(other, number_format.name)
                )
        made = arrays
    assert steps.tolist() == [9, 63]


def test_what_numpy_does_about_numbers_that_are_not_finite_is_left_alone() -> None:
    """Neither warnings nor errors come from a step, and what was set for them stays set."""
    import fastadam

    def refuse(kind: str, flag: int) -> None:
        raise AssertionError(f"a step told of {kind}")

    params = [np.array([1.0, np.inf, np.nan, 1e300]), np.ones(3, np.float32)]
    optimizer = fastadam.Adam(params, lr=1e300, backend="numpy", weight_decay=1e30)
    before = np.geterrcall()
    with np.errstate(all="call", call=refuse):
        settings = np.geterr()
        for _ in range(3):
            optimizer.step([np.array([np.inf, 0.0, 1e300, -1e300]), np.full(3, 1e38, np.float32)])
        assert np.geterr() == settings
        assert np.geterrcall() is refuse
    assert np.geterrcall() is before


@pytest.fixture
def inexact_roots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put NumPy's roots of float32 numbers one bit off, as on some machines."""
    root = np.sqrt

    def inexact(array: np.ndarray, *args: Any) -> np.ndarray:
        found = root(array, *args)
        return np.nextafter(found, np.inf, *args) if found.dtype == np.float32 else found

    for cached in (formulas.roots_are_exact, program_of):
        cached.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(np, "sqrt", inexact)
        yield
    for cached in (formulas.roots_are_exact, program_of):
        cached.cache_clear()


@pytest.mark.parametrize("what", ["float32", "bfloat16", "float16", "complex64"])
def test_steps_have_the_known_bits_where_numpy_rounds_roots_otherwise(inexact_roots: None, what: str) -> None:
    assert not formulas.roots_are_exact()
    assert golden.takes(what, "numpy") == golden.STEPS[what]
