"""Copies and pickles of optimizers of fastadam.torch go on as torch's."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")


import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Twins,
    assert_close,
    assert_same_snapshot,
    give_grads,
    members,
    params,
    snapshot,
    two_groups,
)

# Copies and files.


def roundtrip(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("how", [copy.deepcopy, roundtrip], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("stepped", [0, 3])
@pytest.mark.parametrize("name", NAMES)
def test_copies(name: str, stepped: int, how: Callable[[Any], Any]) -> None:
    twins = Twins(two_groups, name, amsgrad=True).steps(stepped)
    originals = [[side.optimizer, snapshot(side.optimizer)] for side in (twins.ours, twins.theirs)]
    for side in (twins.ours, twins.theirs):
        side.optimizer = how(side.optimizer)
    assert type(twins.ours.optimizer) is getattr(fastadam.torch, name)
    twins.steps(3).check()
    for optimizer, before in originals:
        assert_same_snapshot(snapshot(optimizer), before)
        give_grads(optimizer, 5)
        optimizer.step()
        optimizer.step()
    for a, b in zip(*(members(optimizer) for optimizer, _ in originals), strict=True):
        assert_close(a, b, "parameter of the original")
    twins.check()


def test_a_model_copied_with_its_optimizer() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        given, optimizer = copy.deepcopy((side.params, side.optimizer))
        assert all(a is b for a, b in zip(given, members(optimizer), strict=True))
        side.optimizer = optimizer
    twins.steps(2).check()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, roundtrip], ids=["copy", "deepcopy", "pickle"])
def test_copies_keep_threads_and_backend(how: Callable[[Any], Any]) -> None:
    optimizer = fastadam.torch.Adam(params(*FEW_SHAPES))
    optimizer.threads = 2
    optimizer.backend = "numpy"
    copied = how(optimizer)
    assert (copied.threads, copied.backend) == (2, "numpy")


def test_saved_with_weights_only() -> None:
    twins = Twins(two_groups, amsgrad=True).steps(3)
    for side in (twins.ours, twins.theirs):
        file = io.BytesIO()
        torch.save(side.optimizer.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        side.optimizer = type(side.optimizer)(two_groups(), lr=0.7)
        side.optimizer.load_state_dict(loaded)
    twins.each(lambda side: [group.pop("foreach") for group in side.optimizer.param_groups])
    twins.each(lambda side: [group.update(foreach=False) for group in side.optimizer.param_groups])
    twins.steps(3).check()


def test_a_pickle_of_an_old_version() -> None:
    """Which has neither hooks nor newer options."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        old = side.optimizer.__getstate__()
        old["defaults"] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
        group = {key: old["param_groups"][0][key] for key in ("params", *old["defaults"])}
        old["param_groups"] = [group]
        for state in old["state"].values():
            state["step"] = int(state["step"])
        new = type(side.optimizer).__new__(type(side.optimizer))
        new.__setstate__(old)
        side.optimizer = new
        group["foreach"] = False
    twins.steps(2).check()


# Copies that go past the optimizer's own methods.


class Whole(fastadam.torch.Adam):
    """A subclass whose state is all that it has."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class HalfWhole(fastadam.torch.Adam):
    """A subclass that gives all that it has, and leaves the rest to its base."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, roundtrip], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("kind", [Whole, HalfWhole])
def test_subclasses_that_copy_their_dict(kind: Any, how: Callable[[Any], Any]) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES))
    twins.ours.optimizer = kind(twins.ours.params)
    twins.ours.optimizer.threads = 2
    twins.ours.optimizer.backend = "numpy"
    twins.steps(2)
    twins.each(lambda side: setattr(side, "optimizer", how(side.optimizer)))
    copied = twins.ours.optimizer
    assert (type(copied), copied.threads, copied.backend) == (kind, 2, "numpy")
    twins.steps(3).check()


@pytest.mark.parametrize("how", [copy.deepcopy, roundtrip], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("stepped", [0, 2])
def test_all_that_an_optimizer_has(stepped: int, how: Callable[[Any], Any]) -> None:
    """`vars(optimizer)`, beside what torch's has: and an optimizer can be made of it."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(stepped)
    twins.ours.optimizer.backend = "numpy"
    for side in (twins.ours, twins.theirs):
        copied = how(vars(side.optimizer))
        assert copied.keys() == vars(side.optimizer).keys()
        side.optimizer = object.__new__(type(side.optimizer))
        side.optimizer.__dict__.update(copied)
    assert twins.ours.optimizer.backend == "numpy"
    twins.steps(2).check()


class Wrapper:
    """Wraps an optimizer as Lightning does: its class is made of the optimizer's, and has the same attributes."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = dict(optimizer.__dict__)
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {})
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Forwarding(fastadam.torch.Adam):
    """A subclass that has nothing of its own, and asks the optimizer within for what it lacks."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__["optimizer"] = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [Wrapper, Forwarding])
def test_settings_through_wrappers(wrap: Any) -> None:
    """Read and set, on either of the two, after steps and before."""
    optimizer = fastadam.torch.Adam(params(*FEW_SHAPES))
    wrapper = wrap(optimizer)
    for _ in range(2):
        optimizer.backend, optimizer.threads = "numpy", 2
        assert (wrapper.backend, wrapper.threads) == ("numpy", 2)
        wrapper.backend, wrapper.threads = "auto", 3
        assert (optimizer.backend, optimizer.threads) == ("auto", 3)
        give_grads(optimizer, 1)
        wrapper.step()
        wrapper.step()
        assert wrapper.last_step == optimizer.last_step == "fastadam"
    assert optimizer.state[members(optimizer)[0]]["step"] == 4


# Loads that fail.

SPOILED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no counter": lambda saved: saved["state"][1].pop("step"),
    "a counter that is a str": lambda saved: saved["state"][1].update(step="two"),
    "a state that is a list": lambda saved: saved["state"].update({1: [torch.ones(3)]}),
    "one group more": lambda saved: saved["param_groups"].append(saved["param_groups"][0]),
    "groups without params": lambda saved: saved["param_groups"][0].pop("params"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", SPOILED)
def test_a_load_that_fails_leaves_all_as_it_was(name: str, what: str) -> None:
    optimizer = getattr(fastadam.torch, name)(two_groups(), lr=0.3)
    give_grads(optimizer, 1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.7
    SPOILED[what](saved)
    before, state, groups = snapshot(optimizer), optimizer.state, optimizer.param_groups
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is torch's affair
        optimizer.load_state_dict(saved)
    assert optimizer.state is state
    assert optimizer.param_groups is groups
    assert groups[0]["lr"] == 0.3
    assert_same_snapshot(snapshot(optimizer), before)
    optimizer.step()


def test_a_load_of_whole_numbers_that_fails_spoils_nothing_of_what_was_loaded() -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    saved = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": optimizer.state_dict()["param_groups"]}
    before = copy.deepcopy(saved)
    with pytest.raises(KeyError):
        optimizer.load_state_dict(saved)
    assert saved.keys() == before.keys()
    assert saved["param_groups"] == before["param_groups"]
