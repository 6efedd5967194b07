"""What is said of a run on an emulated machine (tests/platforms/emulated.py)."""

from __future__ import annotations

import pytest

from tests.platforms.emulated import verdict

C, NUMPY = "  float32      c       baseline", "  float32      numpy           "
OTHER = "29fa257a484aca98 instead of 55f13812e098bd50"


@pytest.mark.parametrize(
    ("lines", "right", "words"),
    [
        ([f"{C} golden", f"{NUMPY} golden", "same bits"], True, "same bits, 2 results"),
        ([f"{C} golden", f"{NUMPY} {OTHER}", "1 results have other bits"], False, "1 of 2 results: float32 numpy"),
        (["NumPy 2.4.6, C kernels: none", f"{NUMPY} golden", "same bits"], False, "is not there"),
        ([f"{C} golden"], False, "broke off after 1 known results"),
        (["same bits"], False, "same bits, 0 results"),
        ([], False, "broke off after 0 known results"),
    ],
)
def test_other_bits_and_broken_runs_are_told_apart(lines: list[str], right: bool, words: str) -> None:
    found, said = verdict(lines)
    assert found == right
    assert said.endswith(words)
