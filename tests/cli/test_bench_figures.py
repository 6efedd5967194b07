"""What ``fastadam bench`` makes of times that are given: ratios, the state of the machine, time to get ready."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastadam.cli import machine, measure, report
from fastadam.cli.contenders import BY_HAND
from fastadam.cli.machine import Machine
from tests.support.strategies import examples

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
QUIET = Machine(2, 0.0, 0.0, 0.1, 0.1)


def result(seconds: dict[str, list[float]], state: Machine = QUIET, **ready: float) -> measure.Result:
    steps = dict.fromkeys(seconds, 1)
    return measure.Result(measure.Problem("two", [(1,)]), seconds, steps, ready, state, {})


def printed(found: measure.Result) -> str:
    console = Console(width=100, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(report.table(found))
    return capture.get()


def interval(text: str) -> tuple[float, float]:
    """Return the numbers that are printed like this, with a little more for the rounding of floats."""
    value = Decimal(text.replace(",", ""))
    half = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
    return float(value - half) * (1 - 1e-9), float(value + half) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2e-8, "0.02 µs"),
        (5.123e-6, "5.12 µs"),
        (0.0009996, "1 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1234.5, "1,234 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert measure.readable_time(seconds) == text


@given(
    st.integers(1, 6).flatmap(
        lambda rounds: st.lists(
            st.lists(st.floats(1e-7, 1e3), min_size=rounds, max_size=rounds), min_size=2, max_size=2
        )
    )
)
@examples(200)
def test_a_printed_ratio_agrees_with_the_printed_times(times: list[list[float]]) -> None:
    found = result({"packed c": times[0], BY_HAND: times[1]})
    shown = {}
    for line in printed(found).splitlines():
        if match := re.fullmatch(r" *(packed c|NumPy by hand) +([\d.,e+-]+) (s|ms|µs) +([\d.,e+-]+) *", line):
            low, high = (end * UNITS[match[3]] for end in interval(match[2]))
            shown[match[1]] = (low, high, *interval(match[4]))
    assert len(shown) == 2
    for name in shown:
        low, high, least, most = shown[name]
        assert shown[BY_HAND][0] / high <= most, printed(found)
        assert shown[BY_HAND][1] / low >= least, printed(found)
    spread = found.ratio(BY_HAND, "packed c")
    assert spread.low <= spread.median <= spread.high
    assert spread.median == found.time(BY_HAND).median / found.time("packed c").median


def test_the_ratio_is_that_of_the_medians_and_its_range_that_of_the_rounds() -> None:
    found = result({"a": [1.0, 10.0, 3.0], "b": [2.0, 5.0, 1.0]})
    assert found.ratio("a", "b") == (1.5, 1.25, 2.5)  # within the rounds: 0.5, 2 and 3
    assert found.rounds == 3


def text(found: measure.Result) -> str:
    return "\n".join(line for line, _ in report.remarks(found))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (Machine(2, 0.8, 0.0, 0.1, 0.9), "Busy machine (others used 0.8 of 2 processors)"),
        (Machine(2, 0.0, 0.5, 0.1, 0.1), "this process waited 50% of the time"),
        (Machine(2, None, None, 1.5, 1.5), "Busy machine (load 1.5 before the start, 2 processors)"),
    ],
)
def test_a_busy_machine_is_named_beside_the_figures(state: Machine, said: str) -> None:
    assert state.busy
    assert said in text(result({"a": [1.0]}, state))


@pytest.mark.parametrize(
    "state", [QUIET, Machine(2, 0.1, 0.05, 3.0, 3.0), Machine(1, None, None, 0.4, 0.4), Machine(4)]
)
def test_a_quiet_machine_is_not_called_busy(state: Machine) -> None:
    """The load of the minute before counts for nothing where it is known what others did meanwhile."""
    assert not state.busy
    assert "Busy" not in text(result({"a": [1.0]}, state))


def test_what_compiling_takes_is_told_apart() -> None:
    assert "counted in no figure above: optax 71 s." in text(result({"a": [1.0]}, optax=71.0, a=0.01))
    assert "first step" not in text(result({"a": [1.0]}, a=0.01))


def watch(monkeypatch: pytest.MonkeyPatch, path: Path, ticks: tuple[int, int], own: float) -> Machine:
    """Return what is found over ten seconds, in which one of two processors did so many ticks of work."""
    clock = iter([100.0, 110.0])
    cpu = iter([0.0, own])
    monkeypatch.setattr(machine, "STATISTICS", path)
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(machine.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(machine, "_usable", lambda: {1})
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    lines = "cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 {0} 0 0 0 0 0 0 0\ncpu1 {0} 0 0 9 9 0 0 {1}\nintr 5\n"
    path.write_text(lines.format(0, 0))
    watching = machine.Watch()
    path.write_text(lines.format(*ticks))
    return watching.stop()


def test_others_are_what_the_system_counts_without_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = watch(monkeypatch, tmp_path / "stat", (700, 100), own=6.0)
    assert found.processors == 1
    assert found.used_by_others == pytest.approx(0.2)
    assert found.waited == pytest.approx(0.4)


def test_counters_that_stand_still_tell_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert watch(monkeypatch, tmp_path / "stat", (0, 0), own=6.0).used_by_others is None


def test_a_system_without_counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STATISTICS", tmp_path / "none")
    assert machine.Watch().stop().used_by_others is None
    monkeypatch.delattr(machine.os, "getloadavg")
    assert machine.load() is None


def test_making_the_contenders_ready_takes_none_of_the_time_for_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 100))  # each look at it is 100 seconds later
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(measure, "timed", lambda step, times: 1.0)
    one = {"slow to make": measure.Contender(lambda params, grads: lambda: None, 1)}
    found = measure.measure(measure.Problem("one", [(3,)]), one, "float32", 50, 450, lambda _: None)
    assert found.ready == {"slow to make": 100}
    assert found.rounds > measure.LEAST_ROUNDS
