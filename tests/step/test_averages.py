"""Averages of parameters, and zeroed gradients, in plans: the bits of the formula, from all kernels."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadam import backends
from fastadam.backends import c
from fastadam.memory.arrays import address
from fastadam.memory.formats import BFLOAT16, FORMATS
from fastadam.memory.structs import AVERAGE, IDLE, ROLES, SPAN, STRIP, TAKEN
from fastadam.step.after import After, Averaging, weight_at
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.conftest import AVAILABLE
from tests.support.plans import HYPERS, bits_of, numbers
from tests.support.strategies import seeds

SIZES = (0, 1, 17, STRIP - 1, STRIP, 2 * STRIP + 3)
decays = st.one_of(st.sampled_from([0.0, 0.5, 0.999, 1 - 1e-9, 1.0]), st.floats(0, 1))


class Spans:
    """Numbers in every format, one row of spans that have taken steps and one of those that have not."""

    def __init__(self, number_format: Any, sizes: Any, seed: int) -> None:
        self.format = number_format
        self.arrays = {
            role: [numbers(number_format, n, seed + i, positive="sq" in role) for i, n in enumerate(sizes)]
            for role in ROLES
        }
        self.arrays[AVERAGE] = [
            np.random.default_rng(seed + i).standard_normal(n).astype(number_format.compute)
            for i, n in enumerate(sizes)
        ]
        self.steps = np.array([0, 5], np.int64)

    def plan(self, backend: str, after: After, hyper: str = "plain", threads: int = 1, idle: int = -1) -> Plan:
        spans = np.zeros(len(self.arrays["param"]), SPAN.dtype)
        for role, arrays in self.arrays.items():
            spans[role] = [address(each) for each in arrays]
        spans["size"] = [each.size for each in self.arrays["param"]]
        spans["row"] = np.arange(len(spans)) % 2
        variants = variants_of(np.full(len(spans), self.format.code), flags_of(HYPERS[hyper]))
        if idle >= 0:
            variants[idle] = variants_of([self.format.code], IDLE)[0]
        counters = counters_in(self.steps)
        plan = Plan(spans, variants, counters, counters, [backends.load(backend)], threads, True, after=after)
        plan.write_options([Coefficients(HYPERS[hyper])] * 2)
        return plan

    def take(self, *arguments: Any, **options: Any) -> None:
        """Take one step, while the plan is alive."""
        plan = self.plan(*arguments, **options)
        assert plan.take() == TAKEN

    def bits(self) -> list[bytes]:
        """Return the bits of all arrays and counters."""
        return [
            bits_of(each, (self.format.compute if role == AVERAGE else self.format).name).tobytes()
            for role, arrays in self.arrays.items()
            for each in arrays
        ] + [self.steps.tobytes()]


def moved(ema: Any, param: Any, weight: float) -> Any:
    """Return the average after a step, from the parameter after it."""
    real = ema.dtype.type
    if real(weight) == 1:
        return param.copy()
    with np.errstate(all="ignore"):
        return ema + real(weight) * (param - ema)


def widened(stored: Any, number_format: Any) -> Any:
    if number_format is BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(number_format.compute)


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("hyper", ["plain", "amsgrad decoupled"])
@settings(max_examples=30)
@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3), decays, st.booleans(), seeds)
def test_averages_are_those_of_the_formula(
    backend: str, number_format: Any, hyper: str, sizes: list[int], decay: float, warms_up: bool, seed: int
) -> None:
    with_averages, without = Spans(number_format, sizes, seed), Spans(number_format, sizes, seed)
    after = After(Averaging(decay, warms_up))
    plan, other = with_averages.plan(backend, after, hyper), without.plan(backend, After(), hyper)
    for _ in range(2):
        weights = [weight_at(step + 1, decay, warms_up) for step in with_averages.steps.tolist()]
        assert plan.take() == other.take() == TAKEN
        for i, (ema, param) in enumerate(zip(without.arrays[AVERAGE], without.arrays["param"], strict=True)):
            ema[...] = moved(ema, widened(param, number_format), weights[i % 2])
        assert with_averages.bits() == without.bits()


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda each: each.name)
@settings(max_examples=30)
@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), st.integers(1, 3), st.integers(-1, 3), seeds)
def test_all_backends_and_threads_give_the_same_bits(
    small_shares: None, number_format: Any, sizes: list[int], threads: int, idle: int, seed: int
) -> None:
    found = set()
    for backend in AVAILABLE:
        spans, after = Spans(number_format, sizes, seed), After(Averaging(0.9, True))
        after.zero(True)
        plan = spans.plan(backend, after, threads=threads, idle=idle if idle < len(sizes) else -1)
        grads = [each.copy() for each in spans.arrays["grad"]]
        for _ in range(2):
            plan.take()
        for i, (grad, before) in enumerate(zip(spans.arrays["grad"], grads, strict=True)):
            assert grad.tobytes() == (before.tobytes() if i == idle else bytes(grad.nbytes))
        found.add(tuple(spans.bits()))
    assert len(found) == 1


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3), seeds)
def test_each_instruction_set_gives_the_same_bits(instruction_set: str, sizes: list[int], seed: int) -> None:
    assert c.instruction_set() == instruction_set
    found = []
    for backend in ("c", "numpy"):
        spans = Spans(FORMATS[0], sizes, seed)
        spans.take(backend, After(Averaging(0.99)))
        found.append(spans.bits())
    assert found[0] == found[1]


def test_an_idle_span_moves_its_average_alone(backend: str) -> None:
    spans = Spans(FORMATS[1], [40, 40], 3)
    before = {role: [each.copy() for each in arrays] for role, arrays in spans.arrays.items()}
    spans.take(backend, After(Averaging(0.5)), idle=1)
    for role in ROLES:
        assert spans.arrays[role][1].tobytes() == before[role][1].tobytes()
    expected = moved(before[AVERAGE][1], before["param"][1], 0.5)
    assert bits_of(spans.arrays[AVERAGE][1], "float64").tobytes() == bits_of(expected, "float64").tobytes()


def test_gradients_that_share_memory_are_read_before_any_is_zero(backend: str) -> None:
    spans, others = Spans(FORMATS[0], [3000, 3000], 1), Spans(FORMATS[0], [3000, 3000], 1)
    spans.arrays["grad"][1] = spans.arrays["grad"][0]
    others.arrays["grad"][1] = others.arrays["grad"][0].copy()
    after = After()
    after.zero(True)
    spans.take(backend, after)
    others.take(backend, After())
    assert not spans.arrays["grad"][0].any()
    spans.arrays["grad"], others.arrays["grad"] = [], []
    assert spans.bits() == others.bits()


@given(st.integers(1, 2**53), st.floats(0, 1), st.booleans())
def test_weights_are_within_an_ulp_of_exact(step: int, decay: float, warms_up: bool) -> None:
    with mpmath.workdps(60):
        limit = mpmath.mpf(1 + step) / (10 + step)
        exact = 1 - (min(limit, mpmath.mpf(decay)) if warms_up else mpmath.mpf(decay))
        found = weight_at(float(step), decay, warms_up)
        assert found == 1 if step == 1 else abs(found - exact) <= 2.0**-52
