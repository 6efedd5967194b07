"""A step over tensors reads and writes no memory that was freed, whoever exchanges what meanwhile."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402 - where torch is missing, this module is skipped
from fastadam.torch import attempts, python_attempt  # noqa: E402
from tests.meddle import WAYS, Trap  # noqa: E402
from tests.support.processes import needs_c, needs_fork, python, run  # noqa: E402
from tests.support.torch_cases import Twins, assert_same_snapshot, params, snapshot  # noqa: E402

SHAPES = [(7,), (3,), (5, 2)]


@pytest.fixture(params=["native", "python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which a step finds out what there is."""
    if request.param == "python":
        monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)


@needs_c
@pytest.mark.parametrize("way", WAYS)
def test_whoever_meddles_nothing_crashes(way: str) -> None:
    out = run([sys.executable, "-m", "tests.meddle", "--seconds", "2", way], {"PYTHONMALLOC": "debug"})
    assert out.count("done") >= 10


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("kept", [False, True])
def test_a_layer_that_was_frozen_without_its_state_starts_anew(kept: bool) -> None:
    """As torch's: the state that was dropped is not written, and the parameter gets another one."""
    twins = Twins(lambda: params(*SHAPES)).steps(3)
    dropped = []
    for side in (twins.ours, twins.theirs):
        found = side.state.pop(side.params[0])
        if kept:
            dropped.append({name: (tensor, tensor.clone()) for name, tensor in found.items()})
        del found
    gc.collect()
    twins.steps(2, lambda step, i: i == 0)
    assert twins.ours.params[0] not in twins.ours.state
    twins.steps(3)
    twins.check()
    assert twins.ours.state[twins.ours.params[0]]["step"].item() == 3
    assert all(torch.equal(*pair) for each in dropped for pair in each.values())


def with_trap() -> tuple[Any, Trap]:
    trap = Trap(torch.ones(7))
    optimizer = face.Adam([torch.nn.Parameter(torch.ones(3)), trap, torch.nn.Parameter(torch.ones(5, 2))], lr=0.1)
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    for _ in range(3):
        optimizer.step()
    return optimizer, trap


class UnheardOfError(BaseException):
    """What only the test raises."""


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("error", [KeyError, AttributeError, MemoryError, KeyboardInterrupt, UnheardOfError])
def test_what_fetching_a_gradient_raises_is_let_through(error: type[BaseException]) -> None:
    optimizer, trap = with_trap()
    before = snapshot(optimizer)

    def fail() -> None:
        raise error("from the property")

    trap.spring = fail
    with pytest.raises(error, match="from the property") as caught:
        optimizer.step()
    assert caught.traceback[-1].name == "fail"
    assert_same_snapshot(snapshot(optimizer), before)
    optimizer.step()
    assert optimizer.state[trap]["step"].item() == 4


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("value", [3, "a word", object(), [torch.ones(7)]])
def test_gradients_that_are_no_tensors_are_refused(value: Any) -> None:
    class Odd(torch.nn.Parameter):
        odd = False

        @property
        def grad(self) -> Any:
            return value if self.odd else torch.ones(7)

    param = Odd(torch.ones(7))
    optimizer = face.Adam([torch.nn.Parameter(torch.ones(3)), param])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    for _ in range(3):
        optimizer.step()
    before = snapshot(optimizer)
    param.odd = True
    with pytest.raises((TypeError, AttributeError, RuntimeError)):
        optimizer.step()
    param.odd = False
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("shape", [(1000,), (2, 1, 2, 1, 2, 1, 5), (30, 7)])
@pytest.mark.parametrize("nbytes", [0, 8])
def test_a_gradient_with_a_shrunk_storage_is_refused(shape: tuple[int, ...], nbytes: int) -> None:
    param = torch.nn.Parameter(torch.ones(shape))
    optimizer = face.Adam([param], lr=0.1)
    for _ in range(3):
        param.grad = torch.ones(shape)
        optimizer.step()
    before = param.detach().clone()
    param.grad = torch.ones(shape)
    param.grad.untyped_storage().resize_(nbytes)
    with pytest.raises(RuntimeError, match="storage that was freed or shrunk"):
        optimizer.step()
    assert torch.equal(param.detach(), before)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("shape", [(1000,), (2, 1, 2, 1, 2, 1, 5)])
def test_state_with_a_shrunk_storage_is_refused(shape: tuple[int, ...], name: str) -> None:
    param = torch.nn.Parameter(torch.ones(shape))
    optimizer = face.Adam([param], lr=0.1)
    param.grad = torch.ones(shape)
    for _ in range(3):
        optimizer.step()
    optimizer.state[param][name].untyped_storage().resize_(2)
    before = param.detach().clone()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert torch.equal(param.detach(), before)


@needs_c
def test_ordinary_tensors_have_fingerprints() -> None:
    """Else each of them is asked, and steps are slower."""
    optimizer = face.Adam(
        [torch.nn.Parameter(torch.ones(shape)) for shape in [(3,), (2, 1), (), (2, 3, 4, 5, 6)]], amsgrad=True
    )
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.step()
    assert optimizer._memo.attempts.cache.params["fingerprints"].all()


@pytest.mark.usefixtures("reader")
def test_a_state_that_a_handler_loads_while_a_step_is_remembered_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step goes into the state that is there, not into the one that was stepped."""
    optimizer = face.Adam([torch.nn.Parameter(torch.ones(7)), torch.nn.Parameter(torch.ones(2, 3))], lr=0.1)
    params = optimizer.param_groups[0]["params"]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    learn = attempts.Attempts.learn

    def exchange(self: Any, *args: Any) -> bool:
        for param, state in list(optimizer.state.items()):
            optimizer.state[param] = {name: tensor.clone() for name, tensor in state.items()}
        return learn(self, *args)

    for param in params:
        param.data = param.data.clone()
    with monkeypatch.context() as patch:
        patch.setattr(attempts.Attempts, "learn", exchange)
        optimizer.step()
    for _ in range(2):
        optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [4, 4]


@needs_fork
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system cannot fork")
@pytest.mark.parametrize("parent", ["has not stepped", "has stepped", "has other strides"])
def test_a_forked_child_takes_its_first_step_alone(parent: str) -> None:
    """Making state, or copying, with torch's threads would wait for those that only the parent has."""
    out = python(
        """
import os, sys, signal, torch, fastadam.torch
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.ones(600_000))
p.grad = torch.ones(600_000)
optimizer = fastadam.torch.Adam([p])
if sys.argv[1] == "has stepped":
    optimizer.step()
if sys.argv[1] == "has other strides":
    p.data = torch.ones(1200, 1000)[:, ::2]
    p.grad = torch.ones(1200, 500)
    optimizer.step()
child = os.fork()
if child == 0:
    signal.alarm(60)
    optimizer.step()
    os._exit(0 if torch.get_num_threads() == 2 else 1)
print(os.waitpid(child, 0)[1])
""",
        parent,
    )
    assert out == "0\n"
