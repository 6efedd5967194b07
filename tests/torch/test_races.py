"""What another thread does to an optimizer in the middle of a step is not lost, and spoils nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402
from fastadam.torch import careful, options  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.torch_cases import FEW_SHAPES, Parameter, Twins, assert_close, give_grads, params  # noqa: E402

OTHER = next((name for name in ("numba", "numpy") if name in AVAILABLE), "numpy")


Meddle = Callable[[Callable[[], object]], None]


class Meddler:
    """Does something once, in another thread, when it is called; the caller goes on when it is done."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._actions = [action]

    def __call__(self) -> None:
        if self._actions:
            thread = threading.Thread(target=self._actions.pop())
            thread.start()
            thread.join(60)
            assert not thread.is_alive()


# Where a step is when the other thread gets its turn: what is called there.
PLACES = {
    "options were read": (options, "check_all"),
    "parameters are looked at": (careful, "Visit"),
    "the step is taken": (careful, "stage"),
    "what was found is remembered": (careful, "Attempts"),
}


@pytest.fixture(params=PLACES)
def meddle(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], None]:
    """Let another thread do something in the middle of the next step that is taken with care."""
    module, name = PLACES[request.param]

    def at_next_step(action: Callable[[], object]) -> None:
        original, meddler = getattr(module, name), Meddler(action)

        def between(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            meddler()
            return result

        monkeypatch.setattr(module, name, between)

    return at_next_step


def test_another_backend(meddle: Meddle) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES))
    optimizer = twins.ours.optimizer
    meddle(lambda: setattr(optimizer, "backend", OTHER))
    twins.steps(1)
    assert optimizer.backend == OTHER
    assert optimizer._memo.attempts is None, "the next step asks for the backend anew"
    twins.steps(2).check()
    assert optimizer._memo.chosen.asked_for == OTHER
    assert optimizer._memo.attempts is not None


def test_another_limit_of_threads(meddle: Meddle, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES))
    optimizer = twins.ours.optimizer
    meddle(lambda: setattr(optimizer, "threads", 3))
    twins.steps(1)
    limits: list[Any] = []
    original = careful.thread_limit
    monkeypatch.setattr(careful, "thread_limit", lambda limit: limits.append(limit) or original(limit))
    twins.steps(1).check()
    assert (optimizer.threads, limits) == (3, [3])


@pytest.mark.parametrize(("key", "value"), [("lr", 0.5), ("amsgrad", True), ("betas", (0.5, 0.6)), ("lr", -0.5)])
def test_edited_options(meddle: Meddle, key: str, value: Any) -> None:
    """The step that is under way has the former, and the next one has those."""
    twins = Twins(lambda: params(*FEW_SHAPES))
    meddle(lambda: twins.ours.group.update({key: value}))
    twins.steps(1)
    assert twins.ours.group[key] == value
    twins.theirs.group[key] = value
    if key == "amsgrad":
        for state in twins.theirs.state.values():
            state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
    twins.steps(2).check()


def test_a_scale_that_is_set(meddle: Meddle) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES))
    meddle(lambda: setattr(twins.ours.optimizer, "grad_scale", 2.0))
    twins.steps(1).check()
    assert twins.ours.optimizer.grad_scale == 2.0
    for side, scale in ((twins.ours, 2.0), (twins.theirs, 1.0)):
        give_grads(side.optimizer, 1)
        for param in side.params:
            param.grad *= scale
        side.optimizer.step()
    for ours, theirs in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert_close(ours, theirs, "parameter")


def test_a_group_that_is_added(meddle: Meddle) -> None:
    """It takes part from the next step on."""
    twins = Twins(lambda: params(*FEW_SHAPES))
    added = [[Parameter(torch.ones(2))] for _ in range(2)]
    meddle(lambda: twins.ours.optimizer.add_param_group({"params": added[0]}))
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 1)
        side.optimizer.step()
    twins.theirs.optimizer.add_param_group({"params": added[1]})
    twins.steps(2).check()


def test_a_state_that_is_loaded(meddle: Meddle) -> None:
    """Over a step that is under way: whichever comes last, the next step goes on from what is there."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    optimizer = twins.ours.optimizer
    saved = optimizer.state_dict()
    optimizer.param_groups[0]["lr"] = 0.01  # to be looked at with care
    optimizer.backend = "auto"
    meddle(lambda: optimizer.load_state_dict(saved))
    give_grads(optimizer, 5)
    optimizer.step()
    give_grads(optimizer, 6)
    optimizer.step()
    assert all(torch.isfinite(param).all() for param in twins.ours.params)


@pytest.mark.parametrize(
    "what", ["clear", "replace the list", "drop a state", "drop a gradient", "new data", "new moments"]
)
def test_tensors_and_containers_that_are_exchanged(meddle: Meddle, what: str) -> None:
    """As in torch, nothing is raised; later steps go on with what is there."""
    optimizer = face.Adam(params((3,), (4,)))
    first = optimizer.param_groups[0]["params"][0]
    for step in range(2):
        give_grads(optimizer, step)
        optimizer.step()

    def exchange() -> None:
        if what == "clear":
            optimizer.state.clear()
        elif what == "replace the list":
            optimizer.param_groups[0]["params"] = list(optimizer.param_groups[0]["params"])
        elif what == "drop a state":
            optimizer.state.pop(first, None)
        elif what == "drop a gradient":
            first.grad = None
        elif what == "new data":
            first.data = torch.ones(3)
        else:
            optimizer.state[first].update(exp_avg=torch.zeros(3), exp_avg_sq=torch.ones(3))

    meddle(exchange)
    optimizer.backend = "auto"
    for step in range(2, 5):
        give_grads(optimizer, step)
        optimizer.step()
    assert torch.isfinite(first).all()
