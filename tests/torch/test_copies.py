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
