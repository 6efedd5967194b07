"""An interrupt at any point leaves parameters, moments and counters as before or as after; signals that wait."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.backends import load
from fastadam.memory.arrays import address
from fastadam.memory.formats import FLOAT64
from fastadam.memory.structs import ROLES, SPAN
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import SIGNALS, in_one_go, uninterrupted
from fastadam.step.plan import Plan
from fastadam.step.variants import variants_of
from tests import interrupts
from tests.conftest import AVAILABLE, STATES

POINTS = 40  # of each scenario; `python -m tests.interrupts` tries all of them
needs_numba = pytest.mark.skipif("numba" not in AVAILABLE, reason=f"the tracer is native code: {STATES['numba']}")
needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM here")


class AlarmError(Exception):
    """What the handler of an alarm raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@needs_numba
def test_an_interrupt_finds_the_numpy_face_before_or_after(backend: str, tmp_path: Path) -> None:
    came = [interrupts.try_every(each, POINTS)[1] for each in interrupts.scenarios(backend, tmp_path)]
    assert all(came), came


def test_an_interrupt_while_work_is_planned_leaves_no_stale_plan(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next plan is made: doing the same again ends where an uninterrupted run ends."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    def plan_nothing(work: Callable[[], object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Plan, "__init__", interrupted)
            work()

    planned = set()
    for each in interrupts.scenarios(backend, tmp_path):
        if interrupts.try_with(each, interrupts.expect(each), plan_nothing, "while work is planned"):
            planned.add(each.name.partition(": ")[2])
    assert planned >= {
        "step that splits rows",
        "step after another kind was chosen",
        "step after load_state_dict",
        "step after add_param_group",
    }


@needs_numba
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_an_interrupt_finds_the_torch_face_before_or_after(backend: str) -> None:
    came = [interrupts.try_every(each, POINTS)[1] for each in interrupts.torch_scenarios(backend)]
    assert all(came), came


@needs_numba
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("way", ["a closure", "a careful step"])
def test_an_interrupt_leaves_the_grad_mode_as_it_was(way: str) -> None:
    import torch

    import fastadam.torch

    closure = None if way == "a careful step" else lambda: None
    optimizer = fastadam.torch.Adam([torch.nn.Parameter(torch.ones(3))])  # all its steps are careful: no gradient
    before = way == "a careful step"  # the other mode than the step's own
    total = interrupts.events_of(lambda: optimizer.step(closure)) + 2
    came = 0
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for event in range(1, total):
            torch.set_grad_enabled(before)
            try:
                interrupts.events_of(lambda: optimizer.step(closure), event)
            except BaseException:  # as in interrupts.try_at
                came += 1
            assert torch.is_grad_enabled() == before, event
    finally:
        signal.signal(signal.SIGINT, old)
        torch.set_grad_enabled(True)
    assert came


@needs_numba
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_an_interrupt_finds_the_torch_face_in_python_before_or_after(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadam.torch import attempts, python_attempt

    monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)
    came = [interrupts.try_every(each, POINTS)[1] for each in interrupts.torch_scenarios("numpy")]
    assert all(came), came


@needs_numba
@pytest.mark.parametrize("first", AVAILABLE)
def test_an_interrupt_finds_all_parts_of_a_plan_before_or_after(backend: str, first: str) -> None:
    """As where a model is on several devices: no part is stepped alone, and none without being counted."""

    def make() -> tuple[Plan, np.ndarray, np.ndarray]:
        arrays, steps = np.ones((2, 5, 3)), np.zeros(1, np.int64)
        spans = np.zeros(2, SPAN.dtype)
        spans["size"] = 3
        for i, role in enumerate(ROLES):
            spans[role] = [address(each[i]) for each in arrays]
        counters, variants = counters_in(steps), variants_of([FLOAT64.code] * 2, False, False)
        both = [load(first), load(backend)]
        plan = Plan(spans, variants, counters, counters, both, 1, False, np.array([0, 1]))
        plan.write_options([Coefficients(Hyperparameters())])
        return plan, arrays, steps

    plan, taken, _ = make()
    plan.take()
    expected = {0: np.ones_like(taken), 1: taken}
    total = interrupts.events_of(make()[0].take) + 2
    came = 0
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for event in range(1, total):
            plan, arrays, steps = make()
            try:
                interrupts.events_of(plan.take, event)
            except BaseException:  # as in interrupts.try_at
                came += 1
            np.testing.assert_array_equal(arrays, expected[steps.item()], f"event {event}")
    finally:
        signal.signal(signal.SIGINT, old)
    assert came


@needs_alarm
@pytest.mark.usefixtures("alarm")
def test_real_signals_find_every_step_whole(backend: str) -> None:
    """Alarms at odd times, whose handler raises: afterwards a step is counted if and only if it was taken."""
    param, grad = np.zeros(30_000), np.ones(30_000)
    optimizer = fastadam.Adam([param], lr=1e-3, backend=backend)
    twin = fastadam.Adam([np.zeros(1)], lr=1e-3, backend="numpy")
    optimizer.step([grad])
    rang = 0
    for i in range(200):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-6 * (i % 97))
            for _ in range(1000):
                optimizer.step([grad])
        except AlarmError:
            rang += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        steps = optimizer.state[0]["step"]
        while twin.state.get(0, {"step": 0})["step"] < steps:
            twin.step([np.ones(1)])
        np.testing.assert_array_equal(param, twin.param_groups[0]["params"][0][0])
    assert rang


def nothing(number: int, frame: Any) -> None:
    """Handle a signal."""


def test_handlers_are_called_when_the_work_is_done() -> None:
    log: list[Any] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: log.append(number))
    try:

        def work() -> int:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            log.append("done")
            return 7

        handler = signal.getsignal(signal.SIGTERM)
        assert uninterrupted(work) == 7
        assert log == ["done", signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
        log.clear()
        assert uninterrupted(lambda: uninterrupted(work)) == 7
        assert log == ["done", signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_the_work_raises_comes_first_and_the_interrupt_after_it() -> None:
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("a fault")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            uninterrupted(work)
        assert isinstance(caught.value.__context__, ValueError)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(ValueError, match="a fault"):
            uninterrupted(lambda: (_ for _ in ()).throw(ValueError("a fault")))
    finally:
        signal.signal(signal.SIGINT, before)


@needs_alarm
@pytest.mark.usefixtures("alarm")
def test_of_two_signals_neither_is_lost() -> None:
    def work() -> None:
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, AlarmError)) as caught:
            uninterrupted(work)
        raised = {type(caught.value), type(caught.value.__context__)}
        assert raised == {KeyboardInterrupt, AlarmError}
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_signals_that_python_does_not_handle_are_left_alone(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert uninterrupted(lambda: signal.getsignal(signal.SIGTERM)) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_the_work_sets_stays() -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        uninterrupted(lambda: signal.signal(signal.SIGTERM, nothing))
        assert signal.getsignal(signal.SIGTERM) is nothing
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_the_handlers_alone() -> None:
    found: list[Any] = []
    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(
        target=uninterrupted, args=(lambda: found.extend(signal.getsignal(number) for number in SIGNALS),)
    )
    thread.start()
    thread.join()
    assert found == before


def test_native_calls_in_one_go() -> None:
    numbers: list[int] = []
    calls: list[Callable[[], object]] = [numbers.sort, numbers.reverse]
    in_one_go(calls)
    clock = iter([time.sleep])
    in_one_go([lambda: numbers.append(1), clock.__next__])
    assert numbers == [1]
    assert next(clock, None) is None
