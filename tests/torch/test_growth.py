"""Parameters that are pruned and grown: the rows are those of a plain model, and the steps go on with its bits."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.strategies import examples  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    NAMES,
    Parameter,
    assert_same_bits,
    draw,
    give_grads,
    members,
    params,
    take_care,
)
from tests.torch.growth_models import Model, assert_same, tall  # noqa: E402

OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {  # with a dtype
    "plain": (torch.float32, {}),
    "float64 and all": (torch.float64, {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    "averages": (torch.float32, {"ema_decay": 0.7, "ema_warmup": True, "max_grad_norm": 1.0}),
    "complex": (torch.complex64, {"amsgrad": True, "ema_decay": 0.9}),
    "bfloat16 state": (torch.float32, {"state_dtype": "bfloat16", "seed": 3}),
    "int8 state": (torch.float32, {"state_dtype": "int8", "amsgrad": True, "ema_decay": 0.5}),
    "int8 state of complex numbers": (torch.complex64, {"state_dtype": "int8"}),
    "masters": (torch.bfloat16, {"master_weights": True, "ema_decay": 0.9}),
    "masters of float16, int8": (torch.float16, {"master_weights": True, "state_dtype": "int8"}),
    "stochastic": (torch.bfloat16, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
    "float16": (torch.float16, {"amsgrad": True, "weight_decay": 0.1}),
}
SHAPES: list[tuple[int, ...]] = [(5,), (7, 3), (4, 64), (40, 5), (3, 2, 2), (0, 3), (2, 0)]


def grown(optimizer: Any, group: int, index: int, **how: Any) -> Any:
    """Resize a parameter, whose gradient goes, and free the old one."""
    param = optimizer.param_groups[group]["params"][index]
    gone = weakref.ref(param)
    new = optimizer.resize(param, **how)
    new.grad = None
    del param
    if gone() is not None:
        gc.collect()
    assert gone() is None
    return new


@pytest.mark.parametrize("options", OPTIONS)
@examples(20)
@hypothesis.given(data=st.data())
def test_rows_come_and_go(options: str, data: Any) -> None:
    """Steps with gaps, resizing, new starts, groups that come and go: the bits are those of the model."""
    dtype, settings = OPTIONS[options]
    shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    adam = getattr(fastadam.torch, data.draw(st.sampled_from(NAMES)))
    settings = {"lr": 0.1, **settings}
    first = [(params(*shapes, dtype=dtype), {}), (params((6, 2), dtype=dtype, seed=1), {"lr": 0.05})]
    model = Model(adam, first, settings)
    ours = adam(
        [{"params": [Parameter(each.detach().clone()) for each in group], **own} for group, own in first],
        **settings,
    )
    actions = ["step", "step", "step", "resize", "resize", "reset", "remove", "add", "load", "copy"]
    for step in range(data.draw(st.integers(4, 12))):
        action = data.draw(st.sampled_from(actions))
        group = data.draw(st.integers(0, len(ours.param_groups) - 1))
        index = data.draw(st.integers(0, len(ours.param_groups[group]["params"]) - 1))
        if action == "step":
            gap = data.draw(st.integers(-1, 3))
            for each in (ours, model.optimizer):
                give_grads(each, step, lambda step, i, gap=gap: i == gap)
                each.step()
            assert ours.last_step == "fastadam"
        elif action == "resize":
            n = len(ours.param_groups[group]["params"][index])
            kept = list(range(n))
            keep: Any = None
            if n and data.draw(st.booleans()):
                mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
                kept, keep = [i for i in kept if mask[i]], torch.tensor(mask)
            elif n and data.draw(st.booleans()):
                kept = keep = data.draw(st.lists(st.integers(0, n - 1), max_size=n + 3))
            least = int(not kept and n > 0)
            if n and data.draw(st.booleans()):
                parents = grow = data.draw(st.lists(st.integers(0, n - 1), min_size=least, max_size=9))
            else:
                grow = data.draw(st.integers(least, 9))
                parents = [None] * grow
            model.resize(group, index, kept, parents)
            grown(ours, group, index, keep=keep, grow=grow)
        elif action == "reset":
            ours.reset(ours.param_groups[group]["params"][index])
            model.reset(group, index)
        elif action == "remove" and len(ours.param_groups) > 1:
            expected = ours.param_groups[group]
            assert ours.remove_param_group(group) is expected
            model.remove(group)
        elif action == "add":
            model.add(params((3, 4), dtype=dtype, seed=step), {})
            ours.add_param_group({"params": params((3, 4), dtype=dtype, seed=step)})
        elif action == "load":
            ours.load_state_dict(pickle.loads(pickle.dumps(ours.state_dict())))
        elif action == "copy":
            ours = data.draw(st.sampled_from([copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]))(ours)
        assert_same(ours, model.optimizer, f"{action} in step {step}")


@pytest.mark.parametrize("options", OPTIONS)
def test_whichever_way_steps_go(options: str, way: str) -> None:
    """Natively with what was known, which has gone with the old parameter, and with care."""
    dtype, settings = OPTIONS[options]
    first = [(params((9, 5), (4,), dtype=dtype), {})]
    model = Model(fastadam.torch.Adam, first, settings)
    ours = fastadam.torch.Adam([Parameter(each.detach().clone()) for each in first[0][0]], **settings)
    for step in range(12):
        if step in (3, 6):
            grown(ours, 0, 0, keep=[5, 0, 3, 3], grow=[1, 1])
            model.resize(0, 0, [5, 0, 3, 3], [1, 1])
            if step == 6:  # back to as many rows as there were
                grown(ours, 0, 0, grow=3)
                model.resize(0, 0, list(range(6)), [None] * 3)
        for each in (ours, model.optimizer):
            give_grads(each, step)
            if each is ours:
                take_care(each, way)
            each.step()
        assert_same(ours, model.optimizer, f"step {step}")


class Kind(Parameter):
    """A subclass without a dispatch of its own."""


def test_what_comes_back() -> None:
    """The class, attributes and flags of the old one; the same lists and dicts; its gradient, with zeros."""
    old, other = Kind(draw((4, 3), torch.bfloat16)), Parameter(draw((2,)))
    old.name_of_mine, old.grad_dtype = "points", torch.float32
    optimizer = fastadam.torch.Adam([old, other])
    groups, state = optimizer.param_groups, optimizer.state
    group, held = groups[0], groups[0]["params"]
    old.grad = draw((4, 3))
    optimizer.step()
    step, grad = state[old]["step"], old.grad
    new = optimizer.resize(old, [3, 1], 1)
    assert type(new) is Kind
    assert new.name_of_mine == "points"
    assert new.grad_dtype == torch.float32
    assert new.requires_grad
    assert new.is_leaf
    assert new.dtype == torch.bfloat16
    assert optimizer.param_groups is groups
    assert groups[0] is group
    assert group["params"] is held
    assert held[0] is new
    assert held[1] is other
    assert optimizer.state is state
    assert list(state) == [new]
    assert state[new]["step"] is step
    assert old.grad is None
    assert_same_bits(new.grad, torch.cat([grad[[3, 1]], torch.zeros(1, 3)]))
    assert old.shape == (4, 3)
    still = Parameter(draw((3,)), requires_grad=False)
    assert not fastadam.torch.Adam([still]).resize(still, grow=1).requires_grad
    plain = draw((3,)).requires_grad_()
    assert type(fastadam.torch.Adam([plain]).resize(plain, grow=1)) is Parameter


def test_backward_goes_through_what_comes_back() -> None:
    """Also where it was made without gradients, or in inference mode."""
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        optimizer, points, _ = tall()
        with mode():
            points = optimizer.resize(points, grow=2)
        points.grad = None
        (points**2).sum().backward()
        before = points.detach().clone()
        optimizer.step()
        assert bool((points[:6] != before[:6]).all())
        assert not points[6:].any()


@pytest.mark.parametrize("shape", [(5, 3, 2, 2), (5, 2, 0)])
def test_layouts(shape: Any) -> None:
    """Dimensions stay in their order in memory, those of moments and averages, too."""
    order = (0, 3, 2, 1) if len(shape) == 4 else (2, 0, 1)
    data = draw([shape[i] for i in order]).permute([order.index(i) for i in range(len(shape))])
    strided, plain = Parameter(data), Parameter(data.detach().clone(memory_format=torch.contiguous_format))
    found = []
    for param in (strided, plain):
        optimizer = fastadam.torch.Adam([param], lr=0.1, ema_decay=0.9)
        for step in range(6):
            if step == 3:
                param = optimizer.resize(param, [4, 4, 0], 2)
                steps = [each.stride() for each in (param, *list(optimizer.state[param].values())[1:])]
                assert len(set(steps)) == 1
                assert (
                    len(shape) < 4
                    or sorted(range(4), key=lambda i: -steps[0][i]) == list(order)
                    or param.is_contiguous()
                )
            give_grads(optimizer, step)
            optimizer.step()
            assert optimizer.last_step == "fastadam"
        found.append([param, optimizer.state[param]["exp_avg_sq"], optimizer.ema[param]])
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


class Odd:
    """What claims to be a number of a row."""

    def __index__(self) -> int:
        return 1


def test_good_rows() -> None:
    """Whatever tells row numbers and masks, and numbers of new rows."""
    keeps: list[Any] = [
        [1, 3],
        (1, 3),
        range(1, 4, 2),
        np.array([1, 3], np.uint8),
        np.array([3, 1])[::-1],
        np.frombuffer(np.array([1, 3]).tobytes(), np.int64),  # read-only
        torch.tensor([1, 3], dtype=torch.int32),
        torch.tensor([0, 9, 1, 9, 3, 9])[2::2],
        [False, True, False, True, False, False],
        np.array([0, 1, 0, 1, 0, 0], bool),
        torch.tensor([0, 1, 0, 1, 0, 0]).bool(),
    ]
    for keep in keeps:
        optimizer, points, _ = tall()
        assert_same_bits(optimizer.resize(points, keep), points.detach()[[1, 3]])
    grows: list[tuple[Any, int]] = [(2, 2), (np.int64(2), 2), (torch.tensor(2), 2), (Odd(), 1), ([], 0), ([5], 1)]
    grows += [(torch.zeros(0, dtype=torch.int64), 0), (np.array([4, 4]), 2), (range(3), 3)]
    for grow, n in grows:
        optimizer, points, _ = tall()
        assert len(optimizer.resize(points, grow=grow)) == 6 + n
        optimizer, points, _ = tall()
        assert len(optimizer.resize(points, [], 4)) == 4


def test_what_was_given_can_change() -> None:
    """The old parameter and the numbers of rows are nobody's any more."""
    optimizer, points, _ = tall()
    rows = torch.tensor([5, 4])
    new = optimizer.resize(points, rows)
    expected = new.detach().clone()
    with torch.no_grad():
        points.zero_()
    rows.zero_()
    points.untyped_storage().resize_(0)
    assert_same_bits(new, expected)
    for step in range(4):
        give_grads(optimizer, step)
        optimizer.step()
    assert optimizer.last_step == "fastadam"


def test_scheduler_and_scaler() -> None:
    """They hold the optimizer and the dicts of its groups, which stay."""
    optimizer, points, other = tall()
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale((points**2).sum() + (other**2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        points = optimizer.resize(points, grow=[step])
        assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** (step + 1)
    assert points.shape == (9, 2)
    assert float(optimizer.state[points]["step"]) == 6


@pytest.mark.parametrize("keep", [None, [2, 2, 1]])
def test_sparse_gradients(keep: Any) -> None:
    """Steps of rows go on; a gradient that is not stepped yet comes along."""
    table = torch.nn.Embedding(6, 4, sparse=True)
    optimizer = fastadam.torch.Adam(table.parameters(), sparse="lazy")
    for step in range(4):
        optimizer.zero_grad()
        table(torch.tensor([1, 2, 2])).square().sum().backward()
        optimizer.step()
        if step == 1:
            dense = table.weight.grad.to_dense()
            table.weight = optimizer.resize(table.weight, keep, 2)
            rows = list(range(6)) if keep is None else keep
            assert table.weight.grad.is_sparse
            assert_same_bits(table.weight.grad.to_dense(), torch.cat([dense[rows], torch.zeros(2, 4)]))
            before = table.weight.detach().clone()
            optimizer.step()
            moved = (table.weight != before).any(dim=1).nonzero().flatten().tolist()
            assert moved == [i for i, row in enumerate(rows) if row in (1, 2)]
    assert float(optimizer.state[table.weight]["step"]) == 5


def test_handed_over() -> None:
    """Steps of torch's own code go over what was resized."""
    optimizer, points, _ = tall()
    optimizer.lr = -0.1 + 0.2
    optimizer.param_groups[0]["lr"] = -1e-9
    points = optimizer.resize(points, [0], 3)
    give_grads(optimizer, 5)
    optimizer.step()
    assert optimizer.last_step.startswith("torch")
    assert points.shape == (4, 2)


def test_a_parameter_held_twice() -> None:
    first, second = params((2, 2), (3,))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = fastadam.torch.Adam([first, second, first])
    new = optimizer.resize(first, grow=1)
    held = optimizer.param_groups[0]["params"]
    assert held[0] is new
    assert held[1] is second
    assert held[2] is new


def test_named_parameters() -> None:
    optimizer = fastadam.torch.Adam([("points", params((3, 2))[0]), ("other", params((2,))[0])])
    give_grads(optimizer, 1)
    optimizer.step()
    optimizer.resize(members(optimizer)[0], grow=1)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["points", "other"]
    members(optimizer)[0].grad = torch.zeros(4, 2)[:, 0].expand(2, 4).T.clone()
    optimizer.step()


def test_saved_and_loaded() -> None:
    """Into an optimizer over parameters of the new shapes; one over the old shapes refuses the step."""
    optimizer, points, other = tall(ema_decay=0.9)
    points = optimizer.resize(points, [1, 0], 3)
    file = io.BytesIO()
    torch.save({"points": points, "other": other, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    new = fastadam.torch.Adam([Parameter(saved["points"].data), Parameter(saved["other"].data)], ema_decay=0.9)
    new.load_state_dict(saved["optimizer"])
    for step in range(3):
        for each in (optimizer, new):
            give_grads(each, step)
            each.step()
    assert_same(optimizer, new)
