"""Memory: what an optimizer holds, how it is aligned, and what a step takes for itself."""

from __future__ import annotations

import mmap
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory import buffers as placed
from fastadam.memory.arrays import address
from tests.support import strategies


def buffers(optimizer: fastadam.Adam) -> list[np.ndarray]:
    return [b for group in optimizer._groups for dtypes in group.moments.values() for b in dtypes.values()]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_two_moments_per_parameter_and_three_with_amsgrad(amsgrad: bool, packed: bool) -> None:
    arrays = [np.ones((5, 3), np.float32), np.ones(7, np.float32)]
    optimizer = fastadam.Adam(fastadam.pack(arrays) if packed else arrays, amsgrad=amsgrad)
    assert sum(buffer.nbytes for buffer in buffers(optimizer)) == (3 if amsgrad else 2) * 22 * 4


@given(st.lists(strategies.sizes, min_size=1, max_size=5), st.sampled_from(strategies.DTYPES))
def test_flat_buffers_start_at_cache_lines(sizes: list[int], dtype: Any) -> None:
    arrays = [np.zeros(size, dtype) for size in sizes]
    packed = fastadam.pack(arrays)
    optimizer = fastadam.Adam(arrays)
    for buffer in (packed.param, packed.grad, *buffers(optimizer)):
        assert buffer.size == 0 or address(buffer) % 64 == 0
        assert buffer.flags.c_contiguous
        assert not buffer.any()


def test_large_buffers_lie_in_huge_pages_and_ask_for_them() -> None:
    buffer = placed.aligned_zeros(3 * placed.HUGE_PAGE, np.dtype(np.float32), placed.ROLES[-1])
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no transparent huge pages")
    assert address(buffer) % placed.HUGE_PAGE == (len(placed.ROLES) - 1) * placed.SPREAD
    assert not buffer.any()
    buffer[...] = 1
    smaps = Path("/proc/self/smaps")
    if not smaps.exists() or "hg" not in smaps.read_text():
        pytest.skip("this kernel does not say which memory was advised")
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read_text())[1:]:
        low, high = (int(word, 16) for word in block.split(" ", 1)[0].split("-"))
        if low <= address(buffer) < high:
            assert "hg" in block.rpartition("VmFlags:")[2].split()
            return
    pytest.fail("the buffer is not among the process's mappings")


@pytest.mark.parametrize("size", [256, 1000, 9155, 40_000, 2_000_000])
def test_buffers_that_a_step_goes_through_together_are_apart_within_a_page(size: int) -> None:
    flat_params = fastadam.pack([np.ones(size, np.float32)])
    optimizer = fastadam.Adam(flat_params, amsgrad=True)
    together = [flat_params.param, flat_params.grad, *buffers(optimizer)]
    assert len(together) == len(placed.ROLES)
    starts = [address(buffer) % 4096 for buffer in together]
    apart = [(a - b) % 4096 for a in starts for b in starts if a != b]
    assert len(apart) == len(starts) * (len(starts) - 1)
    assert min(apart) >= 12 * placed.ALIGNMENT


def test_reserving_too_much_raises_memory_error() -> None:
    with pytest.raises(MemoryError, match="cannot reserve"):
        placed.aligned_zeros(2**58, np.dtype(np.float32), "param")


@pytest.mark.parametrize("layout", ["in place", "packed"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_takes_no_temporary_of_the_size_of_the_parameters(
    backend: str, layout: str, weight_decay: float
) -> None:
    size = 2_000_000
    param, grad = np.ones(size, np.float32), np.ones(size, np.float32)
    holder = fastadam.pack([param]) if layout == "packed" else [param]
    optimizer = fastadam.Adam(holder, weight_decay=weight_decay, amsgrad=True, backend=backend)
    optimizer.step([grad])
    tracemalloc.start()
    optimizer.step([grad])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # the parameters alone are 8,000,000 bytes
