"""Our optimizers and clipping functions under torch's names: `patched`, `patch` and `unpatch`."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402 - where torch is missing, this module is skipped
from fastadam.torch import clipping, originals, patching  # noqa: E402
from tests.support.processes import needs_fork, python  # noqa: E402

FUNCTIONS = ("clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_")
# Where torch has them, and ours for each.
PLACES = [
    *[("torch.optim", name, getattr(face, name)) for name in ("Adam", "AdamW")],
    ("torch.optim.adam", "Adam", face.Adam),
    ("torch.optim.adamw", "AdamW", face.AdamW),
    *[("torch.nn.utils", name, getattr(face, name)) for name in FUNCTIONS],
    ("torch.nn.utils.clip_grad", "clip_grad_norm_", face.clip_grad_norm_),
]
TORCHS = [getattr(importlib.import_module(module), name) for module, name, _ in PLACES]


def there() -> list[Any]:
    return [getattr(importlib.import_module(module), name) for module, name, _ in PLACES]


def ours_are_there() -> bool:
    found = there()
    assert found in ([ours for *_, ours in PLACES], TORCHS), "all of them, or none"
    return found != TORCHS


@pytest.fixture(autouse=True)
def _torchs_own_before_and_after() -> Iterator[None]:
    assert not ours_are_there()
    homes = [each.__module__ for each in TORCHS]
    yield
    assert not ours_are_there()
    assert [each.__module__ for each in TORCHS] == homes


def model_with_gradients() -> Any:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    model(torch.ones(2, 4)).square().sum().backward()
    return model


def test_all_of_torchs_names_are_covered() -> None:
    exchanged = {(place.module.__name__, place.name): place.ours for place in patching._PLACES}
    assert exchanged == {(module, name): ours for module, name, ours in PLACES}
    assert [getattr(originals, name) for name in originals.__all__] == [
        getattr(torch.optim if name.startswith("Adam") else torch.nn.utils, name) for name in originals.__all__
    ]


def test_within_a_context_ours_are_there() -> None:
    with face.patched():
        assert ours_are_there()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_torchs_are_back_when_it_raises(error: type[BaseException]) -> None:
    with pytest.raises(error), face.patched(), face.patched():
        raise error


def test_contexts_may_be_nested_and_entered_again() -> None:
    context = face.patched()
    with context:
        with context, face.patched():
            assert ours_are_there()
        assert ours_are_there()
    assert not ours_are_there()
    with context:
        assert ours_are_there()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_contexts_may_end_in_any_order(first: int) -> None:
    contexts = [face.patched() for _ in range(3)]
    for each in contexts:
        each.__enter__()
    contexts.append(contexts.pop(first))
    for each in contexts:
        assert ours_are_there()
        each.__exit__(None, None, None)


def test_as_a_decorator() -> None:
    @face.patched()
    def inside() -> bool:
        return ours_are_there()

    assert inside()
    assert inside()


def test_patching_twice_and_unpatching_once() -> None:
    face.patch()
    face.patch()
    assert ours_are_there()
    face.unpatch()
    assert not ours_are_there()
    face.unpatch()


def test_unpatching_without_having_patched_does_nothing() -> None:
    face.unpatch()
    with face.patched():
        assert ours_are_there()


def test_a_context_within_a_patch_leaves_the_patch() -> None:
    face.patch()
    with face.patched():
        pass
    assert ours_are_there()
    face.unpatch()


def test_a_context_outlives_an_unpatch() -> None:
    with face.patched():
        face.patch()
        face.unpatch()
        assert ours_are_there()
        face.unpatch()
        assert ours_are_there()


def test_a_context_that_ends_after_a_patch_leaves_it() -> None:
    with face.patched():
        face.patch()
    assert ours_are_there()
    face.unpatch()


# Others, who patch as well.


class Theirs(originals.Adam):  # type: ignore[misc]
    """An optimizer of somebody else's."""


def test_what_stood_there_before_is_put_back() -> None:
    with mock.patch.object(torch.optim, "Adam", Theirs):
        with face.patched():
            assert torch.optim.Adam is face.Adam
        assert torch.optim.Adam is Theirs


def test_what_others_put_there_meanwhile_is_left_and_said() -> None:
    face.patch()
    other = mock.patch.object(torch.optim, "Adam", Theirs)
    other.start()
    with pytest.warns(RuntimeWarning, match=r"^torch\.optim\.Adam: something else was put there") as caught:
        face.unpatch()
    assert caught[0].filename == __file__
    assert torch.optim.Adam is Theirs
    assert torch.optim.AdamW is originals.AdamW
    other.stop()
    assert torch.optim.Adam is face.Adam, "which they have put back"
    face.unpatch()  # as the warning says


def test_what_others_put_there_meanwhile_is_left_by_a_context() -> None:
    with pytest.warns(RuntimeWarning, match="clip_grad_norm_: something else") as caught, face.patched():
        torch.nn.utils.clip_grad_norm_ = wrapper = lambda *args: None
    assert caught[0].filename == __file__
    assert torch.nn.utils.clip_grad_norm_ is wrapper
    torch.nn.utils.clip_grad_norm_ = originals.clip_grad_norm_


def test_torchs_own_put_back_by_others_are_no_cause_for_a_warning() -> None:
    with warnings.catch_warnings(), face.patched():
        warnings.simplefilter("error")
        torch.optim.Adam = originals.Adam


def test_others_within_others_leave_no_trace() -> None:
    """Each side puts back what it found, in the order in which it came."""
    with face.patched(), mock.patch.object(torch.optim, "Adam", Theirs), face.patched():
        assert torch.optim.Adam is Theirs


# What works meanwhile.


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_optimizers_are_ours_and_torchs(name: str) -> None:
    with face.patched():
        optimizer = getattr(torch.optim, name)(model_with_gradients().parameters(), lr=0.1)
        optimizer.step()
        for each in (getattr(torch.optim, name), torch.optim.Optimizer, getattr(originals, name)):
            assert isinstance(optimizer, each)
        assert issubclass(torch.optim.AdamW, torch.optim.Adam)
    assert type(optimizer) is getattr(face, name)
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert optimizer.last_step == "fastadam"


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_copies_and_pickles_of_ours(name: str, where: str) -> None:
    with face.patched():
        optimizer = getattr(torch.optim, name)(model_with_gradients().parameters(), lr=0.1)
        optimizer.step()
        made = pickle.dumps(optimizer)
        if where == "inside":
            again = [pickle.loads(made), copy.deepcopy(optimizer)]
    if where == "outside":
        again = [pickle.loads(made), copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    assert {type(each) for each in again} == {getattr(face, name)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_copies_and_pickles_of_torchs_own(name: str, protocol: int) -> None:
    """Those that were made before are named where they are found, inside and outside."""
    optimizer = getattr(torch.optim, name)(model_with_gradients().parameters(), lr=0.1)
    optimizer.step()
    with face.patched():
        optimizer.step()
        made = pickle.dumps(optimizer, protocol)
        assert type(pickle.loads(made)) is type(optimizer)
        assert type(copy.deepcopy(optimizer)) is type(optimizer)
    assert type(pickle.loads(made)) is type(optimizer)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_can_be_pickled(name: str) -> None:
    theirs = getattr(torch.nn.utils, name)
    with face.patched():
        for each in (theirs, getattr(torch.nn.utils, name)):
            assert pickle.loads(pickle.dumps(each)) is each
    assert pickle.loads(pickle.dumps(theirs)) is theirs


def test_torchs_pickles_are_read_as_ours_inside() -> None:
    """As the name says; the state goes on."""
    optimizer = torch.optim.AdamW(model_with_gradients().parameters(), lr=0.1)
    optimizer.step()
    made = pickle.dumps(optimizer)
    with face.patched():
        again = pickle.loads(made)
    assert type(again) is face.AdamW
    for param in again.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    again.step()
    assert {state["step"].item() for state in again.state.values()} == {2}


def test_a_class_over_torchs_own_works_inside() -> None:
    class Mine(torch.optim.Adam):  # type: ignore[misc]
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **{"lr": 0.5, **options})

        def step(self, closure: Any = None) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)

    twins = [model_with_gradients(), model_with_gradients()]
    before = Mine(twins[0].parameters())
    with face.patched():
        optimizer = Mine(twins[1].parameters())
        for each in (before, optimizer):
            each.step()
            each.step()
    assert optimizer.calls == 2
    assert isinstance(optimizer, torch.optim.Adam)
    for a, b in zip(*(twin.parameters() for twin in twins), strict=True):
        assert torch.equal(a, b)


def test_a_class_made_inside_is_over_ours() -> None:
    with face.patched():

        class Mine(torch.optim.AdamW):  # type: ignore[misc]
            def __init__(self, params: Any) -> None:
                super().__init__(params, lr=0.1)

        Mine(model_with_gradients().parameters()).step()
    optimizer = Mine(model_with_gradients().parameters())
    optimizer.step()
    assert optimizer.last_step == "fastadam"


def test_steps_that_are_handed_over_reach_torchs_own() -> None:
    with face.patched():
        optimizer = torch.optim.Adam(model_with_gradients().parameters(), lr=0.1)
        optimizer.param_groups[0]["lr"] = -0.1
        optimizer.step()
    assert optimizer.last_step.startswith("torch: ")


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("patched", [False, True])
def test_clipping(patched: bool, norm_type: float) -> None:
    """Other norms are torch's work, which the function that stands in its place must find."""
    theirs, ours = model_with_gradients(), model_with_gradients()
    expected = originals.clip_grad_norm_(theirs.parameters(), 0.01, norm_type)
    grads = [param.grad for param in ours.parameters()]
    functions = {name: getattr(clipping, name) for name in FUNCTIONS}
    if patched:
        face.patch()
        functions = {name: getattr(torch.nn.utils, name) for name in FUNCTIONS}
    try:
        norm = functions["get_total_norm"](grads, norm_type)
        copies = model_with_gradients()
        functions["clip_grads_with_norm_"](copies.parameters(), 0.01, norm)
        found = functions["clip_grad_norm_"](ours.parameters(), 0.01, norm_type)
    finally:
        face.unpatch()
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(found, expected)
    for each in (ours, copies):
        for a, b in zip(each.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_clipping_what_is_sparse_or_elsewhere_is_handed_over() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    meta = torch.nn.Parameter(torch.ones(3, device="meta"))
    meta.grad = torch.ones_like(meta)
    param.grad = torch.ones(3)
    with face.patched():
        total = torch.ones(())
        torch.nn.utils.clip_grads_with_norm_([meta], 1.0, total)
        assert torch.nn.utils.get_total_norm([meta.grad]).is_meta
        assert torch.nn.utils.clip_grad_norm_([], 1.0) == 0
        with pytest.warns(FutureWarning, match="deprecated"):  # and is made of the other one
            assert torch.nn.utils.clip_grad_norm(param, 1.0) > 1.7


def test_in_a_compiled_function() -> None:
    def clip(grads: list[Any]) -> Any:
        return torch.nn.utils.get_total_norm(grads)

    with face.patched():
        compiled = torch.compile(clip, backend="eager")
        torch.testing.assert_close(compiled([torch.ones(4), torch.ones(5)]), torch.tensor(3.0))


# Threads and processes.


def test_threads() -> None:
    """Whoever is inside sees ours, whatever others do; in the end all is as before."""
    wrong, begin = list[str](), threading.Barrier(8)

    def work(i: int) -> None:
        begin.wait()
        for _ in range(200):
            with face.patched():
                if torch.optim.Adam is not face.Adam or torch.nn.utils.clip_grad_norm_ is not face.clip_grad_norm_:
                    wrong.append(f"thread {i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


@needs_fork
def test_a_child_that_was_forked_while_another_thread_patched() -> None:
    out = python(
        """
import os, signal, threading, torch, fastadam.torch
from fastadam.torch import patching
held, done = threading.Event(), threading.Event()
def hold():
    with patching._guard.lock:
        held.set(); done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    with fastadam.torch.patched():
        assert torch.optim.Adam is fastadam.torch.Adam
    os._exit(0)
print(os.waitpid(child, 0)[1])
done.set()
"""
    )
    assert out == "0\n"


def test_what_is_imported_inside_binds_ours(tmp_path: Any) -> None:
    (tmp_path / "library.py").write_text(
        "from torch.optim import Adam\nfrom torch.nn.utils import clip_grad_norm_\n"
    )
    code = """
import sys, fastadam.torch
sys.path.insert(0, sys.argv[1])
with fastadam.torch.patched():
    import library
print(library.Adam is fastadam.torch.Adam, library.clip_grad_norm_ is fastadam.torch.clip_grad_norm_)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "True True\n"
