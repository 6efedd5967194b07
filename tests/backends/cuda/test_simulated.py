"""The CUDA backend under Numba's simulator, in a process of its own, which `conftest.py` starts.

By hand: ``NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/backends/cuda/test_simulated.py``.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastadam
from fastadam import backends
from fastadam.memory.arrays import address
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import ROLES, SPAN, TAKEN
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.support.plans import HYPERS, bits_of, numbers

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

from fastadam.backends import cuda  # noqa: E402
from fastadam.backends.cuda import kernels as cuda_kernels  # noqa: E402
from tests.support.strategies import examples  # noqa: E402

BLOCK = cuda_kernels.BLOCK
# Around the ends of vectors, blocks of scalars and blocks of vectors.
EDGES = sorted(
    {
        0,
        1,
        *(lanes * threads + around for lanes in (1, 2, 4, 8) for threads in (1, BLOCK) for around in (-1, 0, 1)),
    }
)


class Work:
    """Spans over memory of their own, for any backend."""

    def __init__(self, formats: list[Any], sizes: list[int], shifts: list[int], rows: list[int]) -> None:
        """Make the spans; `shifts` moves each one's first number that many numbers away from 16 bytes."""
        self.arrays = []
        self.spans = np.zeros(len(sizes), SPAN.dtype)
        self._kept = []
        for i, (number_format, size, shift) in enumerate(zip(formats, sizes, shifts, strict=True)):
            each = []
            for j, name in enumerate(ROLES):
                room = np.zeros(size * number_format.stored.itemsize + 256, np.uint8)
                at = -address(room) % 16 + shift * number_format.stored.itemsize
                array = room[at : at + size * number_format.stored.itemsize].view(number_format.stored)
                array[:] = numbers(number_format, size, 10 * i + j, positive=j > 2)
                self._kept.append(room)
                each.append(array)
                self.spans[i][name] = address(array)
            self.spans[i]["size"], self.spans[i]["row"] = size, rows[i]
            self.arrays.append(each)
        self.formats = formats

    def plan(self, backend: Any, hypers: list[Hyperparameters]) -> Plan:
        """Return a plan of these spans; spans of one row have the options of the same number."""
        each = [hypers[row] for row in self.spans["row"]]
        variants = variants_of(
            np.array([number_format.code for number_format in self.formats]),
            [flags_of(hyper) for hyper in each],
        )
        self.steps = 2 + np.arange(len(hypers))  # rows differ in them
        counters = counters_in(self.steps)
        plan = Plan(self.spans.copy(), variants, counters, counters, [backend], 1, True)
        plan.write_options([Coefficients(hyper) for hyper in hypers])
        return plan

    def bits(self) -> list[np.ndarray]:
        """Return the bits of all that a step writes, with one NaN for all, and of all around it."""
        found = [
            bits_of(array, number_format.name)
            for each, number_format in zip(self.arrays, self.formats, strict=True)
            for array in each
        ]
        return [*found, *(room[:16] for room in self._kept), *(room[-16:] for room in self._kept)]


def compare(formats: list[Any], sizes: list[int], shifts: list[int], rows: list[int], hypers: list[Any]) -> None:
    ours, theirs = Work(formats, sizes, shifts, rows), Work(formats, sizes, shifts, rows)
    plans = ours.plan(cuda, hypers), theirs.plan(backends.load("numpy"), hypers)
    for _ in range(2):
        for plan in plans:
            assert plan.take() == TAKEN
    for mine, expected in zip(ours.bits(), theirs.bits(), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_the_simulator_is_what_runs() -> None:
    assert cuda_kernels.SIMULATED
    assert fastadam.available_backends()["cuda"] == "available"


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("shift", [0, 1])
def test_one_span_of_every_size(number_format: Any, hyper: Any, shift: int) -> None:
    for size in EDGES:
        compare([number_format], [size], [shift], [0], [hyper])


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
def test_many_spans(number_format: Any, hyper: Any) -> None:
    sizes = [*EDGES, 300, 0, 0]
    shifts = [i % 3 for i in range(len(sizes))]
    compare([number_format] * len(sizes), sizes, shifts, [i % 2 for i in range(len(sizes))], [hyper, hyper])


@hypothesis.given(st.data())
@examples(15)
def test_any_mixture(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    draw = {
        "formats": st.sampled_from(FORMATS),
        "sizes": st.one_of(st.sampled_from(EDGES), st.integers(0, 90)),
        "shifts": st.integers(0, 8),
        "rows": st.integers(0, 1),
    }
    drawn = {name: data.draw(st.lists(each, min_size=n, max_size=n)) for name, each in draw.items()}
    hypers = [data.draw(st.sampled_from(list(HYPERS.values()))) for _ in range(2)]
    compare(drawn["formats"], drawn["sizes"], drawn["shifts"], drawn["rows"], hypers)


def test_addresses_that_move_are_taken_up() -> None:
    """Gradients elsewhere, aligned otherwise: the table is made anew, and only then."""
    sizes = [40, 7, 33]
    ours, theirs = (Work([FORMATS[0]] * 3, sizes, [0, 0, 0], [0, 0, 0]) for _ in range(2))
    hypers = [HYPERS["plain"]]
    plans = ours.plan(cuda, hypers), theirs.plan(backends.load("numpy"), hypers)
    kept = []
    for step in range(6):
        for plan in plans:
            if step in (2, 3):
                room = np.random.default_rng(step).standard_normal(100).astype(np.float32)
                kept.append(room)
                plan.spans["grad"] = address(room) + 4 * (step + np.array([0, 40, 47]))
            assert plan.take() == TAKEN
    for mine, expected in zip(ours.bits(), theirs.bits(), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_coefficients_too_large_for_float32_are_infinite() -> None:
    hyper = Hyperparameters(lr=1e300)
    for sizes in ([5], [5, 6]):
        compare([FORMATS[0]] * len(sizes), sizes, [0] * len(sizes), [0] * len(sizes), [hyper])
