"""Schedules of other libraries, and what is taken for one: it works, or an error names `lr` and what to do."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.foreign import library

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def rates_of(lr: Any, steps: int = 3) -> list[float]:
    """Return what each step has taken off, which is the learning rate where the gradient is one."""
    w = np.ones(1)
    optimizer = fastadam.Adam([w], lr=lr)
    taken = []
    for _ in range(steps):
        before = w.copy()
        optimizer.step([np.ones(1)])
        taken.append(float((before - w)[0]))
    return taken


WORK: dict[str, tuple[Callable[[], Any], list[float]]] = {
    "thinc": (lambda: library("thinc.api").warmup_linear(0.1, 2, 4), [0.05, 0.1, 0.05]),
    "optax": (lambda: library("optax").linear_schedule(0.1, 0.0, 4), [0.075, 0.05, 0.025]),
    "NumPy numbers": (lambda: lambda step: np.float32(0.1) / step, [0.1, 0.05, 0.1 / 3]),
    "arrays without axes": (lambda: lambda step: np.array(0.1), [0.1] * 3),
    "ours": (lambda: fastadam.schedules.Constant(0.1), [0.1] * 3),
}


@pytest.mark.parametrize("name", WORK)
def test_schedules_that_work(name: str) -> None:
    make, rates = WORK[name]
    np.testing.assert_allclose(rates_of(make()), rates, rtol=1e-5)


class ShutdownError(Exception):
    """An error of a user's own, which is made of more than a message."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code)
        self.reason = reason


def raising(error: BaseException) -> Callable[[int], float]:
    def schedule(step: int) -> float:
        raise error

    return schedule


# What is given, the type of the error, and what its message says beside `lr`.
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "without an argument": (lambda: 0.1, TypeError, "takes 0 positional arguments"),
    "with two": (lambda step, epoch: 0.1, TypeError, "missing 1 required"),
    "a generator": ((0.1 / i for i in range(1, 9)), TypeError, "must be a real number, got <generator"),
    "an iterator without an end": (itertools.repeat(0.1), TypeError, "must be a real number, got repeat"),
    "a string": ("0.1", TypeError, "give the number itself, 0.1"),
    "a list": ([0.1], TypeError, "give the number itself, 0.1"),
    "returns a list": (lambda step: [0.1], TypeError, "give the number itself, 0.1"),
    "returns an array": (lambda step: np.array([0.1]), TypeError, "give the number itself, 0.1"),
    "returns two": (
        lambda step: [0.1, 0.2],
        TypeError,
        r"got \[0.1, 0.2\] of type list; a schedule is a function",
    ),
    "returns None": (lambda step: None, TypeError, "got None of type NoneType; a schedule is a function"),
    "returns a string": (lambda step: "fast", TypeError, "got 'fast' of type str; a schedule is a function"),
    "returns a function": (lambda step: len, TypeError, "got <built-in function len>"),
    "returns less than nothing": (lambda step: -0.1, ValueError, "got -0.1; to go up the gradient, set maximize"),
    "returns NaN": (lambda step: float("nan"), ValueError, "must be finite and at least 0, got nan"),
    "less than nothing": (-0.1, ValueError, "got -0.1; to go up the gradient, set maximize=True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_schedule(name: str, backend: str) -> None:
    lr, error, words = WRONG[name]
    w = np.ones(2)
    with pytest.raises(error, match=rf"\blr\b.*{words}"):
        fastadam.Adam([w], lr=lr, backend=backend).step([np.ones(2)])
    assert (w == 1).all()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ZeroDivisionError("by zero"), ZeroDivisionError),
        (KeyError("warm-up"), KeyError),
        (IndexError(), IndexError),
        (OSError("no such table"), OSError),
        (TimeoutError("too late"), TimeoutError),
        (StopIteration(), RuntimeError),  # which would end a loop around the step, quietly
    ],
)
def test_what_a_schedule_raises_names_lr_and_keeps_its_kind_and_cause(
    raised: Exception, expected: type[Exception], backend: str
) -> None:
    w = np.ones(2)
    optimizer = fastadam.Adam([{"params": w, "lr": raising(raised)}], backend=backend)
    for _ in range(2):
        with pytest.raises(expected, match=rf"lr\(1\) raised {type(raised).__name__}") as error:
            optimizer.step([np.ones(2)])
        assert type(error.value) is expected
        assert error.value.__cause__ is raised
    assert (w == 1).all()
    assert len(optimizer.state) == 0
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step([np.ones(2)])
    np.testing.assert_allclose(w, 0.9)


def test_errors_of_the_users_own_are_raised_as_they_are() -> None:
    """With their attributes, by which their handlers go, and once with a note."""
    raised = ShutdownError(3, reason="maintenance")
    optimizer = fastadam.Adam([np.ones(2)], lr=raising(raised))
    for _ in range(2):
        with pytest.raises(ShutdownError) as error:
            optimizer.step([np.ones(2)])
        assert error.value is raised
    if sys.version_info >= (3, 11):
        (note,) = raised.__notes__
        assert note.startswith("lr(1) raised ShutdownError: 3; a schedule is a function of the 1-based step")
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as stopped:
        fastadam.Adam([np.ones(2)], lr=raising(interrupt)).step([np.ones(2)])
    assert stopped.value is interrupt


def test_the_advice_for_schedules_is_right() -> None:
    for lr in (lambda: 0.1, itertools.count()):
        with pytest.raises(TypeError) as error:
            rates_of(lr)
        code = re.search(r"such as lr=(.*)$", str(error.value))
        assert code is not None
        np.testing.assert_allclose(rates_of(eval(code[1])), [0.1, 0.05, 0.1 / 3])


@pytest.mark.parametrize("lr", ["0.1", [0.1], (0.1,), np.array([0.1]), np.array(0.1)])
def test_the_advice_for_numbers_is_right(lr: Any) -> None:
    with pytest.raises(TypeError) as error:
        rates_of(lr)
    code = re.search(r"(?:give the number itself,|try) (.*)$", str(error.value))
    assert code is not None
    np.testing.assert_allclose(rates_of(eval(code[1], {"lr": lr})), 0.1)


def test_the_advice_for_going_up_is_right() -> None:
    with pytest.raises(ValueError, match=r"lr must be finite and at least 0, got -0.1; .* set maximize=True"):
        rates_of(-0.1)
    w = np.ones(1)
    fastadam.Adam([w], lr=0.1, maximize=True).step([np.ones(1)])
    np.testing.assert_allclose(w, 1.1)


def test_only_lr_is_a_schedule() -> None:
    for name in ("eps", "weight_decay"):
        options: dict[str, Any] = {name: lambda step: 0.1}
        with pytest.raises(TypeError, match=f"{name} must be .*; of the options, only lr can be a function"):
            fastadam.Adam([np.ones(1)], **options)
