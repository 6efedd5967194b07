"""``fastadam bench`` where the memory is too small for all contenders: who is left out, and where it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.cli import bench, fitting, measure, memory
from fastadam.cli.contenders import BY_HAND
from tests.cli.commands import run, words
from tests.support.strategies import examples

NAMES = [f"{layout} {backend}" for backend in ("c", "numba", "numpy") for layout in ("packed", "in place")]
NAMES += ["fastadam.torch c", "torch fused", "torch default", "optax", BY_HAND]


def contenders(names: list[str]) -> dict[str, measure.Contender]:
    copies = {"packed": 4, "optax": 8}
    return {
        name: measure.Contender(lambda params, grads: lambda: None, copies.get(name.split()[0], 3))
        for name in names
    }


def test_the_order_of_leaving_out() -> None:
    assert fitting.in_order(NAMES) == [
        "optax",
        "packed numpy",
        "in place numpy",
        "packed numba",
        "in place numba",
        "torch default",
        "torch fused",
        BY_HAND,
        "fastadam.torch c",
        "packed c",
        "in place c",
    ]


def test_compact_state_of_a_backend_goes_with_the_backend() -> None:
    names = ["in place c", "in place c, int8", "in place numba", "in place numba, int8", BY_HAND]
    assert fitting.in_order(names) == [
        "in place numba",
        "in place numba, int8",
        BY_HAND,
        "in place c",
        "in place c, int8",
    ]


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.integers(0, 10**4), st.integers(1, 100))
@examples(100)
def test_only_what_does_not_fit_is_left_out(names: list[str], at_hand: int, size: int) -> None:
    problem = measure.Problem("one", [(size,)])
    everyone = contenders(names)
    kept, left_out = fitting.fit(problem, everyone, 4, at_hand)
    most = fitting.SHARE_OF_MEMORY * at_hand
    assert list(kept) == [name for name in names if name not in left_out]
    assert set(kept) | set(left_out) == set(names)
    order = fitting.in_order(names)
    assert sorted(order) == sorted(names)
    assert set(left_out) == set(order[: len(left_out)])
    if kept:
        assert problem.bytes_needed(kept, 4) <= most
    if left_out:  # with the last of them, it was too much
        last = order[len(left_out) - 1]
        assert problem.bytes_needed({**kept, last: everyone[last]}, 4) > most
        assert len(set(left_out.values())) == 1


def test_where_nobody_knows_the_memory_all_take_part() -> None:
    everyone = contenders(NAMES)
    assert fitting.fit(measure.Problem("huge", [(10**18,)]), everyone, 4, None) == (everyone, {})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have memory for ten arrays of 10,000 float32 numbers, and a little more."""
    monkeypatch.setattr(bench, "available", lambda: int(440_000 / fitting.SHARE_OF_MEMORY))


@pytest.mark.usefixtures("alone", "small")
def test_what_does_not_fit_is_named_beside_the_figures(tmp_path: Path) -> None:
    plot = tmp_path / "bench.svg"
    arguments = ("bench", "10", "1e4", "1e5", "--backend", "numpy", "--rounds", "1")
    text = words(run(*arguments, "--plot", str(plot)).stdout)
    assert "without NumPy by hand: not enough memory: all 3 contenders would take about" in text
    assert "One array, 100,000 parameters: not measured, not enough memory: even in place numpy alone" in text
    drawn = plot.read_text()
    assert "<svg" in drawn
    found = json.loads(run(*arguments, "--json").stdout)
    tiny, middle = found["problems"]
    assert (tiny["left_out"], set(tiny["contenders"])) == ({}, {"packed numpy", "in place numpy", BY_HAND})
    assert set(middle["left_out"]) == {BY_HAND}
    assert set(middle["contenders"]) == {"packed numpy", "in place numpy"}
    assert all(each["times_as_fast_as"] == {} for each in middle["contenders"].values())
    assert list(found["not_measured"]) == ["One array, 100,000 parameters"]


def test_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.malloc_trim = asked.append

    monkeypatch.setattr(memory.ctypes, "CDLL", Library)
    memory.give_back()
    assert asked == [0]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.give_back()


def _result(seconds: dict[str, list[float]], left_out: dict[str, str]) -> measure.Result:
    machine: Any = None
    steps = dict.fromkeys(seconds, 1)
    return measure.Result(measure.Problem("", [(1,)]), seconds, steps, {}, machine, left_out)


def test_a_plot_compares_with_whoever_took_part_most() -> None:
    plot = pytest.importorskip("fastadam.cli.plot", reason="needs matplotlib")
    everyone = _result({"torch fused": [1.0], BY_HAND: [1.0]}, {})
    few = _result({BY_HAND: [1.0]}, {"torch fused": "why"})
    assert plot.most_common_base([everyone]) == "torch fused"
    assert plot.most_common_base([everyone, few]) == BY_HAND


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("limit", "used", "statistics")]
    monkeypatch.setattr(memory, "CONTROL_GROUPS", (tuple(map(str, paths)),))
    without = memory.available()
    for path, text in zip(paths, ("3000", "2500", "active_file 7\ninactive_file 400\n"), strict=True):
        path.write_text(text)
    assert memory.available() == 900
    paths[0].write_text("max")
    assert (memory.available() is None) == (without is None)
