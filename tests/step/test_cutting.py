"""Rows are cut into the same runs by NumPy and by the C extension."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fastadam.backends import c
from fastadam.memory.arrays import address
from fastadam.memory.native import Block
from fastadam.memory.structs import COUNTER, COUNTER_INT64, CUT, SPAN
from fastadam.step.cutting import Cut, Region, others_of, runs_of, sets_of, write_runs
from tests.support.strategies import examples

REGION = Region(
    np.arange(len(SPAN.fields)).view(SPAN.dtype), 0, 0, 7, {"param": 28, "exp_avg": 14, "ema": 56}, False
)


def by_c(region: Region, cut: Cut, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the spans and the counters that the C extension writes."""
    block = Block(CUT)
    for name in ("numbers", "places"):
        block.point(name, getattr(cut, name))
    if cut.of is not None:
        block.point("of", cut.of)
    values: dict[str, Any] = {"n": len(cut.numbers), "row": row, "grad": cut.grad, "grad_bytes": cut.grad_bytes}
    for name, value in {**values, "row_steps": cut.counters, "row_size": region.row_size}.items():
        block.values[name] = value
    block.values["region"] = region.span[0]
    block.values["per_row"]["first"] = region.row_size
    for name, nbytes in region.row_bytes.items():
        block.values["per_row"][name] = nbytes
    spans, counters = np.zeros(len(cut.numbers) + 1, SPAN.dtype), np.zeros(len(cut.numbers) + 1, COUNTER.dtype)
    block.values["spans"], block.values["counters"] = address(spans), address(counters) if cut.counters else 0
    n_runs = c.cut_rows(block)
    assert not spans[max(n_runs, len(cut.numbers)) :]["size"].any(), "written behind its end"
    assert not counters[len(cut.numbers)]["address"]
    return spans[:n_runs], counters[: len(cut.numbers)]


@pytest.mark.skipif(c.why_missing() is not None, reason="the C extension is missing")
@hypothesis.given(st.data())
@examples(200)
def test_runs_are_the_same_in_c(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(0, 40))
    numbers = np.array(sorted(data.draw(st.sets(st.integers(0, max(n_rows - 1, 0)))) if n_rows else []), np.int64)
    steps = np.array(
        data.draw(st.lists(st.sampled_from([0, 1, 2, 10**6]), min_size=n_rows, max_size=n_rows)), np.int64
    )
    shuffled = data.draw(st.booleans())
    places = np.array(data.draw(st.permutations(range(len(numbers))))) if shuffled else np.arange(len(numbers))
    firsts, of = sets_of(steps[numbers])
    counters_at = data.draw(st.sampled_from([5000, 0]))
    if not counters_at:  # they count with their parameter
        firsts, of = firsts[:0], None
    cut = Cut(numbers, places.astype(np.int64), 1000, 28, counters_at, n_rows, 0, firsts, of)
    runs = runs_of(cut, 3)
    expected = np.repeat(REGION.span, len(runs.starts))
    write_runs(expected, REGION, runs)
    spans, counters = by_c(REGION, cut, 3)
    assert spans.tobytes() == expected.tobytes()
    if counters_at:
        assert counters["address"].tolist() == (5000 + 8 * numbers).tolist()
        assert (counters["type"] == COUNTER_INT64).all()
    else:
        assert not counters["address"].any()
    covered = [row for start, n in zip(runs.starts, runs.lengths, strict=True) for row in range(start, start + n)]
    others = others_of(cut)
    rest = [row for start, n in zip(others.starts, others.lengths, strict=True) for row in range(start, start + n)]
    assert covered == numbers.tolist()
    assert sorted(covered + rest) == list(range(n_rows))
    if not counters_at:
        return
    kinds = np.zeros(len(numbers), np.int64) if of is None else of
    assert (steps[numbers] == steps[numbers][firsts][kinds]).all() if len(numbers) else not len(firsts)
