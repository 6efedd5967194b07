"""What cannot be resized, and parameters that were: clear errors, and nothing is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    give_grads,
    members,
    params,
    snapshot,
)
from tests.torch.growth_models import tall  # noqa: E402

KEEPS: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": ([0, -1], IndexError, "row numbers from -1"),
    "out of range": (torch.tensor([6]), IndexError, "6 rows"),
    "float": (torch.tensor([1.0]), TypeError, "int64"),
    "float list": ([0.0, 1.0], TypeError, "int64"),
    "complex": (np.array([1j]), TypeError, "complex"),
    "two dimensions": (torch.zeros(2, 2, dtype=torch.int64), ValueError, "one dimension"),
    "a number": (3, ValueError, "one dimension"),
    "a short mask": (torch.ones(5, dtype=torch.bool), ValueError, "mask of 5"),
    "a list of few bools": ([True], ValueError, "mask of 1"),
    "words": ("all", TypeError, "row numbers"),
    "a set": ({1, 2}, TypeError, "row numbers"),
    "none left": (torch.zeros(6, dtype=torch.bool), ValueError, "no rows"),
    "an empty list": ([], ValueError, "no rows"),
    "no float": (torch.tensor([]), TypeError, "float32"),
    "meta": (torch.zeros(2, dtype=torch.int64, device="meta"), TypeError, "meta"),
    "sparse": (torch.ones(6).bool().to_sparse(), TypeError, "sparse"),
    "beyond int64": ([2**70], TypeError, "row numbers"),
}
GROWS: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (-1, ValueError, "at least 0"),
    "a negative parent": (torch.tensor([-1]), IndexError, "from -1"),
    "a parent out of range": ([6], IndexError, "6 rows"),
    "float": (1.5, TypeError, "grow"),
    "float parents": (torch.tensor([1.0]), TypeError, "int64"),
    "bool": (True, TypeError, "grow"),
    "a mask": (torch.ones(6, dtype=torch.bool), TypeError, "nonzero"),
    "two dimensions": ([[1]], ValueError, "one dimension"),
    "None": (None, TypeError, "grow"),
    "a word": ("2", TypeError, "grow"),
    "too many": (2**62, (RuntimeError, MemoryError, OverflowError), "."),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(
    ("name", "case"), [*[("keep", each) for each in KEEPS], *[("grow", each) for each in GROWS]]
)
def test_bad_rows(name: str, case: str) -> None:
    """A clear error, and nothing is written."""
    given, kind, words = (KEEPS if name == "keep" else GROWS)[case]
    optimizer, points, other = tall(ema_decay=0.9, amsgrad=True)
    before, version = snapshot(optimizer), points._version
    with pytest.raises(kind, match=words) as raised:
        optimizer.resize(points, **{name: given})
    assert name in str(raised.value) or case == "too many"
    assert_same_snapshot(snapshot(optimizer), before)
    assert members(optimizer)[0] is points
    assert members(optimizer)[1] is other
    assert points._version == version
    optimizer.step()
    assert optimizer.last_step == "fastadam"


def test_bad_params() -> None:
    """What is not the optimizer's, or has no rows of its own."""
    optimizer, points, other = tall()
    before = snapshot(optimizer)
    for param, words in (
        (points.detach(), "not one of"),
        (points.clone(), "not one of"),
        (draw((6, 2)), "not one of"),
    ):
        with pytest.raises(ValueError, match=words):
            optimizer.resize(param)
        with pytest.raises(ValueError, match=words):
            optimizer.reset([other, param])
    for param in (None, 0, "points", np.zeros((6, 2))):
        with pytest.raises(TypeError, match="one of the optimizer's parameters"):
            optimizer.resize(param)
    assert_same_snapshot(snapshot(optimizer), before)

    point = Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match="no dimensions"):
        fastadam.torch.Adam([point]).resize(point)
    leaf = draw((3,)).requires_grad_()
    twice = leaf * 2
    with pytest.raises(ValueError, match="leaf"):
        fastadam.torch.Adam([twice], differentiable=True).resize(twice)
    whole = draw((8, 2))
    halves = [Parameter(whole[:5]), Parameter(whole[4:])]
    with pytest.raises(ValueError, match="shares its memory"):
        fastadam.torch.Adam(halves).resize(halves[0])
    apart = [Parameter(whole[:4]), Parameter(whole[4:])]
    assert len(fastadam.torch.Adam(apart).resize(apart[0], grow=1)) == 5
    assert_same_bits(apart[0], whole[:4])
    wide = torch.zeros(1, 3).expand(4, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="several elements in one place"):
        fastadam.torch.Adam([wide]).resize(wide)
    points.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="freed"):
        optimizer.resize(points)


def test_spoiled_state() -> None:
    """State that a step would refuse; nothing has changed then."""
    for name, value in (
        ("exp_avg", torch.zeros(5, 2)),
        ("exp_avg_sq", torch.zeros(())),
        ("exp_avg", None),
        ("exp_avg", torch.zeros(1, 2).expand(6, 2)),
    ):
        optimizer, points, _ = tall()
        optimizer.state[points][name] = value
        with pytest.raises(RuntimeError, match="parameter 0"):
            optimizer.resize(points, grow=1)
        assert members(optimizer)[0] is points
        assert optimizer.state[points][name] is value
    optimizer, points, _ = tall(state_dtype="int8")
    del optimizer.state[points]["exp_avg_scale"]
    with pytest.raises(RuntimeError, match="exp_avg_scale"):
        optimizer.resize(points, grow=1)
    optimizer, points, _ = tall()
    mine, label = draw((6, 2)), object()
    optimizer.state[points] |= {"mine": mine, "label": label}
    entry = optimizer.state[optimizer.resize(points, [1], [0])]
    assert_same_bits(entry["mine"], torch.stack([mine[1], torch.zeros(2)]))
    assert entry["label"] is label


def test_the_old_one_is_refused() -> None:
    """Where it can be noticed: resized again, looked up, or with the gradient that the new one lacks."""
    optimizer, old, other = tall(ema_decay=0.9)
    new = optimizer.resize(old, grow=1)
    newer = optimizer.resize(new, grow=1)
    for refused in (
        lambda: optimizer.resize(old),
        lambda: optimizer.resize(new),
        lambda: optimizer.reset(old),
        lambda: optimizer.decoded_state(old),
    ):
        with pytest.raises(ValueError, match="was resized"):
            refused()
    with pytest.raises(KeyError, match="was resized"):
        optimizer.ema[old]
    optimizer.zero_grad()
    (old**2).sum().backward()
    other.grad = draw((3,))
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"parameter 0 has no gradient.*still in use"):
            optimizer.step()
        assert_same_snapshot(snapshot(optimizer), before)
    newer.grad = torch.ones_like(newer)
    optimizer.step()
    assert not optimizer.state[new]
    with pytest.raises(RuntimeError, match=r"state\.pop\(old\)"):
        optimizer.state_dict()
    optimizer.state.pop(new)
    assert set(optimizer.state_dict()["state"]) == {0, 1}
    optimizer.add_param_group({"params": [old]})  # a parameter like any other from now on
    assert len(optimizer.resize(old, [0])) == 1


def test_not_while_something_else_goes_on() -> None:
    optimizer, points, _ = tall(ema_decay=0.9)
    optimizer.add_param_group({"params": params((2,))})
    before = snapshot(optimizer)
    with optimizer.averaged():
        for name, args in (("resize", (points,)), ("reset", ()), ("remove_param_group", (0,))):
            with pytest.raises(RuntimeError, match=f"{name} was called within a block"):
                getattr(optimizer, name)(*args)
    assert_same_snapshot(snapshot(optimizer), before)


def test_an_interrupted_one_changes_nothing() -> None:
    """What fails on the way, such as memory that is not there, leaves all as it was."""
    optimizer, points, _ = tall(ema_decay=0.9)
    before = snapshot(optimizer)

    fails = [0]
    real = torch.index_select

    def index_select(*args: Any, **options: Any) -> Any:
        fails[0] += 1
        if fails[0] == 3:
            raise MemoryError
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "index_select", index_select)
        with pytest.raises(MemoryError):
            optimizer.resize(points, [1, 2])
    assert fails[0] == 3
    assert_same_snapshot(snapshot(optimizer), before)
    assert members(optimizer)[0] is points
    optimizer.step()
    assert optimizer.last_step == "fastadam"


class Meddling(Parameter):
    """A parameter whose gradient is got by a property, which runs something first."""

    @property
    def grad(self) -> Any:  # type: ignore[override]
        """The gradient."""
        getattr(self, "before", lambda: None)()
        return torch.Tensor.grad.__get__(self)

    @grad.setter
    def grad(self, value: Any) -> None:
        torch.Tensor.grad.__set__(self, value)


def test_what_runs_on_the_way() -> None:
    """Code of a property's may neither step nor resize; what it does to the parameter is seen."""
    points = Meddling(draw((6, 2)))
    optimizer = fastadam.torch.Adam([points, *params((3,))])
    give_grads(optimizer, 0)
    optimizer.step()
    before = snapshot(optimizer)

    def resize() -> Any:
        return optimizer.resize(points, grow=1)

    for action in (resize, optimizer.step, optimizer.reset):
        points.before = action
        with pytest.raises(RuntimeError, match="under way"):
            resize()
        del points.before
        assert_same_snapshot(snapshot(optimizer), before)
    points.before = lambda: points.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="freed or shrunk"):
        resize()
    points.before = lambda: setattr(points, "data", torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="another size"):
        resize()
    points.before = lambda: optimizer.param_groups[0]["params"].remove(points)
    with pytest.raises(ValueError, match="not one of"):
        optimizer.resize(points)


def test_other_defaults_of_torch() -> None:
    """A default device or dtype is for what the user makes."""
    optimizer, points, _ = tall(state_dtype="int8", ema_decay=0.9)
    expected, _, _ = tall(state_dtype="int8", ema_decay=0.9)
    expected.resize(members(expected)[0], [3, 1], [0, 0])
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        optimizer.resize(points, [3, 1], [0, 0])
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_same_snapshot(snapshot(optimizer), snapshot(expected))
