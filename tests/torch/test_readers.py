"""The attempt at a step in one native call: what it notices, in each of the ways in which tensors can be read."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402 - where torch is missing, this module is skipped
from fastadam.memory.tensor_structs import TensorOffsets  # noqa: E402
from fastadam.torch import attempts, fingerprints, native_attempt, python_attempt, tensor_offsets  # noqa: E402
from fastadam.torch.careful import CarefulStep  # noqa: E402
from tests.conftest import AVAILABLE, STATES  # noqa: E402

READERS = ["fingerprints", "dlpack", "python"]
needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason=STATES["c"])


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which tensors can be read, forced."""
    if request.param != "python" and not native_attempt.tensor_reader():
        pytest.skip(f"no native reader: {STATES['c']}")
    if request.param == "python":
        monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)
    if request.param != "fingerprints":
        monkeypatch.setattr(fingerprints, "MOST_DIMS", -1)  # too many for any to be kept
    return str(request.param)


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the steps that are taken with care."""
    taken: list[int] = []
    original = CarefulStep.take

    def count(self: Any, **options: Any) -> str:
        taken.append(1)
        return original(self, **options)

    monkeypatch.setattr(CarefulStep, "take", count)
    return taken


def make(dtype: Any = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    shapes = [(3, 4), (7,), (), (2, 3, 2, 2), (1,), (2, 1, 3), (2, 1, 2, 1, 2, 1, 2)]
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    return face.Adam(params, lr=0.1, **options)


def members(optimizer: Any) -> list[Any]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def set_gradients(optimizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in members(optimizer):
        param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)


def twin(optimizer: Any) -> Any:
    """Return torch's own Adam over copies of everything."""
    params = [param.detach().clone() for param in members(optimizer)]
    other = torch.optim.Adam(params, **{**optimizer.defaults, "foreach": False})
    saved = optimizer.state_dict()
    state = {
        k: {n: v.clone() if hasattr(v, "clone") else v for n, v in e.items()} for k, e in saved["state"].items()
    }
    other.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    return other


def assert_step_is_torchs(optimizer: Any, other: Any) -> None:
    for mine, its in zip(members(optimizer), members(other), strict=True):
        its.grad = None if mine.grad is None else mine.grad.detach().clone()
    optimizer.step()
    other.step()
    for mine, its in zip(members(optimizer), members(other), strict=True):
        torch.testing.assert_close(mine.detach(), its.detach(), rtol=1e-5, atol=1e-6)
        ours, theirs = optimizer.state.get(mine, {}), other.state.get(its, {})
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16], ids=str)
def test_steady_steps_are_not_taken_with_care(reader: str, careful: list[int], dtype: Any, backend: str) -> None:
    optimizer = make(dtype)
    optimizer.backend = backend
    for t in range(5):
        set_gradients(optimizer, t)
        optimizer.step()
        assert len(careful) == 1
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}


def test_known_patterns_of_gradients_are_not_taken_with_care(reader: str, careful: list[int]) -> None:
    optimizer = make()
    set_gradients(optimizer, 0)
    optimizer.step()
    for t in range(1, 9):
        set_gradients(optimizer, t)
        for param in members(optimizer)[t % 2 :: 2]:
            param.grad = None
        optimizer.step()
    assert len(careful) == 1
    assert [float(optimizer.state[param]["step"]) for param in members(optimizer)] == [5.0] * 7


def test_a_step_without_any_gradient_does_nothing(reader: str) -> None:
    optimizer = make()
    set_gradients(optimizer, 0)
    optimizer.step()
    before = [param.detach().clone() for param in members(optimizer)]
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, members(optimizer), strict=True))
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


def test_learning_rates_and_betas_change_without_care(reader: str, careful: list[int]) -> None:
    optimizer = make()
    set_gradients(optimizer, 0)
    optimizer.step()
    other = twin(optimizer)
    for t in range(1, 4):
        for each in (optimizer, other):
            each.param_groups[0]["lr"] = 0.1 / t
            each.param_groups[0]["betas"] = (0.9 - 0.1 * t, 0.99)
        set_gradients(optimizer, t)
        assert_step_is_torchs(optimizer, other)
    assert len(careful) == 1


def state_of(optimizer: Any, i: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = optimizer.state[members(optimizer)[i]]
    return found


def set_data(get: Callable[[Any], Any], change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def apply(optimizer: Any) -> None:
        tensor = get(optimizer)
        tensor.data = change(tensor.data)

    return apply


def replace_state(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict, {param: dict(state) for param, state in optimizer.state.items()})


def swap(optimizer: Any) -> None:
    forget(optimizer)  # torch's own state_dict fails on state of a parameter that is in no group
    optimizer.param_groups[0]["params"][1] = torch.nn.Parameter(torch.randn(7))


def forget(optimizer: Any) -> None:
    del optimizer.state[members(optimizer)[1]]


def remove(optimizer: Any) -> None:
    forget(optimizer)
    optimizer.param_groups[0]["params"].pop(1)


def grow(optimizer: Any) -> None:
    storage = state_of(optimizer)["exp_avg"].untyped_storage()
    storage.resize_(storage.nbytes() + 64)


PARAM = {i: (lambda optimizer, i=i: members(optimizer)[i]) for i in range(7)}
MOMENT = {
    name: (lambda optimizer, name=name: state_of(optimizer)[name]) for name in ("exp_avg", "exp_avg_sq", "step")
}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "data of a parameter": set_data(PARAM[1], lambda data: data * 2),
    "data of a parameter negated on reading": set_data(PARAM[1], lambda data: torch._neg_view(data)),
    "data of a parameter transposed": set_data(
        PARAM[3], lambda data: data.transpose(1, 2).clone().transpose(1, 2)
    ),
    "data of a parameter in other strides": set_data(PARAM[6], lambda data: data.mT.clone().mT),
    "data of a parameter elsewhere in its storage": set_data(PARAM[2], lambda data: torch.zeros(5)[3]),
    "data of a moment": set_data(MOMENT["exp_avg"], lambda data: data * 2),
    "data of the other moment": set_data(MOMENT["exp_avg_sq"], lambda data: data.clone()),
    "data of a counter": set_data(MOMENT["step"], lambda data: data + 3),
    "a moment in a set storage": lambda optimizer: state_of(optimizer)["exp_avg"].set_(torch.ones(7)),
    "a moment in a grown storage": grow,
    "a moment in shared memory": lambda optimizer: state_of(optimizer)["exp_avg"].share_memory_(),
    "a parameter in shared memory": lambda optimizer: members(optimizer)[1].share_memory_(),
    "a moment replaced": lambda optimizer: state_of(optimizer).update(exp_avg=torch.ones(7)),
    "a counter replaced": lambda optimizer: state_of(optimizer).update(step=torch.tensor(9.0)),
    "a counter filled": lambda optimizer: state_of(optimizer)["step"].fill_(9),
    "a moment filled": lambda optimizer: state_of(optimizer)["exp_avg"].fill_(9),
    "a state replaced": lambda optimizer: optimizer.state.update(
        {members(optimizer)[1]: dict(state_of(optimizer))}
    ),
    "the whole state replaced": replace_state,
    "the whole state cleared": lambda optimizer: optimizer.state.clear(),
    "one state deleted": forget,
    "a parameter exchanged": swap,
    "a parameter removed": remove,
    "parameters in a new list": lambda optimizer: optimizer.param_groups[0].update(
        params=members(optimizer)[::-1]
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_noticed(reader: str, change: Callable[[Any], Any]) -> None:
    optimizer = make()
    for t in range(3):
        set_gradients(optimizer, t)
        optimizer.step()
    change(optimizer)
    other = twin(optimizer)
    for t in range(3, 6):
        set_gradients(optimizer, t)
        assert_step_is_torchs(optimizer, other)


GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda grad: grad,
    "a view with an offset": lambda grad: torch.cat([torch.ones(3), grad])[3:],
    "strided": lambda grad: torch.stack([grad, grad], 1)[:, 0],
    "negated on reading": lambda grad: torch._neg_view(grad),
    "expanded": lambda grad: grad[:1].expand(7),
    "a parameter object": torch.nn.Parameter,
    "with a history": lambda grad: grad.clone().requires_grad_() * 2,
    "in shared memory": lambda grad: grad.share_memory_(),
}


@pytest.mark.parametrize("change", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_of_every_kind(reader: str, change: Callable[[Any], Any]) -> None:
    optimizer = make()
    other = twin(optimizer)
    for t in range(4):
        set_gradients(optimizer, t)
        if t:
            members(optimizer)[1].grad = change(members(optimizer)[1].grad)
        before = members(optimizer)[1].grad.detach().clone()
        assert_step_is_torchs(optimizer, other)
        assert torch.equal(members(optimizer)[1].grad.detach(), before)


@pytest.mark.parametrize("what", ["the parameter", "a moment", "another parameter"])
def test_gradients_that_a_step_would_write_count_as_they_were(reader: str, what: str) -> None:
    optimizer = make()
    for t in range(2):
        set_gradients(optimizer, t)
        optimizer.step()
    other = twin(optimizer)
    set_gradients(optimizer, 3)
    param = members(optimizer)[1]
    aliases = {
        "the parameter": param.data,
        "a moment": state_of(optimizer)["exp_avg"],
        "another parameter": members(optimizer)[0].data.view(-1)[:7],
    }
    param.grad = aliases[what]
    assert_step_is_torchs(optimizer, other)


def test_parameters_that_share_memory_are_stepped_one_after_the_other(reader: str) -> None:
    """Also where both have been stepped alone, so that all is known of them."""

    def make_pair(make: Callable[..., Any], **options: Any) -> Any:
        memory = torch.linspace(-1, 1, 10)
        first, second = torch.nn.Parameter(memory[:7]), torch.nn.Parameter(memory[3:])
        return make([{"params": [first], "weight_decay": 0.1}, {"params": [second]}], lr=0.1, **options)

    optimizer, other = make_pair(face.Adam), make_pair(torch.optim.Adam, foreach=False)
    for t in range(8):
        for each in (optimizer, other):
            for i, param in enumerate(members(each)):
                param.grad = torch.full_like(param, t + i) if t >= 4 or t % 2 == i else None
            each.step()
        for mine, its in zip(members(optimizer), members(other), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-6, atol=3e-7)


def test_what_is_cached_is_in_no_copy(reader: str) -> None:
    optimizer = make()
    expected = {"defaults", "state", "param_groups", "_settings"}
    for t in range(3):
        assert set(optimizer.__getstate__()) == expected
        set_gradients(optimizer, t)
        optimizer.step()


def test_a_float32_counter_becomes_float64_where_it_could_not_count_on(reader: str) -> None:
    optimizer = make()
    set_gradients(optimizer, 0)
    optimizer.step()
    state_of(optimizer)["step"].fill_(2**24 - 1)
    for expected in range(2**24, 2**24 + 4):
        optimizer.step()
        assert state_of(optimizer)["step"].item() == expected
    assert state_of(optimizer, 0)["step"].dtype == torch.float32


def test_all_readers_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for name in READERS:
        with monkeypatch.context() as patch:
            if name == "python":
                patch.setattr(attempts, "binder", lambda: python_attempt.bind)
            elif not native_attempt.tensor_reader():
                continue
            if name != "fingerprints":
                patch.setattr(fingerprints, "MOST_DIMS", -1)
            optimizer = make(weight_decay=0.1, amsgrad=True)
            for t in range(6):
                set_gradients(optimizer, t)
                members(optimizer)[t].grad = None
                optimizer.step()
            results.append([param.detach().view(-1).view(torch.int32) for param in members(optimizer)])
    for each in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, results[0], strict=True))


def test_the_layout_of_tensors_is_known_here() -> None:
    """With the version of torch that CI installs, the fast comparison is on: without it, steps are slower."""
    if torch.__version__.startswith("2.13."):
        assert tensor_offsets.tensor_offsets() is not None
        if "c" in AVAILABLE:
            assert native_attempt.tensor_reader()


def test_an_unknown_layout_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    find = tensor_offsets.tensor_offsets.__wrapped__
    assert find() == tensor_offsets.tensor_offsets()
    real = tensor_offsets._find
    for name in ("storage_data", "storage_size"):  # to follow a wrong one of the others would read anywhere

        def shifted(sample: Any, name: str = name) -> TensorOffsets:
            found: TensorOffsets = real(sample)
            return found._replace(**{name: getattr(found, name) + 8})

        monkeypatch.setattr(tensor_offsets, "_find", shifted)
        assert find() is None, name


def test_gradients_are_let_go_of(reader: str) -> None:
    optimizer = make()
    for t in range(3):
        set_gradients(optimizer, t)
        optimizer.step()
    grad = members(optimizer)[0].grad
    count = sys.getrefcount(grad)
    for _ in range(10):
        optimizer.step()
    members(optimizer)[1].grad = torch.stack([torch.ones(7)] * 2, 1)[:, 0]  # needs care
    optimizer.step()
    assert sys.getrefcount(grad) == count


def test_a_forked_child_steps_on(reader: str) -> None:
    """Forked while another thread holds the optimizer's lock; and with a plan that was parallel in the parent."""
    code = """
        import os, signal, threading, time, torch, fastadam.torch
        params = [torch.nn.Parameter(torch.ones(400_000)), torch.nn.Parameter(torch.ones(3))]
        optimizer = fastadam.torch.Adam(params)
        optimizer.threads = 2
        for p in params: p.grad = torch.ones_like(p)
        optimizer.step(); optimizer.step()
        held, done = threading.Event(), threading.Event()
        def hold():
            with optimizer._memo.guard.lock:
                held.set(); done.wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            optimizer.step(); optimizer.step()
            os._exit(0 if optimizer.state[params[0]]["step"].item() == 4 else 1)
        _, status = os.waitpid(child, 0)
        done.set()
        assert status == 0, status
        optimizer.step()
        print(optimizer.state[params[0]]["step"].item())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.returncode, run.stdout) == (0, "3.0\n"), run.stderr
