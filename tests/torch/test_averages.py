"""Averages of the parameters of fastadam.torch: what AveragedModel has, in the pass of the step."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    NAMES,
    SHORT,
    Parameter,
    Tensor,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    dtype_name,
    error_of,
    give_grads,
    level,
    members,
    params,
    snapshot,
    take_care,
)

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (9000,), (0,)]
swa = torch.optim.swa_utils


def go(optimizer: Any, way: str) -> None:
    take_care(optimizer, way)
    optimizer.step()


def one(backend: str = "auto", dtype: Any = torch.float32, name: str = "Adam", **settings: Any) -> Any:
    optimizer = getattr(fastadam.torch, name)(params(*SHAPES, dtype=dtype), lr=0.1, **settings)
    optimizer.backend = backend
    return optimizer


def averages(optimizer: Any) -> list[Tensor]:
    return [optimizer.ema[param].clone() for param in members(optimizer)]


class Beside:
    """Averages of the parameters of an optimizer that has none, by torch."""

    def __init__(self, optimizer: Any, decay: float) -> None:
        self.model = torch.nn.ParameterList(members(optimizer))
        self.averaged = swa.AveragedModel(self.model, multi_avg_fn=swa.get_ema_multi_avg_fn(decay))

    def update(self) -> list[Tensor]:
        self.averaged.update_parameters(self.model)
        return list(self.averaged.module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_what_averaged_model_has(name: str, dtype: Any, way: str) -> None:
    """Also of parameters that have no gradient in some steps, or none at all."""
    ours, theirs = one(dtype=dtype, name=name, ema_decay=0.9), getattr(torch.optim, name)
    theirs = theirs(params(*SHAPES, dtype=dtype), lr=0.1, foreach=False)
    beside = Beside(theirs, 0.9)
    for step in range(9):
        for optimizer in (ours, theirs):
            give_grads(optimizer, step, lambda step, i: i == 2 or (step % 3 == 1 and i == 1) or step == 5)
        go(ours, way)
        theirs.step()
        expected = beside.update()
        for i, (found, wanted) in enumerate(zip(averages(ours), expected, strict=True)):
            assert_close(found, wanted, f"average {i}")
        assert ours.last_step == "fastadam"


@pytest.mark.parametrize("dtype", [*DTYPES, *SHORT], ids=dtype_name)
def test_the_same_bits_whichever_way(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any backend, in one call or with care, and as arrays have them; those of 16-bit numbers are float32."""
    found = []
    for backend in AVAILABLE:
        for how in ("in one call", "with care"):
            optimizer = one(backend, dtype, ema_decay=0.99, ema_warmup=True, max_grad_norm=1.0)
            for step in range(6):
                give_grads(optimizer, step, lambda step, i: step in (2, 3) and i == 1)
                go(optimizer, how)
            found.append([*averages(optimizer), *(param.detach().clone() for param in members(optimizer))])
    for each in found[1:]:
        for a, b in zip(found[0], each, strict=True):
            assert_same_bits(a, b)
    wanted = torch.float32 if dtype in SHORT else dtype
    assert {average.dtype for average in found[0][: len(SHAPES)]} == {wanted}


def test_the_bits_of_arrays() -> None:
    optimizer = one(ema_decay=0.9, ema_warmup=True)
    arrays = [param.detach().numpy().copy() for param in members(optimizer)]
    other = fastadam.Adam(arrays, lr=0.1, ema_decay=0.9, ema_warmup=True)
    for step in range(5):
        give_grads(optimizer, step)
        other.step([param.grad.numpy().copy() for param in members(optimizer)])
        optimizer.step()
    for i, param in enumerate(members(optimizer)):
        assert_same_bits(optimizer.ema[param], torch.from_numpy(np.asarray(other.ema[i])))


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: draw((40, 6)).t(),
    "with gaps": lambda: draw((40, 6))[:, ::2],
    "channels last": lambda: draw((2, 3, 4, 5)).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_parameters_of_any_layout(what: str) -> None:
    optimizer = fastadam.torch.Adam([Parameter(LAYOUTS[what]())], ema_decay=0.5)
    plain = fastadam.torch.Adam([Parameter(LAYOUTS[what]().contiguous())], ema_decay=0.5)
    for step in range(4):
        for each in (optimizer, plain):
            give_grads(each, step)
            each.step()
        assert_same_bits(averages(optimizer)[0], averages(plain)[0])
    (param,) = members(optimizer)
    param.data = param.data.contiguous()  # another layout in mid-training
    for each in (optimizer, plain):
        give_grads(each, 7)
        each.step()
    assert_same_bits(averages(optimizer)[0], averages(plain)[0])


def test_switched_on_and_off_in_mid_training(way: str) -> None:
    optimizer = one()
    for step in range(3):
        give_grads(optimizer, step)
        go(optimizer, way)
    assert len(optimizer.ema) == 0
    with pytest.raises(KeyError, match="set ema_decay"):
        optimizer.ema[members(optimizer)[0]]
    before = [param.detach().clone() for param in members(optimizer)]
    optimizer.ema_decay = 0.75
    give_grads(optimizer, 5)
    go(optimizer, way)
    for found, old, param in zip(averages(optimizer), before, members(optimizer), strict=True):
        assert_close(found, old + 0.25 * (param.detach() - old), "average")
    optimizer.ema_decay = None
    assert dict(optimizer.ema) == {}
    give_grads(optimizer, 6)
    go(optimizer, way)


def test_groups_that_are_added() -> None:
    optimizer = one(ema_decay=0.9)
    give_grads(optimizer, 1)
    optimizer.step()
    new = Parameter(draw((4,)))
    optimizer.add_param_group({"params": [new]})
    assert_same_bits(optimizer.ema[new], new)
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.step()
        if not step:
            assert_same_bits(optimizer.ema[new], new)
    assert not torch.equal(optimizer.ema[new], new)
    assert set(optimizer.ema) == set(members(optimizer))


def test_a_parameter_before_its_first_step_is_its_average() -> None:
    optimizer = one(ema_decay=0.9)
    param = members(optimizer)[0]
    with torch.no_grad():
        param.fill_(3.0)
    assert_same_bits(optimizer.ema[param], param)


def test_they_take_the_place_of_the_parameters_and_go() -> None:
    optimizer = one(ema_decay=0.5)
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.step()
    before, kept = snapshot(optimizer), averages(optimizer)

    def look() -> None:
        for param, average in zip(members(optimizer), kept, strict=True):
            assert_same_bits(param, average)
            assert_same_bits(optimizer.ema[param], average)

    with optimizer.averaged():
        look()
        for what in (
            optimizer.step,
            optimizer.averaged().__enter__,
            lambda: setattr(optimizer, "ema_decay", None),
        ):
            assert isinstance(error_of(what), RuntimeError)
        look()
    assert_same_snapshot(snapshot(optimizer), before)

    def fail() -> None:
        with optimizer.averaged():
            look()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_same_snapshot(snapshot(optimizer), before)
    block = optimizer.averaged()
    block.__enter__()
    del block
    gc.collect()
    assert_same_snapshot(snapshot(optimizer), before)
    give_grads(optimizer, 9)
    optimizer.step()
    with pytest.raises(ValueError, match="set ema_decay"):
        one().averaged().__enter__()


def copied_by_state(optimizer: Any) -> Any:
    other = one(ema_decay=0.9)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))
    level(optimizer, other)
    return other


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each)), copied_by_state], ids=range(3)
)
def test_copies_and_state_dicts_carry_them(copied: Callable[[Any], Any]) -> None:
    optimizer = one(ema_decay=0.9)
    for step in range(3):
        give_grads(optimizer, step, lambda step, i: i == 1)
        optimizer.step()
    other = copied(optimizer)
    assert (other.ema_decay, other.ema_warmup) == (0.9, False)
    for step in range(3):
        for a, b in zip(averages(optimizer), averages(other), strict=True):
            assert_same_bits(a, b)
        for each in (optimizer, other):
            give_grads(each, step + 10)
            each.step()


def test_state_dicts_of_16_bit_numbers_keep_float32() -> None:
    optimizer, other = (one(dtype=torch.bfloat16, ema_decay=0.999) for _ in range(2))
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    for a, b in zip(averages(optimizer), averages(other), strict=True):
        assert_same_bits(a, b)


def test_state_dicts_from_and_to_optimizers_without() -> None:
    optimizer, plain = one(ema_decay=0.9), one()
    for each in (optimizer, plain):
        for step in range(2):
            give_grads(each, step)
            each.step()
    torchs = torch.optim.Adam(members(plain))
    torchs.load_state_dict(optimizer.state_dict())
    torchs.step()
    optimizer.load_state_dict(plain.state_dict())
    before = [param.detach().clone() for param in members(optimizer)]
    give_grads(optimizer, 5)
    optimizer.step()  # begins them anew
    for found, old, param in zip(averages(optimizer), before, members(optimizer), strict=True):
        assert_close(found, old + 0.1 * (param.detach() - old), "average")


def test_an_average_that_does_not_fit_is_refused() -> None:
    optimizer = one(ema_decay=0.9)
    give_grads(optimizer, 1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["ema"] = torch.zeros(7)
    saved["state"][0]["exp_avg"] += 1
    before, kept = snapshot(optimizer), averages(optimizer)
    with pytest.raises(ValueError, match=r"'ema' of parameter 1 is \(7,\), the parameter is \(2, 3\)"):
        optimizer.load_state_dict(saved)
    assert_same_snapshot(snapshot(optimizer), before)
    for a, b in zip(kept, averages(optimizer), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.9", True])
def test_no_decay(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="ema_decay"):
        one(ema_decay=value)
    optimizer = one(ema_decay=0.9)
    with pytest.raises((TypeError, ValueError), match="ema_decay"):
        optimizer.ema_decay = value
    assert optimizer.ema_decay == 0.9


def test_parameters_that_have_none() -> None:
    class Odd(Tensor):
        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return NotImplemented

    odd = Tensor._make_wrapper_subclass(Odd, (3,), dtype=torch.float32)
    with pytest.raises(RuntimeError, match="parameter 0 is a Odd, and averages are kept of plain tensors"):
        fastadam.torch.Adam([odd], ema_decay=0.9)


def test_steps_that_are_torchs_own_move_them() -> None:
    optimizer = one(ema_decay=0.9)
    plain = one()
    beside = Beside(plain, 0.9)
    for each in (optimizer, plain):
        each.param_groups[0]["lr"] = -0.1
    for step in range(3):
        for each in (optimizer, plain):
            give_grads(each, step, lambda step, i: step == 1 and i == 3)
            each.step()
        assert optimizer.last_step.startswith("torch: ")
        for found, wanted in zip(averages(optimizer), beside.update(), strict=True):
            assert_close(found, wanted, "average")


def test_nobody_can_free_their_memory() -> None:
    """A plan has the addresses: what a user does to a view that he gets shows in no step."""
    optimizer = one(ema_decay=0.9)
    give_grads(optimizer, 0)
    optimizer.step()
    param = members(optimizer)[3]
    view = optimizer.ema[param]
    with pytest.raises(RuntimeError, match="resize"):
        view.untyped_storage().resize_(0)
    view.set_(torch.zeros(3))
    del view
    optimizer.step()
    assert optimizer.ema[param].shape == param.shape


def test_they_are_let_go() -> None:
    optimizer = one(ema_decay=0.9)
    give_grads(optimizer, 0)
    optimizer.step()
    kept = weakref.ref(optimizer._averages.of(members(optimizer)[0]))
    assert kept() is not None
    optimizer.ema_decay = None
    gc.collect()
    assert kept() is None


def test_those_of_parameters_that_are_gone_are_let_go() -> None:
    """Those of parameters that were only taken out of their group stay, as the rest of their state does."""
    optimizer = one(ema_decay=0.9)
    give_grads(optimizer, 0)
    optimizer.step()
    param = optimizer.param_groups[0]["params"].pop(0)
    kept = optimizer._averages.of(param).clone()
    give_grads(optimizer, 1)
    optimizer.step()
    optimizer.param_groups[0]["params"].insert(0, param)
    assert_same_bits(optimizer.ema[param], kept)
    gone = weakref.ref(optimizer.param_groups[0]["params"].pop(0))
    del optimizer.state[param], param
    give_grads(optimizer, 2)
    optimizer.step()
    gc.collect()
    assert gone() is None


def test_an_idle_parameter_that_is_moved_is_noticed(way: str) -> None:
    optimizer = one(ema_decay=0.5)
    give_grads(optimizer, 0)
    optimizer.step()
    for step in range(3):
        give_grads(optimizer, step, lambda _, i: i == 3)
        go(optimizer, way)
    param = members(optimizer)[3]
    old = optimizer.ema[param].clone()
    param.data = torch.full((9000,), 2.0)
    gc.collect()
    give_grads(optimizer, 7, lambda _, i: i == 3)
    go(optimizer, way)
    assert_same_bits(optimizer.ema[param], old + 0.5 * (2.0 - old))
