"""Averages of the parameters in `fastadam.Adam`, and evaluation with them."""

from __future__ import annotations

import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastadam
from fastadam.step.after import weight_at
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.strategies import seeds

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (3000,), (0,)]
DTYPES = [np.float32, np.float64, np.complex64]
NAMES = ["a", "b", "c", "d", "e"]


def drawn(seed: int, dtype: Any = np.float32) -> list[Any]:
    return random_arrays(SHAPES, dtype, seed)


def make(layout: str, dtype: Any = np.float32, **settings: Any) -> tuple[fastadam.Adam, list[Any]]:
    """Return an optimizer over the same numbers in some layout, and its arrays."""
    arrays = drawn(100, dtype)
    given: Any = dict(zip(NAMES, arrays, strict=True))
    if layout == "packed":
        given = fastadam.pack(given)
        arrays = list(given.params.values())
    elif layout == "objects":
        given = {name: fastadam.Parameter(array) for name, array in given.items()}
    return fastadam.Adam(given, **{"lr": 0.1, **settings}), arrays


def follow(averages: list[Any], arrays: list[Any], weight: float) -> None:
    for ema, param in zip(averages, arrays, strict=True):
        real = param.real.dtype.type
        ema[...] = param if real(weight) == 1 else ema + real(weight) * (param - ema)


LAYOUTS = ["in place", "packed", "objects"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20)
@given(seeds, st.booleans(), st.lists(st.sets(st.sampled_from(NAMES)), min_size=1, max_size=5))
def test_averages_move_in_every_step(
    backend: str, layout: str, dtype: Any, seed: int, warms_up: bool, present: list[set[str]]
) -> None:
    """Also those of parameters without a gradient, of which some have never had one."""
    ours, arrays = make(layout, dtype, backend=backend, ema_decay=0.9, ema_warmup=warms_up)
    plain, others = make(layout, dtype, backend=backend)
    averages, steps = [array.copy() for array in arrays], [0] * len(arrays)
    for i, names in enumerate(present):
        grads = {
            name: grad if name in names else None for name, grad in zip(NAMES, drawn(seed + i, dtype), strict=True)
        }
        ours.step(grads)
        plain.step(grads)
        for k, name in enumerate(NAMES):
            follow(averages[k : k + 1], others[k : k + 1], weight_at(steps[k] + 1, 0.9, warms_up))
            steps[k] += name in names
            assert_same_bits(arrays[k], others[k], name)
            assert_same_bits(ours.ema[name], averages[k], f"average of {name}")
            assert_same_bits(ours.ema[k], averages[k])


def test_it_agrees_with_torchs_averaged_model() -> None:
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils

    model = torch.nn.Linear(7, 5).double()
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99))
    arrays = [param.detach().numpy() for param in model.parameters()]
    optimizer = fastadam.Adam(arrays, lr=0.05, ema_decay=0.99)
    rng = np.random.default_rng(0)
    for step in range(60):
        grads: list[Any] = [rng.standard_normal(array.shape) for array in arrays]
        if step % 3 == 1:
            grads[1] = None
        optimizer.step(grads)
        averaged.update_parameters(model)
        for i, theirs in enumerate(averaged.module.parameters()):
            np.testing.assert_allclose(optimizer.ema[i], theirs.detach().numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_change_places_with_the_parameters(backend: str, layout: str) -> None:
    optimizer, arrays = make(layout, backend=backend, ema_decay=0.5)
    for seed in range(3):
        optimizer.step(drawn(seed))
    before, params = snapshot(optimizer), [array.copy() for array in arrays]
    averages = [optimizer.ema[i].copy() for i in range(len(arrays))]

    class BodyError(Exception):
        pass

    def look() -> None:
        for array, average in zip(arrays, averages, strict=True):
            assert_same_bits(np.asarray(array), average)

    with optimizer.averaged():
        look()
        with pytest.raises(RuntimeError, match="averaged was called within"), optimizer.averaged():
            pass
        look()
    assert_same_state(snapshot(optimizer), before)
    with contextlib.suppress(BodyError), optimizer.averaged():
        look()
        raise BodyError
    assert_same_state(snapshot(optimizer), before)
    for array, param in zip(arrays, params, strict=True):
        assert_same_bits(array, param)
    optimizer.step(drawn(4))


def test_nothing_is_stepped_changed_or_saved_meanwhile(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    optimizer, _ = make("packed", ema_decay=0.5)
    optimizer.step(drawn(1))
    saved, before = optimizer.state_dict(), snapshot(optimizer)
    called = {
        "step": lambda: optimizer.step(drawn(2)),
        "state_dict": optimizer.state_dict,
        "load_state_dict": lambda: optimizer.load_state_dict(saved),
        "add_param_group": lambda: optimizer.add_param_group({"params": {"more": np.ones(2)}}),
        "save": lambda: fastadam.save(tmp_path / "run.safetensors", optimizer),
        "setting ema_decay": lambda: setattr(optimizer, "ema_decay", None),
        "state_dict ": lambda: copy.deepcopy(optimizer),
    }
    with optimizer.averaged():
        for what, call in called.items():
            with pytest.raises(RuntimeError, match=rf"{what.strip()}.* was called within a block of"):
                call()
    assert_same_state(snapshot(optimizer), before)
    for call in called.values():
        call()


def test_a_block_that_is_never_left_gives_the_numbers_back_when_it_is_dropped() -> None:
    optimizer, _ = make("in place", ema_decay=0.5)
    for seed in range(2):
        optimizer.step(drawn(seed))
    before = snapshot(optimizer)
    block = optimizer.averaged()
    block.__enter__()
    assert not np.array_equal(optimizer.ema["a"], before["ema 0.0"])
    del block
    assert_same_state(snapshot(optimizer), before)
    optimizer.step(drawn(2))


def test_arrays_that_cannot_be_written_are_refused_on_the_way_in_and_given_back_on_the_way_out() -> None:
    arrays = [np.ones(3), np.zeros(2)]
    optimizer = fastadam.Adam(arrays, ema_decay=0.5)
    optimizer.step([np.ones(3), np.ones(2)])
    optimizer.step([np.ones(3), np.ones(2)])
    before = snapshot(optimizer)
    arrays[1].flags.writeable = False
    with pytest.raises(ValueError, match="parameter 1 is read-only"), optimizer.averaged():
        pass
    assert_same_state(snapshot(optimizer), before)
    arrays[1].flags.writeable = True
    with optimizer.averaged():
        arrays[1].flags.writeable = False
    assert_same_state(snapshot(optimizer), before)


def test_switched_on_in_mid_training_they_begin_as_the_parameters() -> None:
    optimizer, arrays = make("in place")
    assert len(optimizer.ema) == 0
    with pytest.raises(KeyError, match="set ema_decay"):
        optimizer.ema["a"]
    with pytest.raises(ValueError, match="set ema_decay"):
        optimizer.averaged()
    optimizer.step(drawn(0))
    optimizer.ema_decay = 0.75
    averages = [array.copy() for array in arrays]
    for i, average in enumerate(averages):
        assert_same_bits(optimizer.ema[i], average)
    optimizer.step(drawn(1))
    follow(averages, arrays, 0.25)
    optimizer.ema_decay = 0.5
    optimizer.step(drawn(2))
    follow(averages, arrays, 0.5)
    for i, average in enumerate(averages):
        assert_same_bits(optimizer.ema[i], average)
    optimizer.ema_decay = None
    assert len(optimizer.ema) == 0
    assert "ema" not in optimizer.state["a"]
    optimizer.step(drawn(3))
    optimizer.ema_decay = 0.5
    assert_same_bits(optimizer.ema["d"], arrays[3])
    with pytest.raises(ValueError, match="shares memory with ema of parameter 'a' and its group"):
        optimizer.step([*drawn(4)[:3], optimizer.ema["d"], drawn(4)[4]])
    optimizer.step(drawn(4))


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan, "0.9", True, [0.9]])
def test_wrong_settings_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="ema_decay must be"):
        fastadam.Adam(np.ones(2), ema_decay=wrong)
    optimizer = fastadam.AdamW(np.ones(2), ema_decay=0.5)
    with pytest.raises((TypeError, ValueError), match="ema_decay must be"):
        optimizer.ema_decay = wrong
    with pytest.raises(TypeError, match="ema_warmup must be True or False"):
        optimizer.ema_warmup = 1
    assert (optimizer.ema_decay, optimizer.ema_warmup, len(optimizer.ema)) == (0.5, False, 1)


@pytest.mark.parametrize("kind", [fastadam.Adam, fastadam.AdamW])
def test_a_warm_up_of_nothing_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="ema_warmup=True needs ema_decay, such as ema_decay=") as refused:
        kind(np.ones(2), ema_warmup=True)
    remedy = str(refused.value).partition("such as ")[2].partition(";")[0]
    optimizer = eval(f"kind(np.ones(2), ema_warmup=True, {remedy})", {"kind": kind, "np": np})
    optimizer.ema_decay = None  # for a while
    for twin in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (twin.ema_decay, twin.ema_warmup) == (None, True)
        twin.ema_decay = 0.5
        assert (twin.ema_decay, twin.ema_warmup, len(twin.ema)) == (0.5, True, 1)


def test_they_are_found_by_every_key() -> None:
    flat = fastadam.pack({"w": np.ones((2, 2)), "b": np.zeros(2)})
    optimizer = fastadam.Adam(flat, ema_decay=0.5)
    optimizer.step(np.ones(6))
    optimizer.add_param_group({"params": {"more": fastadam.Parameter(np.ones(3))}})
    more = optimizer.param_groups[1]["params"][0]
    assert list(optimizer.ema) == [0, 1, 2]
    for key in ("w", 0, flat.params["w"]):
        assert_same_bits(optimizer.ema[key], flat.params["w"][...].view(np.ndarray))
    for key in ("more", 2, more):
        assert_same_bits(optimizer.ema[key], np.ones(3))
    for key in (flat, flat.param):
        assert optimizer.ema[key].shape == (6,)
        assert np.shares_memory(optimizer.ema[key], optimizer.ema["b"])
    assert np.shares_memory(optimizer.state["w"]["ema"], optimizer.ema["w"])
    for key in ("x", 3, -1, None, np.ones(3)):
        with pytest.raises(KeyError):
            optimizer.ema[key]
    assert "more" in repr(optimizer.ema) or "2:" in repr(optimizer.ema)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "state dict", "file"])
def test_copies_and_files_carry_them(layout: str, how: str, tmp_path: Path) -> None:
    optimizer, arrays = make(layout, ema_decay=0.8, ema_warmup=True)
    optimizer.step([drawn(0)[0], None, None, drawn(0)[3], None])
    optimizer.step([drawn(1)[0], None, None, None, None])
    if how in ("state dict", "file"):
        other, others = make("in place", ema_decay=0.8, ema_warmup=True)
        if how == "file":
            pytest.importorskip("safetensors")
            fastadam.save(tmp_path / "run.safetensors", optimizer)
            fastadam.load(tmp_path / "run.safetensors", other)
        else:
            for mine, theirs in zip(others, arrays, strict=True):
                mine[...] = theirs
            other.load_state_dict(optimizer.state_dict())
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(optimizer))
    else:
        other = {"copy": copy.copy, "deepcopy": copy.deepcopy}[how](optimizer)
    assert (other.ema_decay, other.ema_warmup) == (0.8, True)
    assert_same_state(snapshot(other), snapshot(optimizer))
    if how != "copy":
        for each in (optimizer, other):
            each.step(dict(zip(NAMES, drawn(2), strict=True)))
        assert_same_state(snapshot(other), snapshot(optimizer))


def test_a_state_without_averages_begins_them_and_one_with_them_is_not_dropped_silently(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    without, arrays = make("in place", backend="numpy")
    without.step(drawn(0))
    path = tmp_path / "run.safetensors"
    fastadam.save(path, without)
    ours, own = make("packed", ema_decay=0.5)
    ours.step(drawn(1))
    ours.load_state_dict(without.state_dict())
    for i, array in enumerate(own):
        assert_same_bits(ours.ema[i], np.asarray(array), "as the parameters are, which a state dict has not")
    fastadam.load(path, ours)
    for i, array in enumerate(arrays):
        assert_same_bits(ours.ema[i], array, "as the parameters are in the file")
    ours.step(drawn(2))
    fastadam.save(path, ours)
    before = snapshot(without)
    for load in (lambda: fastadam.load(path, without), lambda: without.load_state_dict(ours.state_dict())):
        with pytest.raises(ValueError, match=r"averages .* does not keep; set ema_decay"):
            load()
        assert_same_state(snapshot(without), before)
    without.ema_decay = 0.9
    fastadam.load(path, without)
    assert_same_bits(without.ema["d"], ours.ema["d"])
    without.ema_decay = None
    without.step(drawn(3))


def test_a_skipped_step_moves_no_average() -> None:
    optimizer, _ = make("packed", ema_decay=0.5, skip_nonfinite=True)
    optimizer.step(drawn(0))
    before = snapshot(optimizer)
    bad = drawn(1)
    bad[0][0] = np.nan
    optimizer.step(bad)
    assert optimizer.skipped_steps == 1
    assert_same_state(snapshot(optimizer), before)


def test_a_parameter_that_was_exchanged_is_noticed_without_a_gradient(backend: str) -> None:
    arrays = [np.ones(4), np.ones(4)]
    optimizer = fastadam.Adam(arrays, ema_decay=0.5, backend=backend)
    optimizer.step([np.ones(4), None])
    arrays[1].dtype = np.dtype(np.int64)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="memory or dtype of parameter 1 was exchanged"):
        optimizer.step([np.ones(4), None])
    assert_same_state(snapshot(optimizer), before)
    arrays[1].dtype = np.dtype(np.float64)
    arrays[1].flags.writeable = False  # it is only read
    optimizer.step([np.ones(4), None])
