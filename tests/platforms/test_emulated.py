"""What is said of a run on an emulated machine (tests/platforms/emulated.py)."""

from __future__ import annotations

import pytest

from tests.platforms.emulated import MACHINES, verdict

C, NUMPY = "  float32      c       baseline", "  float32      numpy           "
OTHER = "29fa257a484aca98 instead of 55f13812e098bd50"
SAME, DIFFERENT = "same bits", "1 results have other bits"


@pytest.mark.parametrize(
    ("machine", "lines", "right", "words"),
    [
        ("arm64", [f"{C} golden", f"{NUMPY} golden", SAME], True, "same bits, 2 results"),
        ("arm64", [f"{C} golden", f"{NUMPY} {OTHER}", DIFFERENT], False, "other bits in 1 of 2 results"),
        ("armv7", [f"{C} golden", f"{NUMPY} {OTHER}", DIFFERENT], True, "but for NumPy's denormal"),
        ("armv7", [f"{C} {OTHER}", f"{NUMPY} golden", DIFFERENT], False, "float32 c"),
        ("arm64", [f"{C} golden"], False, "broke off after 1"),
        ("arm64", [SAME], False, "0 results"),
        ("arm64", [], False, "broke off after 0"),
    ],
)
def test_other_bits_and_broken_runs_are_told_apart(
    machine: str, lines: list[str], right: bool, words: str
) -> None:
    found, said = verdict(MACHINES[machine], lines)
    assert (found, words in said) == (right, True), said
