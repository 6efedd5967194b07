"""What the GPU benchmark makes of its times, and what it does without a GPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

import fastadam
from benchmarks import gpu

TIMES = {"torch fused": [4e-3, 6e-3, 8e-3], "packed": [2e-3, 2e-3, 2e-3], "in place": [4e-3, 4e-3, 5e-3]}


def test_figures_and_bars_follow_from_the_times() -> None:
    case = gpu.CASES["gpt2"]
    n = gpu.count(case)
    assert n == 124_439_808
    found = gpu.evaluate(case, TIMES, 28 * n / 2e-3 / 0.96)
    packed = found["contenders"]["packed"]
    assert packed["microseconds"] == pytest.approx(2000)
    assert packed["times_torch_fused"] == pytest.approx(3)
    assert packed["share_of_bandwidth"] == pytest.approx(0.96)
    assert found["contenders"]["in place"]["times_torch_fused"] == pytest.approx(1.5)
    assert found["bars"] == {"packed at least 1 x torch fused": True, "packed at least 95% of the bandwidth": True}
    worse = gpu.evaluate(case, {**TIMES, "packed": [9e-3] * 3}, 28 * n / 2e-3)
    assert list(worse["bars"].values()) == [False, False]
    text = gpu.table(worse)
    assert text.count("MISSED") == 2
    assert "124,439,808 parameters" in text


def test_small_cases_have_no_bar_of_bandwidth() -> None:
    found = gpu.evaluate(gpu.CASES["tiny"], TIMES, 1e12)
    assert found["bars"] == {"packed at least 2 x torch fused": True}


def test_the_report_holds_all_and_one_missed_bar_counts() -> None:
    cases = {"tiny": gpu.evaluate(gpu.CASES["tiny"], TIMES, 1e12), "1e9": {"title": "x", "skipped": "memory"}}
    found = gpu.report(cases, 20e-6, 1e12, {"name": "none"})
    assert json.loads(json.dumps(found)) == found
    assert gpu.all_met(found)
    assert not gpu.all_met(gpu.report(cases, 30e-6, 1e12, {"name": "none"}))
    slower = {"tiny": gpu.evaluate(gpu.CASES["tiny"], {**TIMES, "packed": [9e-3] * 3}, 1e12)}
    assert not gpu.all_met(gpu.report(slower, 20e-6, 1e12, {"name": "none"}))


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    monkeypatch.setattr(fastadam, "available_backends", lambda: {"cuda": "there is no device; buy one"})
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 2
    assert (
        "nothing was measured: the backend 'cuda' is not available: there is no device" in capsys.readouterr().err
    )
    assert not (tmp_path / "gpu.json").exists()
