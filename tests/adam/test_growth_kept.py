"""What stays with parameters that change size: state on disk, memory, nestings, counters of rows, checkpoints."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.adam.growing import (
    LAYOUTS,
    anew,
    hold,
    numbers,
    same,
    small,
    values_of,
)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="state_path needs posix_fallocate")
@pytest.mark.parametrize("options", [{}, {"state_dtype": "int8", "amsgrad": True}, {"ema_decay": 0.9}])
def test_state_on_disk_moves_too_and_the_file_does_not_grow_for_ever(
    backend: str, options: dict[str, Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    start = numbers(rng, (3000, 70), np.float32)
    path = tmp_path / "state"
    both = [
        fastadam.Adam([start.copy(), np.ones(5, np.float32)], backend=backend, **more, **options)
        for more in ({"state_path": path}, {})
    ]
    sizes = []
    for _ in range(12):
        shape = both[0].param_groups[0]["params"][0].shape
        grads = [numbers(rng, shape, np.float32), numbers(rng, (5,), np.float32)]
        keep = rng.permutation(shape[0])[: shape[0] - 100]
        for optimizer in both:
            optimizer.step(grads)
            optimizer.resize(0, keep=keep, grow=keep[:100])
        same(*both)
        gc.collect()
        sizes.append(path.stat().st_size)
    assert max(sizes) <= 2 * sizes[0] + (1 << 16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_old_arrays_are_freed_at_once_and_not_written_to(backend: str, layout: str) -> None:
    rng = np.random.default_rng(1)
    optimizer = fastadam.Adam(
        hold(layout, [numbers(rng, (300, 7), np.float64) for _ in range(2)]), backend=backend
    )
    for _ in range(30):
        values = values_of(optimizer)
        other = anew(optimizer, backend, values, optimizer.state_dict())
        grads = [numbers(rng, value.shape, value.dtype) for value in values]
        other.step(grads)
        names = optimizer.param_groups[0].get("param_names")
        optimizer.step(dict(zip(names, grads, strict=True)) if names else grads)
        same(optimizer, other)
        (group,) = optimizer._groups
        ref = weakref.ref(group.moments["exp_avg"][group.members[0].buffer_key])
        old = weakref.ref(group.members[1].owner)
        del group
        optimizer.resize(1, keep=rng.permutation(values[1].shape[0])[:250], grow=rng.integers(0, 250, 60))
        gc.collect()
        assert ref() is None
        assert old() is None
        litter = [np.full(size, 7.0) for size in (300 * 7, 310 * 7, 600 * 7) for _ in range(5)]
        del litter


def test_all_in_a_buffer_is_reset_by_the_buffer() -> None:
    flat = fastadam.pack([np.ones(2), np.ones(3)])
    optimizer = fastadam.Adam([{"params": flat}, {"params": [np.ones(2)]}])
    optimizer.step([np.ones(2), None, np.ones(2)])
    optimizer.reset([flat])
    assert list(optimizer.state) == [2]


def test_groups_by_name_leave_the_nesting_of_the_others(backend: str) -> None:
    params = {"layers": [{"w": np.ones((2, 2)), "b": np.ones(2)}, {"b": np.ones(1)}], "head": {"w": np.ones(3)}}
    optimizer = fastadam.Adam([{"params": params, "lr": {"*": 0.5, "*.b": 0.1}}], backend=backend)
    optimizer.add_param_group({"params": {"more": np.ones(1)}})
    number = next(i for i, each in enumerate(optimizer.param_groups) if each["lr"] == 0.1)
    optimizer.remove_param_group(number)
    grads = {"layers": [{"w": np.ones((2, 2))}], "head": {"w": np.ones(3)}, "more": np.ones(1)}
    for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        each.step(grads)
        assert set(each.param_groups[0]["param_names"]) == {"layers.0.w", "head.w"}
        each.step({"layers.0.w": np.ones((2, 2)), "head.w": np.ones(3), "more": None})
        with pytest.raises(ValueError, match="unexpected"):
            each.step({**grads, "layers": [{"w": np.ones((2, 2)), "b": np.ones(2)}]})
    assert params["head"]["w"][0] < 1
    assert (params["layers"][0]["b"] == 1).all()
    params["layers"][1]["b"] = np.zeros(1)  # not trained any more, so that it may be another
    optimizer.step(grads)
    params["head"]["w"] = np.zeros(3)
    with pytest.raises(ValueError, match="was exchanged"):
        optimizer.step(grads)


def test_what_was_removed_can_be_given_again_and_its_container_is_let_go() -> None:
    frozen, other = {"w": np.ones((2, 2))}, {"v": np.ones(2)}
    optimizer = fastadam.Adam([{"params": frozen}, {"params": other}])
    optimizer.step({"w": np.ones((2, 2)), "v": np.ones(2)})
    group = optimizer.remove_param_group(0)
    assert group["params"][0] is frozen["w"]
    frozen["w"] = np.zeros((2, 2))
    optimizer.step({"v": np.ones(2)})
    optimizer.add_param_group({"params": frozen})
    optimizer.step({"w": np.ones((2, 2)), "v": np.ones(2)})
    assert optimizer.state["w"]["step"] == 1
    assert optimizer.state["v"]["step"] == 3


def test_counters_of_rows_move_with_them() -> None:
    optimizer = small()
    (group,) = optimizer._groups
    group.own_steps[0] = np.array([5, 6, 7, 8])
    optimizer.resize("w", keep=[3, 0, 3], grow=[1, 2])
    (group,) = optimizer._groups
    assert group.own_steps[0].tolist() == [8, 5, 8, 0, 0]
    assert optimizer.state["w"]["step"] == 1
    optimizer.reset("s")
    assert list(group.own_steps) == [0]
    optimizer.reset()
    assert not group.own_steps


def test_a_checkpoint_is_of_the_parameters_that_there_are(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    def make() -> Any:
        params = {"a": {"w": np.ones((6, 2)), "b": np.ones(3)}, "c": np.ones(2)}
        return fastadam.Adam([{"params": params}, {"params": {"d": np.ones(2)}}, {"params": {"e": np.ones(4)}}])

    first = make()
    first.step(
        {name: np.ones(value.shape) for name, value in zip("wbcde", values_of(first), strict=True)}.values()
    )
    first.resize("a.w", keep=[5, 0], grow=[3])
    first.remove_param_group(1)
    fastadam.save(tmp_path / "run", first)
    second = make()
    with pytest.raises(ValueError, match="groups"):
        fastadam.load(tmp_path / "run", second)
    second.resize("a.w", keep=[0, 1, 2])
    second.remove_param_group(1)
    fastadam.load(tmp_path / "run", second)
    same(first, second)
    assert first.state_dict()["param_groups"][1]["param_names"] == ["e"]
