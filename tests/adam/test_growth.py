"""Parameters that grow, are pruned and reset, and groups that come and go: as optimizers made anew."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory.structs import MOMENTS, SCALES
from tests.adam.growing import AVERAGED, FORMATS, INHERITED, LAYOUTS, SHAPES, anew, hold, numbers, same, values_of
from tests.support.strategies import examples


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
