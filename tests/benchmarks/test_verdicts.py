"""What benchmarks/sweep.py and quick.py say about given times: no test here depends on how fast anything is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import denormal, quick, sweep


def linear_times() -> dict[int, dict[str, float]]:
    """Return times of 0.5 ns per element and 2 us per step, halved by a second thread where the rule takes it."""
    found = {}
    for size in sweep.SIZES:
        threads = {"c 1": 1, "c 2": 2, "c auto": 2 if size >= sweep.SECOND_THREAD else 1}
        found[size] = {name: 2e-6 + 0.5e-9 * size / count for name, count in threads.items()}
    return found


def broken(found: dict[int, dict[str, float]]) -> list[str]:
    return [statement for statement, holds in sweep.verdict(found, ["c"]) if not holds]


def test_the_verdict_on_a_linear_curve_is_good() -> None:
    found = linear_times()
    for times in found.values():  # with memory as the limit, two threads are no faster than one
        times["c auto"] = times["c 1"]
    assert broken(found) == []
    assert len(sweep.verdict(found, ["c"])) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda size, t: t * 2 if size == 10**8 else t, ["beyond the caches", "at most"]),
        (lambda size, t: t * 3 if size == 50_000 else t, ["no element costs more"]),
        (lambda size, t: t * 1.5 if size >= sweep.SECOND_THREAD else t, ["at most", "second thread"]),
    ],
)
def test_the_verdict_names_what_is_wrong_with_a_curve(change: Any, said: list[str]) -> None:
    found = linear_times()
    for size, times in found.items():
        times["c auto"] = change(size, times["c 1"])
    statements = broken(found)
    assert len(statements) == len(said)
    assert all(part in statement for part, statement in zip(said, statements, strict=True))


def test_the_sweep_measures_both_sides_of_the_threshold() -> None:
    from fastadam.step.threads import threads_for

    assert sweep.SECOND_THREAD in sweep.SIZES
    assert threads_for(sweep.SECOND_THREAD, 8) == 2
    assert threads_for(sweep.SECOND_THREAD - 16, 8) == 1
    assert min(sweep.SIZES) == 10**4
    assert max(sweep.SIZES) == 10**8


@pytest.mark.parametrize(("slower", "met"), [(1.0, True), (1.1, True), (1.2, False)])
def test_backends_that_are_apart_miss_their_bar(slower: float, met: bool) -> None:
    times = {"packed c": [1.0, 1.0, 1.0], "packed numba": [slower] * 3}
    assert quick.report_backends(times) is met
    assert quick.report_backends({"packed c": times["packed numba"], "packed numba": times["packed c"]}) is met


def test_a_bar_is_a_ratio_within_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    case = quick.CASES["1e7"]._replace(bars={"packed": {"torch fused": 1.0, "copy": 0.9}})
    times = {"torch fused": [1.0, 2.0], "packed c": [0.9, 1.8], "copy": [0.85, 1.7]}
    assert quick.report(case, times)
    assert "1 x torch fused, 0.9 x copy met" in capsys.readouterr().out
    times["copy"] = [0.7, 1.4]
    assert not quick.report(case, times)
    assert "MISSED" in capsys.readouterr().out
    assert quick.report(case, {"packed c": [1.0]})  # nothing to compare with


def test_numbers_of_the_callers_own_have_no_bar() -> None:
    usual = dict.fromkeys(denormal.kinds(np.float32), 1.0)
    with_bar = [name for name, kind in denormal.kinds(np.float32).items() if kind.bar]
    assert len(with_bar) == 2
    for name in usual:
        found = {"c": {**usual, name: 1.2}, "torch fused": {**usual, name: 9.0}}
        assert denormal.verdict(found, np.float32) == ([f"c: {name} 1.20"] if name in with_bar else [])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kinds_of_numbers_are_what_they_are_called(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_normal
    grads, params = {}, {}
    for name, kind in denormal.kinds(dtype).items():

        def make(param: np.ndarray, lr: float, name: str = name) -> denormal.Stepped:
            stepped = denormal.arrays("numpy", param, lr)
            grads[name], params[name] = stepped.grad, param
            return stepped

        denormal.prepare(make, kind._replace(steps_of_zero=min(kind.steps_of_zero, 1)), dtype)
    sizes = {name: float(np.median(np.abs(grad))) for name, grad in grads.items()}
    assert sizes[denormal.USUAL] > 0.1
    assert 0 < sizes["denormal gradients"] < tiny
    assert tiny < sizes["gradients whose squares are denormal"] < float(tiny) ** 0.5
    assert [name for name, size in sizes.items() if size == 0] == [
        name for name, kind in denormal.kinds(dtype).items() if kind.bar
    ]
    for name, param in params.items():
        assert np.all((param > 0) & (param < tiny)) == (name == "denormal parameters")
