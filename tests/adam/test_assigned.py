"""What is assigned to an optimizer: it counts, or it is refused with what helps."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.backends import HOST
from fastadam.step.hyperparameters import FIXED, KEYS
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.processes import LONG

SHAPES: list[tuple[int, ...]] = [(4, 3), (), (7,)]
# Of each option: a value, and values that the constructor refuses.
GOOD: dict[str, Any] = {
    "lr": 0.5,
    "betas": (0.5, 0.25),
    "eps": 0.125,
    "weight_decay": 0.75,
    "amsgrad": True,
    "maximize": True,
    "decoupled_weight_decay": True,
    "state_dtype": "int8",
    "master_weights": True,
    "rounding": "stochastic",
    "seed": 5,
}
BAD: dict[str, list[Any]] = {
    "lr": [-1.0, math.nan, math.inf, "0.1", None, {"w": 0.1}],
    "betas": [(0.9, 1.0), (0.9,), 0.9, "ab", None],
    "eps": [-1e-8, math.nan, None, 1e-60],
    "weight_decay": [-1, "0", None],
    "amsgrad": [1, None, "yes"],
    "maximize": [0, None],
    "decoupled_weight_decay": [1.0, None],
    "state_dtype": ["int4", 8, np.float32],
    "master_weights": [1, None],
    "rounding": ["up", None, 1],
    "seed": [-1, 2**63, 1.5, "0", None, True],
}
# Those that can be assigned to groups that are there.
ASSIGNED = [name for name in KEYS if name not in FIXED]


def make(layout: str, options: list[dict[str, Any]], **more: Any) -> tuple[fastadam.Adam, list[np.ndarray]]:
    """Return an optimizer with a group for each dict of options, and its arrays."""
    arrays = random_arrays(SHAPES * len(options), np.float32, 1)
    groups = [arrays[i * len(SHAPES) : (i + 1) * len(SHAPES)] for i in range(len(options))]
    if layout == "packed":
        packed = [fastadam.pack(group) for group in groups]
        arrays, groups = [view for flat in packed for view in flat.params], packed  # type: ignore[assignment]
    optimizer = fastadam.Adam([{"params": g, **o} for g, o in zip(groups, options, strict=True)], **more)  # type: ignore[typeddict-item]
    return optimizer, arrays


def step(optimizer: fastadam.Adam, seed: int) -> None:
    n = sum(len(group["params"]) for group in optimizer.param_groups)
    optimizer.step(random_arrays(SHAPES * (n // len(SHAPES)), np.float32, seed))


def test_every_option_is_tried() -> None:
    assert set(GOOD) == set(BAD) == set(KEYS)


@pytest.mark.parametrize("name", ASSIGNED)
@pytest.mark.parametrize("layout", ["in place", "packed"])
def test_an_option_that_is_assigned_is_that_of_all_groups(layout: str, name: str, backend: str) -> None:
    """Steps are those of an optimizer whose groups were edited one by one, and of one made so at the beginning."""
    options: list[dict[str, Any]] = [{"lr": 0.25}, {"weight_decay": 0.5}]
    (assigned, _), (edited, _) = (make(layout, options, backend=backend) for _ in range(2))
    for optimizer in (assigned, edited):
        step(optimizer, 2)
    setattr(assigned, name, GOOD[name])
    for group in edited.param_groups:
        group[name] = GOOD[name]
    assert getattr(assigned, name) == GOOD[name]
    assert [group[name] for group in assigned.param_groups] == [GOOD[name]] * 2
    for seed in (3, 4):
        step(assigned, seed)
        step(edited, seed)
    assert_same_state(snapshot(assigned), snapshot(edited))
    early, late = (make(layout, [{}, {}], backend=backend, **given)[0] for given in ({}, {name: GOOD[name]}))
    setattr(early, name, GOOD[name])
    step(early, 3)
    step(late, 3)
    assert_same_state(snapshot(early), snapshot(late))


@pytest.mark.parametrize("name", FIXED)
def test_an_option_by_which_the_state_lies_in_memory_cannot_be_assigned_but_loaded_into(name: str) -> None:
    optimizer, arrays = make("in place", [{}])
    step(optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"make a new optimizer with it, and load the state into that"):
        setattr(optimizer, name, GOOD[name])
    optimizer.param_groups[0][name] = GOOD[name]
    with pytest.raises(ValueError, match=rf"{name} was .* when the group was made"):
        step(optimizer, 3)
    optimizer.param_groups[0][name] = getattr(optimizer._groups[0].hyper, name)
    assert_same_state(snapshot(optimizer), before)
    new = fastadam.Adam(arrays, **{name: GOOD[name]})
    new.load_state_dict(optimizer.state_dict())
    assert getattr(new, name) == GOOD[name]
    step(new, 3)


@pytest.mark.parametrize("name", ASSIGNED)
def test_groups_that_are_added_later_have_what_was_assigned(name: str) -> None:
    optimizer, _ = make("in place", [{}])
    setattr(optimizer, name, GOOD[name])
    optimizer.add_param_group({"params": np.ones(2)})
    assert optimizer.param_groups[1][name] == GOOD[name]
    assert getattr(copy.deepcopy(optimizer), name) == GOOD[name]
    assert getattr(pickle.loads(pickle.dumps(optimizer)), name) == GOOD[name]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in KEYS for value in BAD[name]])
def test_what_the_constructor_refuses_cannot_be_assigned(name: str, value: Any) -> None:
    optimizer, _ = make("in place", [{"lr": 0.25}, {"lr": 0.5}])
    step(optimizer, 2)
    before, defaults = snapshot(optimizer), dict(optimizer.defaults)
    groups = copy.deepcopy([{key: group[key] for key in KEYS} for group in optimizer.param_groups])
    with pytest.raises((TypeError, ValueError)) as assigning:
        setattr(optimizer, name, value)
    with pytest.raises(assigning.type) as making:
        fastadam.Adam([np.ones(2, np.float32)], **{name: value})
    assert str(assigning.value) == str(making.value)
    assert [{key: group[key] for key in KEYS} for group in optimizer.param_groups] == groups
    assert optimizer.defaults == defaults
    assert_same_state(snapshot(optimizer), before)
    step(optimizer, 3)


def test_a_schedule_can_be_assigned() -> None:
    optimizer, arrays = make("in place", [{}])
    optimizer.lr = lambda n: 0.0 if n < 3 else 0.5
    before = [array.copy() for array in arrays]
    step(optimizer, 2)
    step(optimizer, 3)
    for array, old in zip(arrays, before, strict=True):
        assert_same_bits(array, old)
    step(optimizer, 4)
    assert all((array != old).any() for array, old in zip(arrays, before, strict=True))


def test_what_differs_between_groups_has_no_one_value() -> None:
    optimizer, _ = make("in place", [{"lr": 0.25}, {"lr": 0.5}])
    with pytest.raises(
        AttributeError, match=r"lr differs.* param_groups\[0\]\['lr'\] is 0.25.*\[1\]\['lr'\] is 0.5"
    ):
        _ = optimizer.lr
    assert not hasattr(optimizer, "lr")
    assert optimizer.betas == (0.9, 0.999)
    optimizer.lr = 0.125
    assert optimizer.lr == 0.125
    optimizer.param_groups[1]["lr"] = np.ones(2)  # refused by the next step, and no value of all groups
    assert not hasattr(optimizer, "lr")


def test_an_option_that_was_edited_wrong_does_not_stand_in_the_way_of_another() -> None:
    optimizer, _ = make("in place", [{}])
    optimizer.param_groups[0]["eps"] = "wrong"
    optimizer.lr = 0.5
    with pytest.raises(TypeError, match="eps must be"):
        step(optimizer, 2)
    optimizer.eps = 0.5
    step(optimizer, 2)


@pytest.mark.parametrize("backend_first", [True, False])
def test_threads_and_backend_can_be_assigned(backend_first: bool) -> None:
    mine, yours = (make("packed", [{}, {"amsgrad": True}], backend="numpy")[0] for _ in range(2))
    for seed, name in enumerate(name for name in HOST if fastadam.available_backends()[name] == "available"):
        if backend_first:
            mine.backend = name
            mine.threads = 1 + seed
        else:
            mine.threads = 1 + seed
            mine.backend = name
        assert (mine.backend, mine.threads) == (name, 1 + seed)
        step(mine, seed)
        step(yours, seed)
        assert_same_state(snapshot(mine), snapshot(yours))
        twin = copy.copy(mine)
        assert (twin.backend, twin.threads) == (name, 1 + seed)
    mine.threads = None
    assert mine.threads is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 0), ("threads", "2"), ("backend", "tpu"), ("backend", None), ("backend", "cuda")],
)
def test_wrong_threads_and_backends_change_nothing(name: str, value: Any) -> None:
    optimizer, _ = make("in place", [{}], backend="numpy", threads=2)
    with pytest.raises((TypeError, ValueError, fastadam.BackendUnavailableError)):
        setattr(optimizer, name, value)
    assert (optimizer.backend, optimizer.threads) == ("numpy", 2)
    step(optimizer, 2)


def test_neither_is_exchanged_in_the_middle_of_a_step() -> None:
    found = []

    def schedule(n: int) -> float:
        for name, value in (("threads", 1), ("backend", "numpy")):
            with pytest.raises(RuntimeError, match=f"setting {name}"):
                setattr(optimizer, name, value)
            found.append(name)
        return 0.5

    optimizer, _ = make("in place", [{}], lr=schedule)
    step(optimizer, 2)
    assert {*found} == {"threads", "backend"}


@pytest.mark.parametrize("kind", [fastadam.Adam, fastadam.AdamW])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rate", "lr"),
        ("thread", "threads"),
        ("betas_", "betas"),
        ("beta1", "betas"),
        ("epsilon", "eps"),
        ("weight_deacy", "weight_decay"),
        ("max_grad_norms", "max_grad_norm"),
        ("param_group", "param_groups"),
        ("params", "param_groups"),
        ("amsgard", "amsgrad"),
    ],
)
def test_an_unknown_attribute_is_refused_with_the_one_that_was_meant(kind: Any, name: str, meant: str) -> None:
    optimizer = kind([np.ones(2)])
    with pytest.raises(AttributeError, match=f"{kind.__name__} has no attribute '{name}'.*did you mean '{meant}'"):
        setattr(optimizer, name, 0.5)
    assert vars(optimizer) == {}


def test_an_attribute_like_none_is_refused_with_those_that_there_are() -> None:
    optimizer = fastadam.Adam([np.ones(2)])
    with pytest.raises(AttributeError, match=r"known are .*lr") as refused:
        optimizer.zzzzzzzz = 1  # type: ignore[attr-defined]
    for remedy in ("class Mine(fastadam.Adam): ...",):
        assert remedy in str(refused.value)
        names: dict[str, Any] = {"fastadam": fastadam}
        exec(remedy, names)
        mine = names["Mine"]([np.ones(2)])
        mine.zzzzzzzz = 1
        assert mine.zzzzzzzz == 1


@pytest.mark.parametrize("kind", [fastadam.Adam, type("Mine", (fastadam.Adam,), {})])
@pytest.mark.parametrize("name", ["state", "ema", "grad_norm", "skipped_steps"])
def test_what_is_read_only_says_what_to_do(kind: Any, name: str) -> None:
    optimizer = kind([np.ones(2)], ema_decay=0.5, max_grad_norm=1.0)
    optimizer.step([np.ones(2)])
    with pytest.raises(AttributeError, match=f"{name} cannot be assigned; ") as refused:
        setattr(optimizer, name, {})
    saved = optimizer.state_dict()
    for remedy in (
        "optimizer.load_state_dict(saved)",
        "optimizer.state[0]['exp_avg'][...] = 0",
        "optimizer.ema[0][...] = value",
    ):
        if remedy in str(refused.value):
            exec(remedy, {"optimizer": optimizer, "saved": saved, "value": 3.0})
    assert_same_bits(
        optimizer.state[0]["exp_avg"], np.zeros(2) if name == "state" else saved["state"][0]["exp_avg"]
    )
    assert (optimizer.ema[0] == 3.0).all() == (name == "ema")


def test_methods_can_be_wrapped_and_are_not_switches() -> None:
    """As profilers and mocks wrap a step."""
    optimizer, calls = fastadam.Adam([np.ones(2)]), []
    wrapped = optimizer.step
    optimizer.step = lambda *given: calls.append(wrapped(*given))  # type: ignore[method-assign, assignment]
    optimizer.step([np.ones(2)])
    assert len(calls) == optimizer.state[0]["step"] == 1
    with pytest.raises(AttributeError, match="zero_grad is a method of Adam"):
        optimizer.zero_grad = True  # type: ignore[method-assign, assignment]


class Own(fastadam.Adam):
    """Has attributes in all the ways that a class can have them."""

    __slots__ = ("slot",)
    name = "class"
    eps = "mine"  # type: ignore[assignment]

    def __init__(self, params: Any, lr: float) -> None:
        self.weight_decay = 0.25  # before there are groups
        self.early = "early"
        super().__init__(params, lr=lr)
        self.lr = lr
        self.late = "late"
        self.slot = "slot"

    @property
    def half(self) -> float:
        return float(self.lr) / 2  # type: ignore[arg-type]

    @half.setter
    def half(self, value: float) -> None:
        self.lr = 2 * value


@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_subclasses_have_attributes_of_their_own(send: Callable[[Any], Any]) -> None:
    own = Own([np.ones(2)], 0.5)
    own.learning_rate = 3  # type: ignore[attr-defined]
    assert own.param_groups[0]["eps"] == 1e-8
    assert (own.name, own.eps, own.slot, own.half, own.weight_decay) == ("class", "mine", "slot", 0.25, 0.25)
    own.eps = "other"  # type: ignore[assignment]
    own.name, own.half = "instance", 0.0625
    assert own.param_groups[0]["lr"] == own.lr == 0.125
    twin = send(own)
    names = {"weight_decay": 0.25, "early": "early", "late": "late", "learning_rate": 3, "eps": "other"}
    assert vars(twin) == vars(own) == {**names, "name": "instance"}
    assert twin.lr == 0.125
    own.weight_decay = 0.5  # counts, and is seen
    assert own.weight_decay == own.param_groups[0]["weight_decay"] == 0.5


def test_subclasses_of_subclasses_are_open() -> None:
    class Mine(fastadam.AdamW):
        pass

    class Finer(Mine):
        pass

    optimizer = Finer([np.ones(2)])
    optimizer.note = 1  # type: ignore[attr-defined]
    optimizer.lr = 0.0
    optimizer.step([np.ones(2)])
    assert_same_bits(optimizer.param_groups[0]["params"][0], np.ones(2))


def test_without_defaults_nothing_is_assigned() -> None:
    optimizer, _ = make("in place", [{}, {}])
    optimizer.defaults = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        optimizer.lr = 0.5
    assert optimizer.lr == 1e-3


@pytest.mark.parametrize("name", KEYS)
def test_defaults_that_lack_an_option_say_how_to_go_on(name: str) -> None:
    optimizer = fastadam.Adam([np.ones(2)])
    made = optimizer.defaults
    optimizer.defaults = {key: value for key, value in made.items() if key != name}
    with pytest.raises(
        ValueError, match=f"has the option '{name}'; give it in the group, or put it back"
    ) as refused:
        optimizer.add_param_group({"params": [np.ones(2)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [np.ones(2)], name: made[name]})
    exec(str(refused.value).partition("such as ")[2], {"optimizer": optimizer})
    optimizer.add_param_group({"params": [np.ones(2)]})
    assert [group[name] for group in optimizer.param_groups] == [made[name]] * 3


@pytest.mark.parametrize("name", [*KEYS, "max_grad_norm", "skip_nonfinite", "ema_decay", "state", "threads"])
def test_nothing_can_be_deleted(name: str) -> None:
    optimizer = fastadam.Adam([np.ones(2)])
    before = getattr(optimizer, name)
    with pytest.raises(AttributeError, match=r"assign|deleter|can't delete"):
        delattr(optimizer, name)
    assert getattr(optimizer, name) is before or getattr(optimizer, name) == before


def test_param_groups_that_were_taken_away_can_be_put_back() -> None:
    optimizer, _ = make("in place", [{}, {}])
    groups = optimizer.param_groups
    before = snapshot(optimizer)
    for wrong in ([], groups[:1], [*groups, groups[0]]):
        optimizer.param_groups = wrong
        with pytest.raises(ValueError, match="put back the list with the dicts that it had"):
            step(optimizer, 2)
        optimizer.param_groups = groups
        assert_same_state(snapshot(optimizer), before)
    optimizer.param_groups = list(groups)
    step(optimizer, 2)


def test_defaults_that_nobody_knows_are_refused_where_they_are_used() -> None:
    optimizer = fastadam.Adam([np.ones(2)])
    optimizer.defaults["learning_rate"] = 0.5
    with pytest.raises(ValueError, match=r"defaults.*unknown option 'learning_rate'"):
        optimizer.add_param_group({"params": [np.ones(2)]})
    del optimizer.defaults["learning_rate"]
    optimizer.add_param_group({"params": [np.ones(2)]})


def test_help_tells_of_the_attributes() -> None:
    code = "import fastadam; help(fastadam.Adam)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    for name in KEYS:
        assert f"The option {name!r} of all groups" in shown.stdout
