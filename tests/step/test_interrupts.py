"""An interrupt at any point leaves parameters, moments and counters as before or as after; signals that wait."""

from __future__ import annotations

import functools
import importlib.util
import operator
import signal
import sys
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
from fastadam.step.interrupts import in_one_go, in_one_go_while
from fastadam.step.plan import Plan
from fastadam.step.variants import variants_of
from tests import interrupts
from tests.conftest import AVAILABLE, STATES
from tests.support.processes import python

POINTS = 40  # of each scenario; `python -m tests.interrupts` tries all of them
needs_numba = pytest.mark.skipif("numba" not in AVAILABLE, reason=f"the tracer is native code: {STATES['numba']}")
needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM here")


class AlarmError(Exception):
    """What the handler of an alarm raises."""


@pytest.fixture
def alarm() -> Iterator[list[int]]:
    """Let an alarm raise, and yield a list of the calls of its handler."""
    calls: list[int] = []

    def ring(number: int, frame: Any) -> None:
        calls.append(number)
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    yield calls
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@needs_numba
def test_an_interrupt_finds_the_numpy_face_before_or_after(backend: str, tmp_path: Path) -> None:
    came = [interrupts.try_every(each, POINTS)[1] for each in interrupts.scenarios(backend, tmp_path)]
    assert all(came), came


@needs_numba
def test_an_interrupt_finds_steps_over_rows_before_or_after(backend: str) -> None:
    came = [interrupts.try_every(each, POINTS)[1] for each in interrupts.row_scenarios(backend)]
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
    came = [interrupts.try_every(each, POINTS // 3)[1] for each in interrupts.torch_scenarios(backend)]
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
    came = [interrupts.try_every(each, POINTS // 3)[1] for each in interrupts.torch_scenarios("numpy")]
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
        counters, variants = counters_in(steps), variants_of([FLOAT64.code] * 2, 0)
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
@pytest.mark.usefixtures("without_collection")
def test_real_signals_find_every_step_whole(backend: str, alarm: list[int]) -> None:
    """Alarms at odd times, whose handler raises: afterwards a step is counted if and only if it was taken.

    None of the alarms is lost.
    """
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
        assert len(alarm) == rang
        steps = optimizer.state[0]["step"]
        while twin.state.get(0, {"step": 0})["step"] < steps:
            twin.step([np.ones(1)])
        np.testing.assert_array_equal(param, twin.param_groups[0]["params"][0][0])
    assert rang


def nothing(number: int, frame: Any) -> None:
    """Handle a signal."""


def test_no_handler_is_exchanged(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment: what sees Python's handlers only would lose those of C code, and flags."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"signal.signal was called with {arguments}")

    done = 0
    for each in interrupts.scenarios(backend, tmp_path):
        optimizer, work = each.make()
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", refuse)
            work()
            each.go_on(optimizer)
        done += 1
    assert done > 10


HANDLERS_OF_THE_PROCESS = """
import ctypes, faulthandler, os, pathlib, signal, sys, tempfile

import numpy as np

from tests import interrupts


class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int)]


def action(number):
    found = (Action * 2)()  # with room for the last field
    assert ctypes.CDLL(None).sigaction(number, None, found) == 0
    return found[0].handler, found[0].mask[0], found[0].flags


calls = []
signal.signal(signal.SIGUSR1, lambda *arguments: calls.append(1))
dump = tempfile.TemporaryFile("w+")
faulthandler.register(signal.SIGUSR1, file=dump, chain=True)
signal.signal(signal.SIGUSR2, lambda *arguments: None)
signal.siginterrupt(signal.SIGUSR2, False)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
numbers = [each for each in signal.valid_signals() if each < signal.SIGRTMIN]
before = [action(each) for each in numbers]
folder = pathlib.Path(tempfile.mkdtemp())
for i, scenario in enumerate(interrupts.scenarios(sys.argv[1], folder), 1):
    optimizer, work = scenario.make()
    work()
    scenario.go_on(optimizer)
    assert [action(each) for each in numbers] == before, scenario.name
    size = os.fstat(dump.fileno()).st_size
    os.kill(os.getpid(), signal.SIGUSR1)
    assert os.fstat(dump.fileno()).st_size > size, scenario.name
    assert len(calls) == i, scenario.name
print("left alone")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the struct is Linux's")
def test_handlers_of_c_code_and_flags_are_left_alone(backend: str) -> None:
    """As `faulthandler.register` and `signal.siginterrupt` set them; `signal.getsignal` sees neither."""
    root = str(Path(__file__).parents[2])
    assert python(HANDLERS_OF_THE_PROCESS, backend, PYTHONPATH=root) == "left alone\n"


@needs_numba
def test_work_that_is_not_native_is_found_out() -> None:
    """The tool itself: with one call in Python among the native ones, it finds states in between."""
    for each, found_out in ((np.ndarray.sort, False), (lambda array: array.sort(), True)):

        def make(sort: Any = each) -> tuple[Any, Callable[[], object]]:
            arrays = [np.arange(3.0)[::-1].copy() for _ in range(3)]
            return arrays, lambda: in_one_go([functools.partial(sort, array) for array in arrays])

        def see(arrays: Any) -> dict[str, np.ndarray]:
            return {str(i): array.copy() for i, array in enumerate(arrays)}

        scenario = interrupts.Scenario("three arrays", make, see, lambda arrays: None)
        if found_out:
            with pytest.raises(AssertionError, match="neither as before nor as after"):
                interrupts.try_every(scenario)
        else:
            assert interrupts.try_every(scenario)[1]


def test_native_calls_up_to_the_first_that_says_no() -> None:
    made: list[int] = []
    calls = [functools.partial(operator.index, each) for each in (-1, -1, 7, -1)]
    assert in_one_go_while(-1, calls) == 7
    assert in_one_go_while(-1, calls[:2]) == -1
    assert in_one_go_while(-1, []) == -1
    assert in_one_go([functools.partial(made.append, 1), made.copy]) == [None, [1]]


def test_native_calls_in_one_go() -> None:
    numbers: list[int] = []
    calls: list[Callable[[], object]] = [numbers.sort, numbers.reverse]
    in_one_go(calls)
    clock = iter([time.sleep])
    in_one_go([lambda: numbers.append(1), clock.__next__])
    assert numbers == [1]
    assert next(clock, None) is None
