"""The processes of benchmarks/seeds.py take their turns and end: no test here depends on how fast anything is."""

from __future__ import annotations

import pytest

from benchmarks import seeds

STEP = next(iter(seeds.CASES))  # the case that needs nothing but fastadam


def test_each_way_is_timed_in_each_round() -> None:
    times = seeds.measure(STEP, count=1, processors=2, rounds=2)
    assert {way: len(found) for way, found in times.items()} == {seeds.ONE: 2, seeds.ALL: 2, seeds.IN_TURN: 2}
    assert all(time > 0 for found in times.values() for time in found)


def test_a_seed_that_fails_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="exit code 2"):
        seeds.Seed("no such case", 1)
    assert "invalid choice" in capfd.readouterr().err
