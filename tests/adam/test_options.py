"""Options: of groups, edited between steps, given as schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastadam
from tests.adam.arrays import F32, assert_equal
from tests.support.bits import assert_same_bits, random_arrays

GROUP_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.3},
    {"betas": (0.5, 0.6)},
    {"eps": 0.1},
    {"weight_decay": 0.2},
    {"amsgrad": True},
    {"maximize": True},
    {"weight_decay": 0.2, "decoupled_weight_decay": True},
]


def test_each_group_has_its_own_options(backend: str) -> None:
    together = [np.full(5, 0.7) for _ in GROUP_OPTIONS]
    apart = [array.copy() for array in together]
    one = fastadam.Adam(
        [{"params": p, **o} for p, o in zip(together, GROUP_OPTIONS, strict=True)], lr=0.01, backend=backend
    )
    many = [
        fastadam.Adam(p, **{"lr": 0.01, **o}, backend="numpy") for p, o in zip(apart, GROUP_OPTIONS, strict=True)
    ]
    for seed in range(4):
        grads = random_arrays([(5,)] * len(apart), np.float64, seed)
        one.step(grads)
        for optimizer, grad in zip(many, grads, strict=True):
            optimizer.step(grad)
    assert_equal(together, apart)
    assert len({array.tobytes() for array in together}) == len(GROUP_OPTIONS)  # every option does something


@pytest.mark.parametrize("edit", GROUP_OPTIONS, ids=str)
def test_options_can_be_edited_between_steps(edit: dict[str, Any], backend: str) -> None:
    """After an edit in mid-training, steps go on as in an optimizer made with the new options from that state."""
    param, grads = np.linspace(-1, 1, 33), random_arrays([(33,)] * 4, np.float64, 5)
    optimizer = fastadam.Adam(param, backend=backend)
    for grad in grads[:2]:
        optimizer.step(grad)
    saved, expected = optimizer.state_dict(), param.copy()
    saved["param_groups"][0].update(edit)
    if edit.get("amsgrad"):
        saved["state"][0]["max_exp_avg_sq"] = np.zeros(33)
    other = fastadam.Adam(expected, backend="numpy")
    other.load_state_dict(saved)
    optimizer.param_groups[0].update(edit)
    for grad in grads[2:]:
        optimizer.step(grad)
        other.step(grad)
    assert_same_bits(param, expected)
    assert other.param_groups[0].items() >= edit.items()


def test_an_edit_is_seen_though_a_group_is_added_or_a_state_loaded_before_the_step(backend: str) -> None:
    param, expected = np.ones(2), np.ones(2)
    optimizer = fastadam.Adam(param, backend=backend)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.add_param_group({"params": np.ones(1)})
    optimizer.step([np.ones(2), None])
    fastadam.Adam(expected, lr=0.5).step(np.ones(2))
    assert_same_bits(param, expected)
    optimizer.param_groups[0]["lrate"] = 0.1
    optimizer.load_state_dict(fastadam.Adam([{"params": np.ones(2)}, {"params": np.ones(1)}]).state_dict())
    with pytest.raises(ValueError, match="unknown option 'lrate'"):
        optimizer.step([np.ones(2), None])


def test_add_param_group_in_mid_training(backend: str) -> None:
    old, new = np.ones(4), np.ones(3, F32)
    lone_old, lone_new = old.copy(), new.copy()
    optimizer = fastadam.Adam(old, backend=backend)
    references = [fastadam.Adam(lone_old, backend="numpy"), fastadam.Adam(lone_new, lr=0.5, backend="numpy")]
    optimizer.step(np.ones(4))
    references[0].step(np.ones(4))
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    for _ in range(2):
        optimizer.step([np.ones(4), np.full(3, 2, F32)])
        references[0].step(np.ones(4))
        references[1].step(np.full(3, 2, F32))
    assert_equal([old, new], [lone_old, lone_new])
    assert [optimizer.state[i]["step"] for i in (0, 1)] == [3, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5]


def test_a_schedule_follows_each_parameters_own_steps(backend: str) -> None:
    def schedule(step: int) -> float:
        return 0.1 / step

    params, plain = [np.ones(2), np.ones(2)], [np.ones(2), np.ones(2)]
    scheduled = fastadam.Adam(params, lr=schedule, backend=backend)
    by_hand = [fastadam.Adam(array, backend="numpy") for array in plain]
    for present in [(True, True), (True, False), (True, True)]:
        scheduled.step([np.ones(2) if there else None for there in present])
        for optimizer, there in zip(by_hand, present, strict=True):
            if there:
                taken = optimizer.state[0]["step"] if 0 in optimizer.state else 0
                optimizer.param_groups[0]["lr"] = schedule(int(taken) + 1)
                optimizer.step(np.ones(2))
    assert_equal(params, plain)


def test_adamw_is_adam_with_decoupled_decay(backend: str) -> None:
    a, b = np.full(3, 2.0), np.full(3, 2.0)
    fastadam.AdamW(a, backend=backend).step(np.ones(3))
    fastadam.Adam(b, weight_decay=1e-2, decoupled_weight_decay=True, backend=backend).step(np.ones(3))
    assert_same_bits(a, b)
    assert isinstance(fastadam.AdamW(a), fastadam.Adam)
    assert fastadam.AdamW(a).param_groups[0]["weight_decay"] == 1e-2


def test_defaults_are_torchs() -> None:
    group = fastadam.Adam(np.ones(1)).param_groups[0]
    del group["params"]
    assert group == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
        # Not torch's: all is kept and rounded as there.
        "state_dtype": None,
        "master_weights": False,
        "rounding": "nearest",
        "seed": 0,
    }
