"""The regression gate: its rule and its conversation with the processes; no test here depends on a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastadam
from benchmarks.gate import compare as comparing
from benchmarks.gate.__main__ import main, show
from benchmarks.gate.compare import PAIRS, Side, compare
from benchmarks.gate.install import GateError, commit_of
from benchmarks.gate.rule import judge, pair_ratio
from tests.support.processes import LONG

ROOT = Path(__file__).parents[2]


def test_a_pair_is_judged_by_its_undisturbed_turns() -> None:
    assert pair_ratio([1.0, 2.0, 40.0], [30.0, 1.5, 1.6]) == 1.5


@pytest.mark.parametrize(
    ("ratios", "slower"),
    [
        ([1.0] * 7, False),
        ([1.2] * 7, True),
        ([1.2] * 6 + [0.9], True),  # one pair may disagree
        ([1.2] * 5 + [1.0] * 2, False),  # two may not
        ([1.09] * 7, False),  # within the tolerance
        ([9.0] * 3 + [1.0] * 4, False),
        ([0.5] * 7, False),  # faster is no alarm
    ],
)
def test_an_alarm_needs_pairs_that_agree(ratios: list[float], slower: bool) -> None:
    assert judge(ratios, 0.1).slower is slower
    assert judge(ratios[::-1], 0.1).slower is slower


def test_the_tolerance_is_the_one_given() -> None:
    assert judge([1.2] * 5, 0.1).slower
    assert not judge([1.2] * 5, 0.3).slower


def test_what_seems_slower_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def one_pair(
        base: Path, head: Path, planted: float, only: list[str] | None
    ) -> tuple[dict[str, float], dict[str, str]]:
        asked.append(only)
        if only is None:
            return {"same": 1.0, "unlucky": 1.5, "slower": 1.5}, {"missing": "no compiler"}
        return {case: {"unlucky": 1.0, "slower": 1.5}[case] for case in only}, {}

    monkeypatch.setattr(comparing, "one_pair", one_pair)
    verdicts, left_out = compare(Path(), Path(), 0.1)
    assert asked == [None] * PAIRS + [["unlucky", "slower"]] * PAIRS
    assert [case for case, verdict in verdicts.items() if verdict.slower] == ["slower"]
    assert left_out == {"missing": "no compiler"}


def test_the_table_names_what_is_slower(capsys: pytest.CaptureFixture[str]) -> None:
    assert show({"a": judge([1.0]), "b": judge([1.5])}, {"c": "no compiler"}) == ["b"]
    lines = capsys.readouterr().out.splitlines()
    assert ["SLOWER" in line for line in lines] == [False, False, True, False]
    assert "left out: no compiler" in lines[3]


def test_what_is_no_commit_is_named() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    assert len(commit_of(ROOT, "HEAD")) == 40
    with pytest.raises(GateError, match="'no-such-branch' is no commit"):
        commit_of(ROOT, "no-such-branch")


def test_an_error_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gate", "--", "-x"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_side_takes_steps_with_the_package_in_its_folder() -> None:
    wanted = ["c, packed, 12 tensors", "numba, in place, 12 tensors"]
    side = Side(Path(fastadam.__file__).parent.parent, only=wanted)
    try:
        turns, left_out = side.greet()
        assert sorted([*turns, *left_out]) == wanted
        assert all(side.seconds(case, steps) > 0 for case, steps in turns.items())
    finally:
        side.close()


def test_a_package_that_is_not_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    side = Side(tmp_path, only=["none"])
    try:
        with pytest.raises(GateError, match=r"was measured instead of|ended with code"):
            side.greet()
    finally:
        side.close()


def test_the_help_can_be_had_from_the_command_line() -> None:
    command = [sys.executable, "-m", "benchmarks.gate", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=True)
    assert "--tolerance" in done.stdout
