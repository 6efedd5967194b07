"""The benchmark of an update of PPO: every contender has a row, and ratios are taken within rounds."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")

from benchmarks import ppo_update  # noqa: E402 - it needs torch
from tests.support.torch_cases import surroundings  # noqa: E402


def test_prints_a_row_for_every_contender(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ppo_update", "--rounds", "2"])
    with surroundings():
        ppo_update.main()
    rows = [line.rsplit(maxsplit=6) for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert [row[0].strip() for row in rows] == ["fastadam", "torch", "torch fused"]
    assert all(float(number) > 0 for row in rows for number in row[1:])


def test_ratios_are_taken_within_rounds() -> None:
    """A ratio is a median of ratios, and above one for whoever is faster."""
    scale = [1.0, 10.0, 100.0]  # a machine that gets slower
    times = {
        f"{part} {name}": [factor * seconds for factor in scale]
        for name, *both in (("fastadam", 1e-6, 5e-7), ("torch", 4e-6, 3e-6), ("torch fused", 2e-6, 1e-6))
        for part, seconds in zip(("update", "step"), both, strict=True)
    }
    rows = [line.split() for line in ppo_update.table(times).splitlines()]
    assert rows[2] == ["fastadam", "10.0", "4.00", "2.00", "5.0", "6.00", "2.00"]
    assert rows[3] == ["torch", "40.0", "1.00", "0.50", "30.0", "1.00", "0.33"]
