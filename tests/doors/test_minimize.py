"""`fastadam.minimize`: the loop over objectives that give a loss and gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.schedules import Cosine
from tests.support.bits import assert_same_bits

STEPS = 9
TARGETS = [np.array([[1.0, -2.0], [0.5, 0.25]]), np.array([3.0])]


def bowls(arrays: Any) -> tuple[float, list[Any]]:
    """Return half the squared distance from the targets, and its gradients."""
    gaps = [array - target for array, target in zip(arrays, TARGETS, strict=True)]
    return sum(float((gap**2).sum()) for gap in gaps) / 2, gaps


def zeros() -> list[Any]:
    return [np.zeros((2, 2)), np.zeros(1)]


def by_parameters(params: Any) -> tuple[float, None]:
    loss, gradients = bowls([p.data for p in params])
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = gradient
    return loss, None


def by_packed(flat: Any) -> tuple[float, None]:
    loss, gradients = bowls(flat.params.values())
    for name, gradient in zip("wb", gradients, strict=True):
        flat.grads[name][...] = gradient
    return loss, None


def by_name(params: Any) -> tuple[float, dict[str, Any]]:
    loss, gradients = bowls(params.values())
    return loss, dict(zip("wb", gradients, strict=True))


FORMS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], list[Any]]]] = {
    "list": (zeros, bowls, list),
    "tuple": (lambda: tuple(zeros()), bowls, list),
    "iterator": (lambda: iter(zeros()), bowls, list),
    "mapping": (lambda: dict(zip("wb", zeros(), strict=True)), by_name, lambda p: list(p.values())),
    "packed": (
        lambda: fastadam.pack(dict(zip("wb", zeros(), strict=True))),
        by_packed,
        lambda flat: list(flat.params.values()),
    ),
    "objects": (
        lambda: [fastadam.Parameter(z) for z in zeros()],
        by_parameters,
        lambda p: [one.data for one in p],
    ),
    "groups": (
        lambda: [{"params": [z]} for z in zeros()],
        lambda groups: bowls([group["params"][0] for group in groups]),
        lambda groups: [group["params"][0] for group in groups],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep_best", [False, True])
def test_every_form_of_parameters_takes_the_same_steps(form: str, keep_best: bool, backend: str) -> None:
    make, fun, arrays = FORMS[form]
    expected = zeros()
    optimizer = fastadam.Adam(expected, lr=1.0, backend=backend)
    losses, states = [], []
    for _ in range(STEPS):
        loss, gradients = bowls(expected)
        losses.append(loss)
        states.append([array.copy() for array in expected])
        optimizer.step(gradients)
    given = make()
    found = fastadam.minimize(fun, given, steps=STEPS, lr=1.0, keep_best=keep_best, backend=backend)
    assert found.losses.tolist() == losses
    assert found.steps == STEPS
    assert found.success
    assert found.message == f"all {STEPS} steps were taken"
    best = int(np.argmin(losses))
    assert 0 < best < STEPS - 1  # it swings, so that the last point is not the best
    assert found.loss == (losses[best] if keep_best else losses[-1])
    for ours, theirs in zip(arrays(found.params), states[best] if keep_best else expected, strict=True):
        assert_same_bits(ours, theirs)
    if form != "iterator":
        assert found.params is given
    assert found.optimizer.state[0]["step"] == STEPS


def test_one_array() -> None:
    x = np.array([3.0, -1.0])
    found = fastadam.minimize(lambda x: (x @ x, 2 * x), x, steps=2000, lr=Cosine(0.1, 2000))
    assert found.params is x
    assert np.abs(x).max() < 1e-6


def test_a_batch_for_each_step() -> None:
    seen = []

    def fun(x: Any, batch: int) -> tuple[float, Any]:
        seen.append(batch)
        return float(x[0]), np.ones(1)

    found = fastadam.minimize(fun, np.zeros(1), batches=range(5))
    assert seen == [0, 1, 2, 3, 4]
    assert (found.steps, found.success, found.message) == (5, True, "the batches ended after 5 steps")
    endless = itertools.count()
    found = fastadam.minimize(fun, np.zeros(1), batches=endless, steps=3)
    assert (found.steps, found.message) == (3, "all 3 steps were taken")
    assert next(endless) == 3  # no batch is taken that is not used
    assert (
        fastadam.minimize(fun, np.zeros(1), batches=[1, 2], steps=3).message == "the batches ended after 2 steps"
    )


@pytest.mark.parametrize("limits", [{"steps": 0}, {"batches": []}])
def test_no_step_at_all(limits: dict[str, Any]) -> None:
    for keep_best in (False, True):
        x = np.ones(2)
        found = fastadam.minimize(lambda *a: (0.0, None), x, keep_best=keep_best, **limits)
        assert found.steps == 0
        assert found.losses.shape == (0,)
        assert math.isnan(found.loss)
        assert x.tolist() == [1.0, 1.0]


def test_the_callback_can_end_it() -> None:
    told = []

    def callback(step: int, loss: float) -> None:
        told.append((step, loss))
        if step == 3:
            raise StopIteration

    found = fastadam.minimize(lambda x: (x @ x, 2 * x), np.ones(2), steps=100, callback=callback)
    assert found.steps == 3
    assert found.success
    assert found.message == "the callback ended the loop after 3 steps"
    assert told == list(enumerate(found.losses.tolist(), 1))


def test_stop_iteration_of_the_objective_or_of_the_batches_passes() -> None:
    def broken(*args: Any) -> Any:
        raise StopIteration

    with pytest.raises(StopIteration):
        fastadam.minimize(broken, np.ones(2), steps=3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_it_before_the_step(bad: float) -> None:
    x = np.array([1.0])

    def fun(x: Any) -> tuple[float, Any]:
        return bad if x[0] < 0.9 else x[0], np.ones(1)

    found = fastadam.minimize(fun, x, steps=100, lr=0.02)
    assert not found.success
    assert found.steps == len(found.losses) - 1
    assert found.message == f"the loss was {bad} before step {found.steps + 1}, which was not taken"
    assert 0.85 < x[0] < 0.9
    again = fastadam.minimize(fun, np.array([1.0]), steps=100, lr=0.02, keep_best=True)
    assert again.loss == again.params[0] == again.losses[-2]


@pytest.mark.parametrize("loss", [np.float32(0.5), np.array(0.5), np.array([0.5]), 1, np.float64(2.0)])
def test_forms_of_the_loss(loss: Any) -> None:
    found = fastadam.minimize(lambda x: (loss, x + 0), np.ones(2), steps=1)
    assert type(found.loss) is float
    assert found.loss == float(np.asarray(loss).reshape(()))


def test_options_are_those_of_adam() -> None:
    a, b = np.ones(3), np.ones(3)
    options: dict[str, Any] = {"lr": 0.3, "betas": (0.5, 0.7), "weight_decay": 0.1, "decoupled_weight_decay": True}
    optimizer = fastadam.Adam(a, **options)
    for _ in range(5):
        optimizer.step(a**3)
    fastadam.minimize(lambda x: (0.0, x**3), b, steps=5, **options)
    assert_same_bits(a, b)


def test_it_prints_without_its_arrays() -> None:
    found = fastadam.minimize(lambda x: (1.5, x + 0), np.ones(2), steps=1)
    assert repr(found) == "Minimized(loss=1.5, steps=1, success=True, message='1 step was taken')"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"fun": 3}, r"fun must be a function that returns \(loss, gradients\), got 3"),
    ({"steps": None}, "steps or batches must be given, or the loop would never end; try steps=1000"),
    ({"steps": 2.5}, "steps must be a whole number, got 2.5 of type float"),
    ({"steps": True}, "steps must be a whole number, got True"),
    ({"steps": -1}, "steps must be at least 0, got -1"),
    ({"batches": 3}, "batches must be an iterable with a batch for each step, got 3"),
    ({"callback": 3}, "callback must be callable or None, got 3"),
    ({"keep_best": "no"}, "keep_best must be True or False, got 'no'"),
    ({"fun": lambda x: 1.0}, r"fun must return \(loss, gradients\), got 1.0"),
    ({"fun": lambda x: (1.0, x, x)}, r"fun must return \(loss, gradients\), got "),
    ({"fun": lambda x: ("low", x)}, "the loss that fun returns must be a number, got 'low'"),
    ({"fun": lambda x: (x, x)}, "the loss that fun returns must be a number, got array"),
    ({"fun": lambda x: (1.0, x[:1])}, "has shape"),
    ({"lr": -1.0}, "lr must be finite and at least 0"),
    ({"momentum": 0.9}, "momentum"),
    ({"params": "w"}, "str"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"fun": lambda x: (1.0, x), "params": np.ones(2), "steps": 3, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        fastadam.minimize(**arguments)


def test_a_gradient_that_is_refused_leaves_the_parameters_as_they_are() -> None:
    x = np.ones(2)
    with pytest.raises(TypeError):
        fastadam.minimize(lambda x: (1.0, x.astype(np.float32)), x, steps=3)
    assert x.tolist() == [1.0, 1.0]
