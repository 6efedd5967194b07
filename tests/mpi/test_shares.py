"""How the state is shared out: for any sizes, weights and earlier loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mpi_table
from fastadam.groups.shares import cut
from fastadam.memory.structs import BLOCK
from tests.mpi.launch import RANKS, ROOT, check_all

SIZES = st.lists(st.integers(0, 5 * BLOCK), min_size=1, max_size=12)


@given(SIZES, st.data(), st.integers(1, 9))
def test_each_element_is_one_process_s(sizes: list[int], data: st.DataObject, ranks: int) -> None:
    weights = data.draw(st.lists(st.integers(64, 64 * 28), min_size=len(sizes), max_size=len(sizes)))
    loads = data.draw(st.lists(st.integers(0, 10**6), min_size=ranks, max_size=ranks))
    bounds = cut(sizes, weights, loads)
    assert bounds.shape == (len(sizes), ranks + 1)
    assert (bounds[:, 0] == 0).all()
    assert (bounds[:, -1] == sizes).all()
    assert (np.diff(bounds, axis=1) >= 0).all()
    inner = bounds[:, 1:-1]
    assert ((inner % BLOCK == 0) | (inner == bounds[:, -1:])).all()
    # A process's elements come before those of the next one.
    order = [rank for row in np.diff(bounds, axis=1) for rank in np.flatnonzero(row)]
    assert order == sorted(order)
    # Even, but for half a block at each end, where nothing was there before.
    even = cut(sizes, weights, [0] * ranks)
    shares = np.array(weights) @ np.diff(even, axis=1)
    assert (abs(shares - shares.sum() / ranks) <= BLOCK * max(weights) + ranks).all()


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(1, 5))
def test_groups_that_come_later_even_out(groups: list[list[int]], ranks: int) -> None:
    loads = np.zeros(ranks, np.int64)
    for sizes in groups:
        loads += np.diff(cut(sizes, [64] * len(sizes), loads.tolist()), axis=1).sum(axis=0) * 64
    assert loads.sum() == 64 * sum(map(sum, groups))
    assert loads.max() - loads.min() <= 2 * 64 * BLOCK + ranks


def test_the_table_on_the_page() -> None:
    page = (ROOT / "docs" / "guides" / "more-machines.md").read_text()
    assert mpi_table.table() in page


def test_memory_of_a_rank(folder: Path) -> None:
    """Each rank has 1/N of the bytes of the state, within 2 %, and receives what the table says."""
    for ranks in RANKS:
        check_all(folder, "memory", ranks, at_least=5)
