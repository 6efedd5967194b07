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
    assert_same_snapshot,
    draw,
    give_grads,
    members,
    params,
    snapshot,
    take_care,
)
from tests.torch.growth_models import Model, assert_same  # noqa: E402

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
    gc.collect()
    assert gone() is None
    return new


@pytest.mark.parametrize("options", OPTIONS)
@examples(8)
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
            new = params((3, 4), dtype=dtype, seed=step)
            model.add(new, {})
            ours.add_param_group({"params": new})
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


def tall(**settings: Any) -> tuple[Any, Any, Any]:
    """Return an optimizer that was stepped, and its parameters of shapes (6, 2) and (3,)."""
    both = params((6, 2), (3,))
    optimizer = fastadam.torch.Adam(both, lr=0.1, **settings)
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.step()
    return optimizer, *both


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
    assert type(new) is Kind and new.name_of_mine == "points" and new.grad_dtype == torch.float32
    assert new.requires_grad and new.is_leaf and new.dtype == torch.bfloat16
    assert optimizer.param_groups is groups and groups[0] is group and group["params"] is held
    assert held[0] is new and held[1] is other
    assert optimizer.state is state and list(state) == [new] and state[new]["step"] is step
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
        assert bool((points[:6] != before[:6]).all()) and not points[6:].any()


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
    assert members(optimizer)[0] is points and members(optimizer)[1] is other and points._version == version
    optimizer.step()
    assert optimizer.last_step == "fastadam"


def test_good_rows() -> None:
    """Whatever tells row numbers and masks, and numbers of new rows."""
    keeps: list[Any] = [
        [1, 3],
        (1, 3),
        range(1, 4, 2),
        np.array([1, 3], np.uint8),
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
        assert members(optimizer)[0] is points and optimizer.state[points][name] is value
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
        with pytest.raises(RuntimeError, match="parameter 0 has no gradient.*still in use"):
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
    """torch's own code steps what was resized."""
    optimizer, points, _ = tall()
    optimizer.lr = -0.1 + 0.2
    optimizer.param_groups[0]["lr"] = -1e-9
    points = optimizer.resize(points, [0], 3)
    give_grads(optimizer, 5)
    optimizer.step()
    assert optimizer.last_step.startswith("torch") and points.shape == (4, 2)


def test_a_parameter_held_twice() -> None:
    first, second = params((2, 2), (3,))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = fastadam.torch.Adam([first, second, first])
    new = optimizer.resize(first, grow=1)
    held = optimizer.param_groups[0]["params"]
    assert held[0] is new and held[1] is second and held[2] is new


def test_named_parameters() -> None:
    optimizer = fastadam.torch.Adam([("points", params((3, 2))[0]), ("other", params((2,))[0])])
    give_grads(optimizer, 1)
    optimizer.step()
    optimizer.resize(members(optimizer)[0], grow=1)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["points", "other"]
    members(optimizer)[0].grad = torch.zeros(4, 2)[:, 0].expand(2, 4).T.clone()
    optimizer.step()


def test_reset() -> None:
    """One, several, all: as if never stepped."""
    for given in (lambda a, b: a, lambda a, b: [b, a], lambda a, b: iter([a, b]), lambda a, b: None):
        optimizer, first, second = tall(ema_decay=0.9, amsgrad=True)
        optimizer.reset(given(first, second))
        left = [] if given(first, second) is not first else [second]
        assert list(optimizer.state) == left
        assert_same_bits(optimizer.ema[first], first)
        fresh = fastadam.torch.Adam([Parameter(first.detach().clone())], lr=0.1, ema_decay=0.9, amsgrad=True)
        for step in range(4):
            give_grads(optimizer, step)
            members(fresh)[0].grad = first.grad
            optimizer.step()
            fresh.step()
        assert_same_bits(first, members(fresh)[0])
        assert_same_bits(optimizer.ema[first], fresh.ema[members(fresh)[0]])
    optimizer.reset([])
    assert len(optimizer.state) == 2
    with pytest.raises(TypeError, match=r"params\[0\] must be one of"):
        optimizer.reset([1])


def test_removed_groups() -> None:
    optimizer, first, _ = tall(ema_decay=0.9)
    optimizer.add_param_group({"params": params((2,), seed=4), "lr": 0.5})
    for index, kind in ((2, IndexError), (-3, IndexError), ("0", TypeError), (0.0, TypeError), (None, TypeError)):
        with pytest.raises(kind, match="index must be the number"):
            optimizer.remove_param_group(index)
    gone = optimizer.remove_param_group(0)
    assert gone["params"][0] is first and gone["lr"] == 0.1
    assert not optimizer.state and len(optimizer.ema) == 1
    with pytest.raises(ValueError, match="only group"):
        optimizer.remove_param_group(0)
    optimizer.add_param_group(gone)
    assert optimizer.remove_param_group(-2)["lr"] == 0.5
    give_grads(optimizer, 0)
    optimizer.step()
    assert float(optimizer.state[first]["step"]) == 1


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


def test_blocks_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of 8 bits are moved piece by piece, with the same bits, also where numbers are not finite."""
    from fastadam.torch import gathering

    found = []
    for piece in (64, 1000, 1 << 20):
        monkeypatch.setattr(gathering, "PIECE", piece)
        (points,) = params((700, 5))
        optimizer = fastadam.torch.Adam([points], state_dtype="int8", amsgrad=True)
        for step in range(2):
            give_grads(optimizer, step)
            points.grad[300, 2] = float("inf")
            optimizer.step()
        decoded = optimizer.decoded_state(points)
        mask = draw((700,)) > -0.5
        new = optimizer.resize(points, mask, 500)
        n, after = int(mask.sum()), optimizer.decoded_state(new)
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert not after[name][n:].any()
            torch.testing.assert_close(after[name][:n], decoded[name][mask], rtol=0.02, atol=0.02, equal_nan=True)
        found.append(snapshot(optimizer))
    for each in found[1:]:
        assert_same_snapshot(each, found[0])


def test_int8_rows_that_stay_keep_their_bits() -> None:
    """What is grown behind them, and blocks of their own, leave codes as they are."""
    for width, keep in ((5, None), (64, [3, 1, 1]), (128, [0]), (5, list(range(26)))):
        (points,) = params((40, width))
        optimizer = fastadam.torch.Adam([points], state_dtype="int8")
        for step in range(3):
            give_grads(optimizer, step)
            optimizer.step()
        before = optimizer.decoded_state(points)
        new = optimizer.resize(points, keep, 7)
        n = len(new) - 7
        for name in ("exp_avg", "exp_avg_sq"):
            rows = before[name] if keep is None else before[name][keep]
            assert_same_bits(optimizer.decoded_state(new)[name][:n], rows)


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
