"""How threads share out a batch: every element once, cut at borders of blocks that parameters' starts define."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fastadam
from fastadam.backends import c
from fastadam.memory.arrays import address
from fastadam.memory.structs import BATCH, BLOCK, SHARES_PER_THREAD, SPAN
from tests.conftest import AVAILABLE, STATES
from tests.support.bits import assert_same_bits, random_arrays

Part = tuple[int, int]


class InC:
    """The functions of cext/shares.h, as the kernels there call them."""

    def share_size(self, batch: np.ndarray) -> int:
        return int(c.lib.fastadam_share_size(c.ffi.cast("fastadam_batch *", address(batch))))

    def part_of_span(self, span: np.ndarray, start: int, low: int, high: int) -> Part:
        ends = c.ffi.new("int64_t[2]")
        where = c.ffi.cast("fastadam_span *", address(span))
        c.lib.fastadam_part_of_span(where, start, low, high, ends, ends + 1)
        return int(ends[0]), int(ends[1])


class InNumba:
    """The functions that Numba's kernels call."""

    @functools.cached_property
    def _functions(self) -> Any:
        import numba

        from fastadam.backends.numba import kernels
        from fastadam.backends.numba.memory import record

        batch_dtype, span_dtype = BATCH.dtype, SPAN.dtype
        size_of, part_of = kernels.share_size, kernels.part_of_span

        @numba.njit
        def share_size(batch: Any) -> Any:
            return size_of(record(batch, 0, batch_dtype))

        @numba.njit
        def part_of_span(span: Any, start: Any, low: Any, high: Any) -> Any:
            return part_of(record(span, 0, span_dtype), start, low, high)

        return share_size, part_of_span

    def share_size(self, batch: np.ndarray) -> int:
        return int(self._functions[0](address(batch)))

    def part_of_span(self, span: np.ndarray, start: int, low: int, high: int) -> Part:
        first, last = self._functions[1](address(span), start, low, high)
        return int(first), int(last)


SHARING = {"c": InC(), "numba": InNumba()}
layouts = st.lists(  # of spans, each of parameters of these sizes
    st.lists(
        st.one_of(st.integers(0, 3 * BLOCK), st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1])), min_size=1
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", SHARING)
@given(layouts, st.integers(1, 9))
@example([[0]], 2)
@example([[5 * BLOCK + 7]], 2)
@example([[1] * 3000], 2)
@example([[0, 0, 7 * BLOCK, 0, 3], [0]], 3)
def test_every_element_is_shared_out_once_and_cuts_are_borders(
    name: str, layout: list[list[int]], threads: int
) -> None:
    if name not in AVAILABLE:
        pytest.skip(STATES[name])
    sharing = SHARING[name]
    batch = np.zeros(1, BATCH.dtype)
    batch["threads"], batch["elements"] = threads, sum(map(sum, layout))
    size = sharing.share_size(batch)
    shares = threads * SHARES_PER_THREAD
    assert shares * size >= batch["elements"]
    amounts = np.zeros(shares, np.int64)
    start = 0
    for sizes in layout:
        ends = np.cumsum(sizes)
        starts = ends - sizes
        span = np.zeros(1, SPAN.dtype)
        span["size"] = ends[-1]
        if len(sizes) > 1:
            span["starts"], span["n_starts"] = address(starts), len(starts)
        borders = {0, int(ends[-1])}.union(
            *(range(first, first + n, BLOCK) for first, n in zip(starts.tolist(), sizes, strict=True))
        )
        reached = 0
        for share in range(shares):
            low, high = share * size, (share + 1) * size
            if high <= start or low >= start + ends[-1]:
                continue
            first, last = sharing.part_of_span(span, start, low, high)
            assert first == reached, "what comes before belongs to no share, or to two"
            assert {first, last} <= borders
            assert 0 <= low - (start + first) < BLOCK or first == 0
            amounts[share] += last - first
            reached = last
        assert reached == ends[-1]
        start += int(ends[-1])
    # As even as whole blocks can be.
    assert amounts.max() < size + BLOCK


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_a_packed_group_says_where_its_parameters_begin(dtype: Any) -> None:
    flat = fastadam.pack(random_arrays([(3, 5), (), (0,), (7,)], dtype, 0))
    optimizer = fastadam.Adam(flat)
    optimizer.step()
    (span,) = optimizer._planner.in_pieces.plan.spans
    starts = np.frombuffer((ctypes.c_int64 * 4).from_address(span["starts"].item()), np.int64)
    assert span["n_starts"] == 4
    np.testing.assert_array_equal(starts, np.array([0, 15, 16, 16]) * (2 if dtype == np.complex128 else 1))


@pytest.mark.usefixtures("small_shares")
def test_threads_that_cut_at_borders_give_the_same_bits(backend: str) -> None:
    shapes = [(BLOCK + 300,), (7,), (), (3, BLOCK), (5 * BLOCK + 1,)]
    results = []
    for threads in (1, 2, 5):
        flat = fastadam.pack(random_arrays(shapes, np.float32, 0))
        optimizer = fastadam.Adam(flat, backend=backend, threads=threads, amsgrad=True)
        for seed in (1, 2):
            for view, grad in zip(flat.grads, random_arrays(shapes, np.float32, seed), strict=True):
                view[...] = grad
            optimizer.step()
        results.append(flat.param)
    for result in results[1:]:
        assert_same_bits(result, results[0])
