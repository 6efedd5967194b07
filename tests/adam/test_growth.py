"""Parameters that grow, are pruned and reset, and groups that come and go: as optimizers made anew."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory.host import Host
from fastadam.memory.structs import MOMENTS, SCALES
from tests.support.bits import assert_same_bits
from tests.support.strategies import examples

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LAYOUTS = ("list", "dict", "nested", "Parameters", "packed")
# Of a group: the dtype of its arrays, and options.
FORMATS: list[tuple[Any, dict[str, Any]]] = [
    (np.float32, {}),
    (np.float32, {}),
    (np.float64, {}),
    (np.complex64, {}),
    (np.float32, {"state_dtype": "bfloat16"}),
    (np.float32, {"state_dtype": "int8"}),
    (np.complex64, {"state_dtype": "int8"}),
    (np.float16, {"master_weights": True}),
    (BFLOAT16, {"master_weights": True, "state_dtype": "int8"}),
    (BFLOAT16, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
]
AVERAGED = [each for each in FORMATS if each[0] not in (np.float16, BFLOAT16)]
SHAPES: list[tuple[int, ...]] = [(5,), (1, 1), (4, 3), (3, 64), (7, 32), (2, 5, 2), (0, 3), (3, 0), (70,), ()]
INHERITED = ("ema", "master_param")


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    found = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.standard_normal(shape)
    return np.asarray(found).astype(dtype)


def hold(layout: str, values: list[np.ndarray]) -> Any:
    """Return what holds copies of arrays, for an optimizer."""
    arrays = [value.copy() for value in values]
    named = {f"w{i}": array for i, array in enumerate(arrays)}
    if layout == "dict":
        return named
    if layout == "nested":
        return {"first": arrays[0], "more": [{"w": array} for array in arrays[1:]]}
    if layout == "Parameters":
        return [fastadam.Parameter(array) for array in arrays]
    return fastadam.pack(named if len(arrays) > 1 else arrays) if layout == "packed" else arrays


def values_of(optimizer: Any) -> list[np.ndarray]:
    """Return all parameters, as plain arrays."""
    found = [each for group in optimizer.param_groups for each in group["params"]]
    return [np.array(each.data if isinstance(each, fastadam.Parameter) else each) for each in found]


def anew(optimizer: Any, backend: str, values: list[np.ndarray], saved: Any) -> Any:
    """Return another optimizer, over plain arrays in lists, with this state."""
    place, groups = 0, []
    for group in saved["param_groups"]:
        count = len(group["params"])
        fixed = {key: group[key] for key in ("state_dtype", "master_weights", "rounding", "seed")}
        groups.append({"params": [value.copy() for value in values[place : place + count]], **fixed})
        place += count
    settings = {"ema_decay": optimizer.ema_decay} if optimizer.ema_decay is not None else {}
    other = fastadam.Adam(groups, backend=backend, **settings)
    other.load_state_dict(saved)
    return other


def same(one: Any, other: Any) -> None:
    """Compare parameters and state dicts, but for names."""
    for i, (first, second) in enumerate(zip(values_of(one), values_of(other), strict=True)):
        assert_same_bits(first, second, f"parameter {i}")
    found, expected = one.state_dict(), other.state_dict()
    assert found["state"].keys() == expected["state"].keys()
    for key, entry in found["state"].items():
        assert entry.keys() == expected["state"][key].keys()
        for name, value in entry.items():
            assert_same_bits(np.asarray(value), np.asarray(expected["state"][key][name]), f"{name} {key}")
    for group, others in zip(found["param_groups"], expected["param_groups"], strict=True):
        assert {**group, "param_names": 0} == {**others, "param_names": 0}


def gathered(array: np.ndarray, keep: Any, parents: Any, grown: int, inherits: bool) -> np.ndarray:
    """Return the rows of an array that there are to be."""
    kept = array if keep is None else array[keep]
    new = array[parents] if inherits and parents is not None else np.zeros((grown, *array.shape[1:]), array.dtype)
    return np.concatenate([kept, new])


def gather_entry(entry: dict[str, Any], numbers: Any, keep: Any, parents: Any, grown: int) -> dict[str, Any]:
    """Return a state dict's entry for the rows that there are to be; of moments in blocks, numbers if need be."""
    made = {}
    for name, value in entry.items():
        if name == "step" or name in SCALES.values():
            made.setdefault(name, value)
        elif name in MOMENTS and SCALES[name] in entry:
            scales, width = entry[SCALES[name]], int(np.prod(value.shape[1:]))
            if width % 64 == 0:
                rows = scales.reshape(len(value), width // 64)
                made[SCALES[name]] = gathered(rows, keep, parents, grown, False).reshape(-1)
                made[name] = gathered(value, keep, parents, grown, False)
            elif keep is None:
                made[name] = gathered(value, None, parents, grown, False)
                blocks = -(-made[name].size // 64)
                made[SCALES[name]] = np.concatenate([scales, np.zeros(blocks - len(scales), scales.dtype)])
            else:
                made[name] = gathered(np.array(numbers[name]), keep, parents, grown, False)
                made[SCALES[name]] = None
        else:
            made[name] = gathered(value, keep, parents, grown, name in INHERITED)
    return {name: value for name, value in made.items() if value is not None}


class Run:
    """An optimizer that is changed, with what it was made of."""

    def __init__(self, data: st.DataObject, backend: str) -> None:
        self.draw, self.backend = data.draw, backend
        self.rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        averages = data.draw(st.booleans())
        self.formats = AVERAGED if averages else FORMATS
        settings = {"ema_decay": 0.9} if averages else {}
        amsgrad = data.draw(st.booleans())
        first = [self.group() for _ in range(data.draw(st.integers(1, 2)))]
        self.names_are_given = any(self.has_names(each["params"]) for each in first)
        if self.names_are_given:
            for i, each in enumerate(first):
                each["params"] = self.named(each["params"], i)
        self.made = len(first)
        self.opt = fastadam.Adam(first, lr=0.1, amsgrad=amsgrad, backend=backend, **settings)

    def group(self) -> dict[str, Any]:
        dtype, options = self.draw(st.sampled_from(self.formats))
        shapes = self.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
        values = [numbers(self.rng, shape, dtype) for shape in shapes]
        return {"params": hold(self.draw(st.sampled_from(LAYOUTS)), values), **options}

    @staticmethod
    def has_names(params: Any) -> bool:
        return isinstance(params, dict) or (isinstance(params, fastadam.Packed) and params.names is not None)

    @staticmethod
    def named(params: Any, number: int) -> Any:
        """Return parameters with names that no other group has."""
        if isinstance(params, fastadam.Packed):
            return fastadam.pack(
                {f"{number}.{i}": view for i, view in enumerate(params.params[k] for k in params.params)}
                if params.names
                else {f"{number}.{i}": view for i, view in enumerate(params.params)}
            )
        return {f"{number}": params}

    def step(self) -> None:
        """Step it, and one that is made anew, with the same gradients."""
        other = anew(self.opt, self.backend, values_of(self.opt), self.opt.state_dict())
        grads = [numbers(self.rng, value.shape, value.dtype) for value in values_of(self.opt)]
        grads = [None if self.draw(st.integers(0, 9)) == 0 else grad for grad in grads]
        other.step(grads)
        names = [name for group in self.opt.param_groups for name in group.get("param_names", ())]
        self.opt.step(dict(zip(names, grads, strict=True)) if names else grads)
        same(self.opt, other)

    def resize(self) -> None:
        values, saved = values_of(self.opt), self.opt.state_dict()
        position = self.draw(st.integers(0, len(values) - 1))
        old = values[position]
        if not old.ndim:
            with pytest.raises(ValueError, match="has no rows"):
                self.opt.resize(position)
            return
        n = len(old)
        rows = st.lists(st.integers(0, n - 1), max_size=n + 2) if n else st.just([])
        keep = self.draw(st.one_of(st.none(), rows, st.lists(st.booleans(), min_size=n, max_size=n)))
        parents = self.draw(st.one_of(st.none(), rows))
        grown = self.draw(st.integers(0, 3)) if parents is None else len(parents)
        is_mask = bool(keep) and type(keep[0]) is bool
        chosen = None if keep is None else np.array(keep, bool if is_mask else np.intp)
        own = None if parents is None else np.array(parents, np.intp)
        entry = saved["state"].get(position)
        if entry is not None:
            decoded = self.opt.state[position]
            saved["state"][position] = gather_entry(entry, decoded, chosen, own, grown)
        values[position] = gathered(old, chosen, own, grown, True)
        key = self.key(position)
        found = self.opt.resize(key, keep=keep, grow=grown if parents is None else parents)
        other = anew(self.opt, self.backend, values, saved)
        same(self.opt, other)
        (group, index), params = self.opt._groups.where[position], self.opt.param_groups
        now = next(each["params"] for each, g in zip(params, self.opt._groups, strict=True) if g is group)[index]
        if isinstance(found, fastadam.Packed):
            assert found is group.packed
            assert not found.grad.any()
        else:
            assert found is now
        self.put_back()

    def key(self, position: int) -> Any:
        """Return one of the keys of a parameter."""
        (group, index) = self.opt._groups.where[position]
        member = group.members[index]
        keys = [position, np.int64(position), member.given, *([member.name] if member.name else [])]
        return keys[self.draw(st.integers(0, len(keys) - 1))]

    def put_back(self) -> None:
        """Put arrays that were exchanged into what holds them."""
        for tree in [*self.opt._planner.containers._watched]:
            for key, item in list(tree.items.items()):
                if hasattr(item, "now") and not isinstance(item, fastadam.Parameter):
                    tree.container[key] = item.now

    def reset(self) -> None:
        values, saved = values_of(self.opt), self.opt.state_dict()
        positions = self.draw(st.one_of(st.none(), st.lists(st.integers(0, len(values) - 1), max_size=3)))
        for position in range(len(values)) if positions is None else positions:
            saved["state"].pop(position, None)
        one = positions is not None and len(positions) == 1
        self.opt.reset(self.key(positions[0]) if one else positions)
        same(self.opt, anew(self.opt, self.backend, values, saved))

    def add(self) -> None:
        group = self.group()
        if self.names_are_given:
            group["params"] = self.named(group["params"], self.made)
        elif self.has_names(group["params"]):
            group["params"] = [np.ones(3, np.float32)]
        self.made += 1
        self.opt.add_param_group(group)

    def remove(self) -> None:
        groups = self.opt.param_groups
        number = self.draw(st.integers(0, len(groups) - 1))
        if len(groups) == 1:
            with pytest.raises(ValueError, match="one group"):
                self.opt.remove_param_group(0)
            return
        values, saved = values_of(self.opt), self.opt.state_dict()
        positions = saved["param_groups"].pop(number)["params"]
        first, count = positions[0], len(positions)
        state = {key: entry for key, entry in saved["state"].items() if key not in positions}
        saved["state"] = {key if key < first else key - count: entry for key, entry in state.items()}
        for group in saved["param_groups"]:
            group["params"] = [key if key < first else key - count for key in group["params"]]
        del values[first : first + count]
        gone = groups[number]
        assert self.opt.remove_param_group(number) is gone
        assert not any(each is gone for each in groups)
        same(self.opt, anew(self.opt, self.backend, values, saved))

    def copy(self) -> None:
        before = self.opt
        self.opt = self.draw(st.sampled_from([copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))]))(before)
        same(self.opt, before)


@given(data=st.data())
@examples(40)
def test_all_changes_give_the_bits_of_an_optimizer_made_anew(backend: str, data: st.DataObject) -> None:
    run = Run(data, backend)
    for _ in range(data.draw(st.integers(2, 10))):
        run.step()
        getattr(
            run, data.draw(st.sampled_from(["resize", "resize", "resize", "reset", "add", "remove", "copy"]))
        )()
    run.step()


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


def test_what_was_there_before_is_refused_with_a_word(backend: str) -> None:
    params = {"w": np.ones((4, 2)), "b": np.ones(3)}
    optimizer = fastadam.Adam(params, backend=backend)
    old, grads = params["w"], {"w": np.ones((4, 2)), "b": np.ones(3)}
    optimizer.step(grads)
    new = optimizer.resize("w", grow=1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"params\['w'\] = optimizer.param_groups\[0\]\['params'\]\[0\]"):
        optimizer.step(grads)
    for act in (lambda: optimizer.state[old], lambda: optimizer.resize(old), lambda: optimizer.reset(old)):
        with pytest.raises(KeyError, match="was resized"):
            act()
    params["w"] = np.ones((5, 2))
    with pytest.raises(ValueError, match="was resized"):
        optimizer.step(grads)
    params["w"] = optimizer.param_groups[0]["params"][0]  # the remedy
    assert params["w"] is new
    with pytest.raises(ValueError, match="as its parameter had before it was resized"):
        optimizer.step(grads)
    params["other"] = old
    with pytest.raises(ValueError, match="does not have"):
        optimizer.step({**grads, "w": np.ones((5, 2))})
    del params["other"]
    with pytest.raises(ValueError, match=r"has shape \(9, 2\), its parameter"):
        optimizer.step({**grads, "w": np.ones((9, 2))})
    for name, value in before["state"][0].items():
        assert_same_bits(np.asarray(optimizer.state["w"][name]), np.asarray(value))
    newer = optimizer.resize(new, keep=[0])
    with pytest.raises(KeyError, match="was resized"):
        optimizer.state[old]
    params["w"] = newer
    optimizer.step({**grads, "w": np.ones((1, 2))})
    params["w"] = newer.copy()
    with pytest.raises(ValueError, match="was exchanged"):
        optimizer.step({**grads, "w": np.ones((1, 2))})


def test_a_container_that_nobody_has_any_more_stops_no_step() -> None:
    def make() -> fastadam.Adam:
        params = {"a": [np.ones((4, 2))], "b": np.ones(3)}
        optimizer = fastadam.Adam(params)
        optimizer.step({"a": [np.ones((4, 2))], "b": np.ones(3)})  # from here on it is watched
        return optimizer

    optimizer = make()
    optimizer.resize("a.0", grow=1)
    optimizer.step({"a": [np.ones((5, 2))], "b": np.ones(3)})
    kept = [np.ones((4, 2))]
    optimizer = fastadam.Adam({"a": kept, "b": np.ones(3)})  # of these, one is held by others
    optimizer.resize("a.0", grow=1)
    grads = {"a": [np.ones((5, 2))], "b": np.ones(3)}
    for _ in range(2):
        with pytest.raises(ValueError, match="was resized"):
            optimizer.step(grads)
    kept[0] = optimizer.param_groups[0]["params"][0]
    optimizer.step(grads)
    kept[0] = np.ones((5, 2))
    with pytest.raises(ValueError, match="was exchanged"):
        optimizer.step(grads)


def test_a_buffer_from_before_is_empty_and_its_views_are_read_only() -> None:
    flat = fastadam.pack({"w": np.ones((4, 2)), "b": np.ones(3)})
    optimizer = fastadam.Adam(flat, ema_decay=0.5)
    view, whole = flat.grads["w"], flat.param
    optimizer.step()
    new = optimizer.resize("w", keep=[0, 1])
    for name in ("param", "grad", "params", "grads"):
        with pytest.raises(ValueError, match="was resized"):
            getattr(flat, name)
    for act in (lambda: fastadam.Adam(flat), lambda: copy.deepcopy(flat), lambda: pickle.dumps(flat)):
        with pytest.raises(ValueError, match="was resized"):
            act()
    with pytest.raises(KeyError, match="was resized"):
        optimizer.ema[flat]
    with pytest.raises(KeyError, match="was resized"):
        optimizer.ema[whole]
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 1
    assert "resized" in repr(flat)
    assert list(new.params) == ["w", "b"]
    assert optimizer.ema[new].shape == new.param.shape == (7,)
    assert not hasattr(new, "gard")
    optimizer.step(np.ones(7))
    assert optimizer.resize(new.params["b"], keep=[]).params["b"].shape == (0,)


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


def small(**options: Any) -> Any:
    optimizer = fastadam.Adam({"w": np.ones((4, 2)), "s": np.ones(())}, **options)
    optimizer.step({"w": np.ones((4, 2)), "s": np.ones(())})
    return optimizer


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("w", [4]), ValueError, "keep has the row 4, and parameter 'w' has the rows 0 to 3"),
        (("w", [0, -1]), ValueError, "keep has the row -1"),
        (("w", np.array([2**63], np.uint64)), ValueError, "keep has the row 9223372036854775808"),
        (("w", [0.0]), TypeError, r"convert it: np.asarray\(keep, np.int64\)"),
        (("w", [[0]]), ValueError, r"shape \(1, 1\)"),
        (("w", [True]), ValueError, "1 boolean, and parameter 'w' has 4 rows"),
        (("w", np.zeros((4, 2), bool)), ValueError, r"shape \(4, 2\)"),
        (("w", np.ma.masked_array([0, 1], [True, False])), TypeError, "keep is a masked array"),
        (("w", 3), TypeError, r"range\(3\)"),
        (("w", "abc"), TypeError, "keep must be"),
        (("w", object()), TypeError, "keep must be"),
        (("w", None, -1), ValueError, r"at least 0, got -1.*keep=range\(3\)"),
        (("w", None, 1.0), TypeError, "grow must be"),
        (("w", None, True), (TypeError, ValueError), "grow must be"),
        (("w", None, None), TypeError, "leave it out"),
        (("w", None, [4]), ValueError, "grow has the row 4"),
        (("w", None, [-1]), ValueError, "grow has the row -1"),
        (("w", None, [True] * 4), TypeError, "np.flatnonzero"),
        (("w", None, [0.5]), TypeError, "grow must be"),
        (("w", None, 2**62), MemoryError, "larger than any memory"),
        (("w", None, 2**52), (MemoryError, ValueError, OSError), "."),
        (("s", [0]), ValueError, "has no rows"),
        (("v",), KeyError, "no parameter has this name; there are w, s"),
        ((2,), KeyError, "there are the parameters 0 to 1"),
        ((np.ones((4, 2)),), KeyError, "not one of the optimizer's"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(arguments: Any, error: Any, words: str) -> None:
    optimizer = small()
    before, params = optimizer.state_dict(), optimizer.param_groups[0]["params"]
    with pytest.raises(error, match=words):
        optimizer.resize(*arguments)
    assert optimizer.param_groups[0]["params"] is params
    same(optimizer, anew(optimizer, "auto", values_of(optimizer), before))


def test_a_parameter_of_no_rows_has_none_to_keep() -> None:
    optimizer = fastadam.Adam([np.ones((0, 3))])
    with pytest.raises(ValueError, match="has no rows"):
        optimizer.resize(0, grow=[0])
    assert optimizer.resize(0, grow=2).shape == (2, 3)


def test_a_parameter_that_was_tampered_with_is_refused() -> None:
    array = np.ones((4, 2))
    optimizer = fastadam.Adam([array])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.resize(0, grow=1)
    array.flags.writeable = True
    array.shape = (2, 4)
    with pytest.raises(ValueError, match=r"had the shape \(4, 2\)"):
        optimizer.resize(0, grow=1)
    array.shape = (4, 2)
    assert optimizer.resize(0, grow=1).shape == (5, 2)


def test_no_change_is_made_while_a_step_is_under_way() -> None:
    caught: list[int] = []

    def schedule(step: int) -> float:
        for act in (lambda: optimizer.resize(0, grow=1), optimizer.reset, lambda: optimizer.remove_param_group(0)):
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
                act()
            caught.append(step)
        return 0.1

    optimizer = fastadam.Adam([np.ones(3)], lr=schedule, ema_decay=0.5)
    optimizer.step([np.ones(3)])
    assert len(caught) >= 3
    with optimizer.averaged(), pytest.raises(RuntimeError, match="averaged"):
        optimizer.resize(0, grow=1)


def test_what_cannot_be_reset_is_refused() -> None:
    optimizer = small()
    before = optimizer.state_dict()
    for keys, error in ((["w", "v"], KeyError), (5, KeyError), ({"w": 1}, TypeError), (3.5, KeyError)):
        with pytest.raises(error):
            optimizer.reset(keys)
    optimizer.reset([])
    same(optimizer, anew(optimizer, "auto", values_of(optimizer), before))
    optimizer.reset("s")
    assert list(optimizer.state) == [0]


def test_all_in_a_buffer_is_reset_by_the_buffer() -> None:
    flat = fastadam.pack([np.ones(2), np.ones(3)])
    optimizer = fastadam.Adam([{"params": flat}, {"params": [np.ones(2)]}])
    optimizer.step([np.ones(2), None, np.ones(2)])
    optimizer.reset([flat])
    assert list(optimizer.state) == [2]


@pytest.mark.parametrize(
    ("index", "error"), [(2, ValueError), (-1, ValueError), (0.0, TypeError), (True, TypeError)]
)
def test_what_is_no_group_cannot_be_removed(index: Any, error: type[Exception]) -> None:
    optimizer = fastadam.Adam([{"params": [np.ones(2)]}, {"params": [np.ones(3)]}])
    with pytest.raises(error, match="index must be the number of a group"):
        optimizer.remove_param_group(index)
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups = tuple(optimizer.param_groups)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="must be the list"):
        optimizer.remove_param_group(0)
    assert len(optimizer.param_groups) == len(optimizer._groups) == 2


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


def test_labels_tell_the_positions_that_there_are() -> None:
    optimizer = fastadam.Adam(
        [{"params": [np.ones(2)]}, {"params": [np.ones(3)]}, {"params": fastadam.pack([np.ones(4)])}]
    )
    optimizer.remove_param_group(0)
    with pytest.raises(ValueError, match="the gradient of parameter 0 has shape"):
        optimizer.step([np.ones(2), np.ones(4)])
    optimizer.param_groups[1]["lr"] = -1
    with pytest.raises(ValueError, match=r"param_groups\[1\]: "):
        optimizer.step([np.ones(3), np.ones(4)])


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


def test_edits_that_are_wrong_are_refused_before() -> None:
    optimizer = small()
    optimizer.param_groups[0]["lr"] = -1
    for act in (lambda: optimizer.resize("w", grow=1), lambda: optimizer.remove_param_group(0)):
        with pytest.raises(ValueError, match="lr"):
            act()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.resize("w", grow=1)
    assert optimizer.lr == 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_too_little_memory_changes_nothing(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    held = hold(layout, [numbers(rng, (4, 3), np.float32) for _ in range(2)])
    optimizer = fastadam.Adam(held, ema_decay=0.5, state_dtype="int8")
    grads = [numbers(rng, (4, 3), np.float32) for _ in range(2)]
    names = optimizer.param_groups[0].get("param_names")
    optimizer.step(dict(zip(names, grads, strict=True)) if names else grads)
    expected = anew(optimizer, "auto", values_of(optimizer), optimizer.state_dict())
    zeros, given = Host.zeros, optimizer.param_groups[0]["params"]
    for failing in range(1, 100):
        calls: list[str] = []

        def few(*arguments: Any, failing: int = failing, calls: list[str] = calls) -> Any:
            calls.append(arguments[-1])
            if len(calls) == failing:
                raise MemoryError
            return zeros(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Host, "zeros", few)
            try:
                optimizer.resize(1, keep=[2, 0], grow=1)
            except MemoryError:
                same(optimizer, expected)
                assert optimizer.param_groups[0]["params"] is given
            else:
                break
    assert failing > 6  # the parameter, moments, scales and averages
    assert optimizer.param_groups[0]["params"] is not given


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
