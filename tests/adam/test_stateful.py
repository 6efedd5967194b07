"""The whole API in any order against a simple model, with which all parameters and state agree in every bit.

`python -m tests.hunt` runs the same machine for as long as it is told to.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import os
import pickle
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastadam
from fastadam.step import hyperparameters
from fastadam.step.norm import scale_of
from tests.conftest import AVAILABLE
from tests.support import strategies
from tests.support.bits import assert_same_bits
from tests.support.model import Model
from tests.support.row_gradients import (
    BAD_INDICES,
    BAD_MASKS,
    INDICES,
    Touched,
    bad_mask,
    bad_rows,
    indices_as,
    masked,
    touched,
)
from tests.support.strategies import examples

try:
    import safetensors  # noqa: F401

    CAN_SAVE = True
except ImportError:
    CAN_SAVE = False

try:
    import fcntl  # noqa: F401

    CAN_LIE_ON_DISK = hasattr(os, "posix_fallocate") and hasattr(os, "preadv")
except ImportError:
    CAN_LIE_ON_DISK = False

LAYOUTS = ("arrays", "packed", "Parameters", "one piece of memory")
SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (17,), (2, 3), (0,), (3, 1, 2), (40,), (6, 64), (3, 0)]
GRADS = (
    "normal",
    "normal",
    "None",
    "strided",
    "reversed",
    "Fortran",
    "subclass",
    "special",
    "read-only",
    "scalar",
)
BAD_GRADS = ("dtype", "shape", "masked", "param", "moment", "list", "byte order", "object")
backends = st.sampled_from(AVAILABLE)
layouts = st.sampled_from(LAYOUTS)
groups = st.tuples(
    layouts,
    st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
    st.sampled_from(strategies.DTYPES),
    st.sampled_from([None, None, "float32", "bfloat16", "int8"]),  # of the state
)

# What is edited at random here: the options that `options` draws.
EDITED = [key for key in hyperparameters.KEYS if key not in hyperparameters.STAYING]


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the options of a group, but for those that stay."""
    return {**draw(strategies.options()), "seed": draw(st.sampled_from([0, 7, 2**40]))}


class Array(np.ndarray):
    """A subclass of the user's."""


class FaultError(Exception):
    """What the user's own functions raise."""


def numbers(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    """Return random numbers of a dtype."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.standard_normal(shape)
    return np.asarray(found, dtype)


def hold(layout: str, values: list[np.ndarray]) -> tuple[Any, list[Any]]:
    """Return what holds copies of these values, to give to an optimizer, and its arrays."""
    if layout == "packed":
        flat = fastadam.pack(values)
        return flat, list(flat.params)
    if layout == "one piece of memory":  # neighbours that do not overlap
        memory = np.concatenate([value.reshape(-1) for value in values])
        ends = np.cumsum([value.size for value in values])
        arrays = [memory[end - v.size : end].reshape(v.shape) for v, end in zip(values, ends, strict=True)]
    else:
        arrays = [value.copy() for value in values]
    if layout == "Parameters":
        return [fastadam.Parameter(array) for array in arrays], arrays
    return arrays, arrays


def gradient(kind: str, shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    """Return a gradient that is right, of an odd kind."""
    grad = numbers(shape, dtype, seed)
    if kind == "None":
        return None
    if kind == "strided":
        wide = np.zeros((*shape, 3), dtype)
        wide[..., 1] = grad
        return wide[..., 1]
    if kind == "reversed":
        return np.ascontiguousarray(grad[::-1])[::-1] if shape else grad
    if kind == "Fortran":
        return np.array(grad, order="F")
    if kind == "subclass":
        return grad.view(Array)
    if kind == "special" and grad.size:
        grad.reshape(-1)[seed % grad.size] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e30][seed % 7]
    if kind == "read-only":
        grad.flags.writeable = False
    if kind == "scalar" and not shape:
        return grad[()]
    return grad


class Machine(RuleBasedStateMachine):
    """An optimizer and a model of each of its parameters."""

    rules_run = 0  # by all machines of this process

    @initialize(
        backend=backends,
        first=groups,
        more=st.lists(groups, max_size=1),
        options=options(),
        on_disk=st.sampled_from([False, False, True]),
        lazy=st.sampled_from(["skip", "exact"]),
        decay=st.sampled_from([None, None, 0.9]),
    )
    def make(
        self, backend: str, first: Any, more: Any, options: Any, on_disk: bool, lazy: str, decay: float | None
    ) -> None:
        self.backend = backend
        self.lazy = lazy
        self.folder = tempfile.TemporaryDirectory() if on_disk and CAN_LIE_ON_DISK else None
        self.files = 0
        self.layouts: list[str] = []
        self.arrays: list[list[np.ndarray]] = []
        self.models: list[list[Model]] = []
        self.options: list[dict[str, Any]] = []
        self.saved: list[Any] = []
        self.skipped = 0
        self.defaults = options
        self.settings: dict[str, Any] = {
            "ema_decay": decay,
            "ema_warmup": False,
            "max_grad_norm": None,
            "skip_nonfinite": False,
        }
        given = [self._enter(*each, options, seed) for seed, each in enumerate([first, *more])]
        self.opt = fastadam.Adam(given, ema_decay=decay, backend=backend, lazy=lazy, **options, **self._place())

    def _place(self) -> dict[str, Any]:
        """Return where the state of a new optimizer is to lie."""
        if self.folder is None:
            return {}
        self.files += 1
        return {"state_path": os.path.join(self.folder.name, f"{self.files}.bin")}

    def teardown(self) -> None:
        if getattr(self, "folder", None) is not None:
            self.__dict__.pop("opt", None)
            self.folder.cleanup()

    def _enter(
        self, layout: str, shapes: Any, dtype: Any, state_dtype: str | None, options: Any, seed: int
    ) -> dict[str, Any]:
        values = [numbers(shape, dtype, seed + i) for i, shape in enumerate(shapes)]
        given, arrays = hold(layout, values)
        self.layouts.append(layout)
        self.arrays.append(arrays)
        self.models.append([Model(value, state_dtype) for value in values])
        if self.settings["ema_decay"] is not None:
            self._begin_averages(self.models[-1])
        self.options.append({**options, "state_dtype": state_dtype})
        return {"params": given, "state_dtype": state_dtype}

    def _all(self) -> list[tuple[Model, np.ndarray, dict[str, Any]]]:
        return [
            (model, array, options)
            for models, arrays, options in zip(self.models, self.arrays, self.options, strict=True)
            for model, array in zip(models, arrays, strict=True)
        ]

    def _grads(self, data: st.DataObject) -> list[Any]:
        seed = data.draw(st.integers(0, 2**20))
        return [
            gradient(data.draw(st.sampled_from(GRADS)), m.param.shape, m.param.dtype, seed + i)
            for i, (m, _, _) in enumerate(self._all())
        ]

    @staticmethod
    def _begin_averages(models: Any) -> None:
        for model in models:
            model.ema = model.param.copy()

    def _rows_can_step(self, model: Model) -> bool:
        """Whether a parameter can be stepped row by row: none shares a block of its state with others."""
        reals = model.param[:1].size * (2 if model.param.dtype.kind == "c" else 1) if model.param.ndim else 0
        return bool(model.param.ndim) and not (model.state_dtype == "int8" and reals % 64)

    def _rows(self, data: st.DataObject, how: str, kinds: Any, seed: int, model: Model) -> tuple[Any, Any, Any]:
        """Return a gradient of some rows, the mask that belongs to it, or None, and what the model sees."""
        shape, dtype = model.param.shape, model.param.dtype
        rows = st.lists(st.integers(0, shape[0] - 1), max_size=8) if shape[0] else st.just([])
        chosen = data.draw(rows)
        kind = data.draw(st.sampled_from([each for each in kinds if each != "None"]))
        if how == "rows":
            grad = gradient(kind, (len(chosen), *shape[1:]), dtype, seed)
            indices = indices_as(data.draw(st.sampled_from(INDICES)), chosen)
            return fastadam.Rows(indices, grad), None, touched(chosen, grad)
        mask = np.zeros(shape[0], bool)
        mask[np.array(chosen, int)] = True
        grad = gradient(kind, shape, dtype, seed)
        given = np.repeat(mask, 2)[::2] if data.draw(st.booleans()) else mask.copy()
        return grad, given, masked(mask, grad)

    def _follow(self, grads: list[Any], divisor: float = 1.0) -> None:
        present = [
            np.array(grad.values if isinstance(grad, Touched) else grad) for grad in grads if grad is not None
        ]
        limit, skips, coefficient = self.settings["max_grad_norm"], self.settings["skip_nonfinite"], 1.0
        if skips and not all(np.isfinite(grad).all() for grad in present):
            self.skipped += 1
            return
        if limit is not None:
            norm = fastadam.clip_grad_norm(present, math.inf) / divisor
            assert self.opt.grad_norm == norm or math.isnan(norm)
            coefficient = scale_of(norm, limit)
        for position, ((model, _, options), grad) in enumerate(zip(self._all(), grads, strict=True)):
            if isinstance(grad, Touched) and self.lazy == "skip":
                model.step_rows(*grad, options, coefficient / divisor, position)
            elif isinstance(grad, Touched):
                whole = np.zeros_like(model.param)
                whole[grad.numbers] = grad.values
                model.step(whole, options, coefficient / divisor, position)
            elif grad is not None:
                model.forget_rows()
                if model.own is not None:
                    every = np.arange(len(model.param))
                    model.step_rows(every, np.asarray(grad), options, coefficient / divisor, position)
                else:
                    model.step(np.asarray(grad), options, coefficient / divisor, position)
            if self.settings["ema_decay"] is not None:
                model.average(self.settings["ema_decay"], self.settings["ema_warmup"], grad is not None)

    @rule(decay=st.sampled_from([None, 0.5, 0.9, 0.0]), warms_up=st.booleans())
    def keep_averages(self, decay: float | None, warms_up: bool) -> None:
        if decay is None or self.settings["ema_decay"] is None:
            for model, _, _ in self._all():
                model.ema = None if decay is None else model.param.copy()
        self.settings.update(ema_decay=decay, ema_warmup=warms_up)
        self.opt.ema_decay, self.opt.ema_warmup = decay, warms_up

    @rule(limit=st.sampled_from([None, 0.1, 10.0]), skips=st.booleans())
    def mind_the_norm(self, limit: float | None, skips: bool) -> None:
        self.settings.update(max_grad_norm=limit, skip_nonfinite=skips)
        self.opt.max_grad_norm, self.opt.skip_nonfinite = limit, skips

    @precondition(lambda self: self.settings["ema_decay"] is not None)
    @rule(fails=st.booleans())
    def evaluate_averages(self, fails: bool) -> None:
        with contextlib.suppress(FaultError), self.opt.averaged():
            for model, array, _ in self._all():
                assert_same_bits(np.asarray(array), model.ema)
            self._refused(self.opt.step, RuntimeError)
            self._refused(self.opt.state_dict, RuntimeError)
            if fails:
                raise FaultError

    @rule(data=st.data(), divisor=st.sampled_from([1.0, 3.0]), how=st.sampled_from(["list", "one", "missing"]))
    def step_that_zeroes(self, data: st.DataObject, divisor: float, how: str) -> None:
        seed = data.draw(st.integers(0, 2**20))
        kinds = ["normal", "special"] if how != "missing" else ["normal", "None"]
        grads = [
            gradient(data.draw(st.sampled_from(kinds)), m.param.shape, m.param.dtype, seed + i)
            for i, (m, _, _) in enumerate(self._all())
        ]
        if how == "one":  # the same array for several parameters
            same = {(grad.shape, grad.dtype): grad for grad in grads}
            grads = [same[grad.shape, grad.dtype] for grad in grads]
        before = [None if grad is None else grad.copy() for grad in grads]
        self.opt.step(grads, divisor, True)
        assert not any(grad.any() for grad in grads if grad is not None)
        self._follow(before, divisor)

    @rule(data=st.data(), how=st.sampled_from(["list", "tuple", "generator", "homes", "closure", "thread"]))
    def step(self, data: st.DataObject, how: str) -> None:
        grads = self._grads(data)
        if how == "homes" and set(self.layouts) <= {"packed", "Parameters"}:
            place = 0
            for i, layout in enumerate(self.layouts):
                given = self.opt._groups[i]
                for j in range(len(self.models[i])):
                    if layout == "Parameters":
                        given.members[j].given.grad = grads[place]
                    else:
                        if grads[place] is None:  # there is always a gradient in a buffer
                            grads[place] = np.zeros_like(self.models[i][j].param)
                        given.members[j].grad_source[...] = grads[place]
                    place += 1
            self.opt.step()
        elif how == "closure":
            assert self.opt.step(grads, closure=lambda: 7) == 7
        elif how == "thread":
            thread = threading.Thread(target=self.opt.step, args=(grads,))
            thread.start()
            thread.join()
        else:
            self.opt.step({"list": list, "tuple": tuple}.get(how, iter)(grads))
        self._follow(grads)

    @rule(
        data=st.data(),
        divisor=st.sampled_from([1.0, 1.0, 3.0]),
        zeroes=st.booleans(),
        where=st.sampled_from(["list", "homes"]),
        times=st.sampled_from([1, 3]),
    )
    def step_over_rows(self, data: st.DataObject, divisor: float, zeroes: bool, where: str, times: int) -> None:
        """Take steps with `fastadam.Rows` or a mask for some parameters."""
        for _ in range(times):
            self._step_over_rows(data, divisor, zeroes, where)
            self.agrees_in_every_bit()

    def _step_over_rows(self, data: st.DataObject, divisor: float, zeroes: bool, where: str) -> None:
        seed = data.draw(st.integers(0, 2**20))
        at_home = where == "homes" and set(self.layouts) <= {"packed", "Parameters"}
        kinds = ("normal", "subclass", "special") if zeroes else GRADS
        grads: list[Any] = []
        seen: list[Any] = []
        masks: dict[Any, Any] = {}
        layouts_ = [name for name, models in zip(self.layouts, self.models, strict=True) for _ in models]
        for position, ((model, _, _), layout) in enumerate(zip(self._all(), layouts_, strict=True)):
            in_buffer = at_home and layout == "packed"
            how = data.draw(st.sampled_from(["mask", "dense"] if in_buffer else ["rows", "rows", "mask", "dense"]))
            if how == "dense" or not self._rows_can_step(model):
                kind = data.draw(st.sampled_from([k for k in kinds if not (in_buffer and k == "None")]))
                grads.append(gradient(kind, model.param.shape, model.param.dtype, seed + position))
                seen.append(None if grads[-1] is None else np.array(grads[-1]))
                continue
            grad, mask, known = self._rows(data, how, kinds, seed + position, model)
            grads.append(grad)
            seen.append(Touched(known.numbers.copy(), known.values.copy()))
            if mask is not None:
                key = self.opt._groups.members[position].given
                masks[key if isinstance(key, fastadam.Parameter) and data.draw(st.booleans()) else position] = mask
        mask = masks or (None if data.draw(st.booleans()) else {})
        if at_home:
            places = iter(grads)
            for group in self.opt._groups:
                for member in group.members:
                    grad = next(places)
                    if isinstance(member.given, fastadam.Parameter):
                        member.given.grad = grad
                    else:
                        member.grad_source[...] = grad
            self.opt.step(None, divisor, zeroes, mask=mask)
        else:
            self.opt.step(grads, divisor, zeroes, mask=mask)
        if zeroes and not at_home:
            held = [grad.grads if isinstance(grad, fastadam.Rows) else grad for grad in grads]
            assert not any(np.asarray(grad).any() for grad in held if grad is not None)
        self._follow(seen, divisor)

    @rule(
        data=st.data(),
        kind=st.sampled_from([*BAD_INDICES, "blocks", "shape", "dtype", "param", "a mask, too"]),
        which=st.integers(0, 9),
    )
    def step_with_wrong_rows(self, data: st.DataObject, kind: str, which: int) -> None:
        grads = self._grads(data)
        which %= len(grads)
        model, array, _ = self._all()[which]
        mask = None
        shape, dtype = model.param.shape, model.param.dtype
        right = np.ones((1, *shape[1:]), dtype)
        if not model.param.ndim or not len(model.param):
            rows = fastadam.Rows([0], right)
        elif kind == "blocks":
            if self._rows_can_step(model):
                return
            rows = fastadam.Rows([0], right)
        elif kind in BAD_INDICES:
            rows = bad_rows(kind, len(model.param), right)
        elif kind == "a mask, too":
            rows, mask = fastadam.Rows([0], right), {which: np.ones(len(model.param), bool)}
        else:
            wrong = {"shape": right[..., None], "dtype": right.real.astype(np.int64), "param": array[:1]}
            rows = fastadam.Rows([0], wrong[kind] if array.size or kind != "param" else right.tolist())
        grads[which] = rows
        self._refused(lambda: self.opt.step(grads, mask=mask))

    @rule(data=st.data(), kind=st.sampled_from([*BAD_MASKS, "no mapping", "key"]), which=st.integers(0, 9))
    def step_with_a_wrong_mask(self, data: st.DataObject, kind: str, which: int) -> None:
        grads = self._grads(data)
        which %= len(grads)
        model, _, _ = self._all()[which]
        grads[which] = numbers(model.param.shape, model.param.dtype, 3)
        n = len(model.param) if model.param.ndim else 1
        mask: Any = {99: np.ones(n, bool)} if kind == "key" else [np.ones(n, bool)]
        if kind in BAD_MASKS:
            mask = {which: bad_mask(kind, n)}
        self._refused(lambda: self.opt.step(grads, mask=mask))

    @rule(data=st.data(), which=st.lists(st.integers(0, 9), max_size=2))
    def catch_up_some(self, data: st.DataObject, which: list[int]) -> None:
        chosen: dict[Any, Any] = {}
        for position in {each % len(self._all()) for each in which}:
            model, _, _ = self._all()[position]
            if model.param.ndim and len(model.param):
                rows = data.draw(st.lists(st.integers(0, len(model.param) - 1), max_size=4))
                chosen[position] = indices_as(data.draw(st.sampled_from(INDICES)), rows)
                n = len(model.param)
                self._refused(lambda position=position, n=n: self.opt.catch_up({position: [n]}))
        self.opt.catch_up(chosen)
        for position, rows in chosen.items():
            assert not self._behind(position)[np.asarray(rows, np.int64)].any()

    @rule()
    def catch_up(self) -> None:
        self.opt.catch_up()
        assert not any(self._behind(position).any() for position in range(len(self._all())))

    def _behind(self, position: int) -> np.ndarray:
        """Return which rows of a parameter have still to take steps that they have missed."""
        group, index = self.opt._groups.where[position]
        own = group.own_steps.get(index) if self.lazy == "exact" else None
        if own is None or not group.members[index].size:
            return np.zeros(group.members[index].shape[:1], bool)
        return own < group.step_of(index)

    @rule(data=st.data(), kind=st.sampled_from(BAD_GRADS), which=st.integers(0, 9))
    def step_with_a_wrong_gradient(self, data: st.DataObject, kind: str, which: int) -> None:
        grads = self._grads(data)
        which %= len(grads)
        model, array, _ = self._all()[which]
        right = numbers(model.param.shape, model.param.dtype, 5)
        wrong: dict[str, Callable[[], Any]] = {
            "dtype": lambda: right.real.astype(np.int64),
            "shape": lambda: np.zeros((*right.shape, 2), right.dtype),
            "masked": lambda: np.ma.masked_array(right),
            "param": lambda: array if array.size else 3,
            "moment": lambda: (
                self.opt.state[which]["exp_avg"]
                if model.steps and array.size and model.state_dtype is None  # else it is a copy
                else 3
            ),
            "list": lambda: right.tolist() if right.shape else "1",
            "byte order": lambda: right.astype(right.dtype.newbyteorder()),
            "object": lambda: right.astype(object),
        }
        grads[which] = wrong[kind]()
        self._refused(lambda: self.opt.step(grads))
        self._refused(lambda: self.opt.step(grads[:-1]))

    def _refused(self, act: Callable[[], object], errors: Any = (TypeError, ValueError)) -> None:
        try:
            act()
        except errors:
            return
        raise AssertionError("this should have been refused")

    @rule(which=st.integers(0, 9), new=options(), key=st.sampled_from(EDITED))
    def edit(self, which: int, new: dict[str, Any], key: str) -> None:
        which %= len(self.options)
        self.opt.param_groups[which][key] = self.options[which][key] = new[key]

    @rule(which=st.integers(0, 9))
    def edit_to_a_schedule(self, which: int) -> None:
        which %= len(self.options)
        self.opt.param_groups[which]["lr"] = self.options[which]["lr"] = schedule

    @rule(
        data=st.data(),
        which=st.integers(0, 9),
        bad=st.sampled_from(
            [
                ("lr", -1.0),
                ("lr", float("nan")),
                ("lr", "1"),
                ("betas", (0.9, 1.0)),
                ("betas", 0.9),
                ("eps", None),
                ("amsgrad", 2),  # 1 equals True, and where it is on, nothing has changed
                ("weight_decay", float("inf")),
                ("unknown", 1),
                ("params", ()),
                ("lr", lambda step: -1.0),
                ("lr", lambda step: "1"),
            ]
        ),
    )
    def edit_to_something_wrong(self, data: st.DataObject, which: int, bad: Any) -> None:
        which %= len(self.options)
        group, (key, value) = self.opt.param_groups[which], bad
        before = dict(group)
        group[key] = value
        # (A schedule is asked only where a parameter of its group is stepped.)
        grads = [gradient("normal", m.param.shape, m.param.dtype, 3) for m, _, _ in self._all()]
        self._refused(lambda: self.opt.step(grads))
        if not callable(value):
            self._refused(self.opt.state_dict)
            self._refused(lambda: pickle.dumps(self.opt))
        group.clear()
        group.update(before)

    @rule(where=st.sampled_from(["closure", "schedule", "iterator", "array"]))
    def step_that_raises(self, where: str) -> None:
        def fail(*args: Any) -> Any:
            raise FaultError

        class Failing:
            __array__ = property(fail)

        grads = [gradient("normal", m.param.shape, m.param.dtype, 4) for m, _, _ in self._all()]
        if where == "closure":
            self._refused(lambda: self.opt.step(grads, closure=fail), FaultError)
        elif where == "schedule":
            group = self.opt.param_groups[-1]
            before, group["lr"] = group["lr"], fail
            self._refused(lambda: self.opt.step(grads), FaultError)
            group["lr"] = before
        elif where == "iterator":
            self._refused(lambda: self.opt.step(map(fail, grads)), FaultError)
        else:
            self._refused(lambda: self.opt.step([*grads[:-1], Failing()]), (TypeError, FaultError))

    @rule(which=st.integers(0, 9), data=st.data(), by_parents=st.booleans())
    def resize(self, which: int, data: st.DataObject, by_parents: bool) -> None:
        """Give a parameter other rows; of the model, each array's rows are taken one after another."""
        which %= len(self._all())
        model, array, _ = self._all()[which]
        if not array.ndim:
            self._refused(lambda: self.opt.resize(which, grow=1))
            return
        n = len(array)
        rows = st.lists(st.integers(0, n - 1), max_size=max(n, 4)) if n else st.just([])
        keep, parents = data.draw(st.one_of(st.none(), rows)), data.draw(rows)
        for bad in ({"keep": [n]}, {"keep": [-1]}, {"grow": [n]}, {"grow": -1}, {"keep": [0.5]}):
            self._refused(lambda bad=bad: self.opt.resize(which, **bad))
        self.opt.resize(which, keep=keep, grow=parents if by_parents else len(parents))
        model.take_rows(range(n) if keep is None else keep, parents, by_parents, keep is None)
        self.arrays = [[member.owner for member in group.members] for group in self.opt._groups]
        gc.collect()  # a list of the old ones, in a traceback that nobody has any more, would be looked into
        self.saved.clear()  # of other shapes

    @rule(which=st.lists(st.integers(0, 9), max_size=3), everything=st.booleans())
    def reset(self, which: list[int], everything: bool) -> None:
        models = [model for model, _, _ in self._all()]
        chosen = range(len(models)) if everything else {each % len(models) for each in which}
        self.opt.reset(None if everything else list(chosen))
        for position in chosen:
            models[position].clear()
        if self.settings["ema_decay"] is not None:
            self._begin_averages(models[position] for position in chosen)

    @precondition(lambda self: len(self.options) > 1)
    @rule(which=st.integers(0, 9))
    def remove_group(self, which: int) -> None:
        which %= len(self.options)
        gone = self.opt.param_groups[which]
        assert self.opt.remove_param_group(which) is gone
        for each in (self.layouts, self.arrays, self.models, self.options):
            del each[which]
        self.saved.clear()

    @precondition(lambda self: len(self.options) < 4)
    @rule(group=groups, options=options())
    def add_group(self, group: Any, options: Any) -> None:
        given = self._enter(*group, {**self.defaults, **options}, 11)
        self.opt.add_param_group({**given, **options})

    @rule(kind=st.sampled_from(["shared", "empty", "name", "option", "number", "read-only"]))
    def add_a_wrong_group(self, kind: str) -> None:
        locked = np.zeros(2)
        locked.flags.writeable = False
        groups_: dict[str, Any] = {
            "shared": {"params": [np.zeros(3), next((a for _, a, _ in self._all() if a.size), locked)]},
            "empty": {"params": []},
            "name": {"params": {"w": np.zeros(1)}},
            "option": {"params": np.zeros(1), "lr": -1},
            "number": {"params": 3.0},
            "read-only": {"params": [np.zeros(1), locked]},
        }
        self._refused(lambda: self.opt.add_param_group(groups_[kind]))

    @rule(which=st.integers(0, 9), seed=st.integers(0, 9))
    def write_to_a_parameter(self, which: int, seed: int) -> None:
        model, array, _ = self._all()[which % len(self._all())]
        self.opt.catch_up()
        array[...] = model.param[...] = numbers(array.shape, array.dtype, seed)

    @rule(which=st.integers(0, 9))
    def take_an_array_away(self, which: int) -> None:
        """Refuse a step over an array that was made read-only; nobody can resize one."""
        which %= len(self._all())
        _model, array, _ = self._all()[which]
        grads = [gradient("normal", m.param.shape, m.param.dtype, 6) for m, _, _ in self._all()]
        if array.size:
            self._refused(lambda: array.resize(array.size + 7, refcheck=False))
        of_bytes = array.base is not None and not isinstance(array.base, np.ndarray)  # of a pickle
        if "packed" in self.layouts or of_bytes:
            return
        array.flags.writeable = False
        self._refused(lambda: self.opt.step(grads))
        array.flags.writeable = True

    @rule()
    def remember_state(self) -> None:
        models = [[model.copy() for model in each] for each in self.models]
        self.saved.append((self.opt.state_dict(), models, copy.copy([dict(each) for each in self.options])))

    @precondition(lambda self: any(len(each[1]) == len(self.models) for each in self.saved))
    @rule(which=st.integers(0, 9))
    def load_state(self, which: int) -> None:
        fitting = [each for each in self.saved if len(each[1]) == len(self.models)]
        saved, models, options = fitting[which % len(fitting)]
        if self.settings["ema_decay"] is None and any(
            m.ema is not None and m.steps for each in models for m in each
        ):
            self._refused(lambda: self.opt.load_state_dict(saved))
            return
        self.opt.load_state_dict(saved)
        self._take(models, options)

    def _take(self, models: Any, options: Any, params: bool = False) -> None:
        for mine, theirs in zip(self.models, models, strict=True):
            for model, other in zip(mine, theirs, strict=True):
                model.take_state(other)
                if params:
                    model.param = other.param.copy()
                if self.settings["ema_decay"] is None:
                    model.ema = None
                elif model.ema is None or not model.steps:
                    model.ema = model.param.copy()
        self.options = [dict(each) for each in options]

    @rule(kind=st.sampled_from(["group", "step", "shape", "dtype", "option", "moment", "extra"]))
    def load_a_wrong_state(self, kind: str) -> None:
        saved = self.opt.state_dict()
        entry = next(iter(saved["state"].values()), None)
        if kind == "group":
            saved["param_groups"].append(saved["param_groups"][0])
        elif kind == "option":
            saved["param_groups"][-1]["eps"] = -1
        elif kind == "extra" or entry is None:
            saved["state"][99] = {}
        elif kind == "step":
            entry["step"] = -1
        elif kind == "moment":
            del entry["exp_avg_sq"]
        elif kind == "shape":
            entry["exp_avg"] = np.zeros((*entry["exp_avg"].shape, 2), entry["exp_avg"].dtype)
        else:
            entry["exp_avg"] = np.zeros(entry["exp_avg"].shape, np.int32)
        self._refused(lambda: self.opt.load_state_dict(saved))

    @precondition(lambda self: CAN_SAVE and not any(callable(each["lr"]) for each in self.options))
    @rule(backend=backends, layout=layouts, steps_on=st.booleans())
    def save_and_load(self, backend: str, layout: str, steps_on: bool) -> None:
        """Go on from a file, in another layout and with another backend; or back in the same optimizer."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.safetensors")
            fastadam.save(path, self.opt, extra={"n": [1, 2.5]})
            models = [[model.copy() for model in each] for each in self.models]
            options = [dict(each) for each in self.options]
            if steps_on:
                grads = [gradient("normal", m.param.shape, m.param.dtype, 8) for m, _, _ in self._all()]
                self.opt.step(grads)
            else:
                self._rebuild(backend, layout)
            assert fastadam.load(path, self.opt) == {"n": [1, 2.5]}
            self._take(models, options, params=True)

    def _rebuild(self, backend: str, layout: str) -> None:
        """Make an optimizer over other arrays, with options of its own."""
        given = []
        for i, models in enumerate(self.models):
            held, self.arrays[i] = hold(layout, [np.ones_like(model.param) for model in models])
            self.layouts[i] = layout
            given.append({"params": held, "state_dtype": self.options[i]["state_dtype"]})
        settings = dict(self.settings)
        settings["ema_warmup"] &= settings["ema_decay"] is not None  # a new one refuses it
        self.opt = fastadam.Adam(given, backend=backend, lazy=self.lazy, **settings, **self._place())
        self.skipped = 0

    @rule(backend=backends, layout=layouts)
    def move_to_another_optimizer(self, backend: str, layout: str) -> None:
        saved = self.opt.state_dict()
        self._rebuild(backend, layout)
        self.opt.load_state_dict(saved)
        for model, array, _ in self._all():
            model.forget_rows()
            if self.settings["ema_decay"] is not None and not model.steps:
                model.ema = np.ones_like(model.param)
            array[...] = model.param

    @rule(how=st.sampled_from(["copy", "pickle"]))
    def copy(self, how: str) -> None:
        if self.folder is not None:
            self._refused(lambda: copy.deepcopy(self.opt))
            return
        self.opt = copy.deepcopy(self.opt) if how == "copy" else pickle.loads(pickle.dumps(self.opt))
        for model, _, _ in self._all():
            model.forget_rows()
        if self.settings["ema_decay"] is not None:  # an average begins with the first step
            self._begin_averages(model for model, _, _ in self._all() if not model.steps)
        self.arrays = [[member.owner for member in group.members] for group in self.opt._groups]
        self.layouts = ["copied" if layout == "one piece of memory" else layout for layout in self.layouts]

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        members = [member for group in self.opt._groups for member in group.members]
        held = [member.given for member in members if isinstance(member.given, fastadam.Parameter)]
        kept = [each.grad for each in held if each.grad is not None]
        if set_to_none or all(isinstance(grad, np.ndarray) and grad.flags.writeable for grad in kept):
            self.opt.zero_grad(set_to_none)
            assert all(each.grad is None or (not set_to_none and not each.grad.any()) for each in held)
        else:
            self._refused(lambda: self.opt.zero_grad(set_to_none))
            now = [each.grad for each in held if each.grad is not None]
            assert all(a is b for a, b in zip(now, kept, strict=True))

    @invariant()
    def agrees_in_every_bit(self) -> None:
        if not hasattr(self, "opt"):
            return
        Machine.rules_run += 1
        for position, (model, array, _) in enumerate(self._all()):
            behind = self._behind(position)

            def agree(ours: Any, theirs: Any, name: str, behind: np.ndarray = behind) -> None:
                ours = np.asarray(ours)
                if behind.any():  # what those rows will have is looked at later
                    ours, theirs = ours[~behind], theirs[~behind]
                assert_same_bits(ours, theirs, name)

            agree(array, model.param, f"parameter {position}")
            if self.settings["ema_decay"] is not None:
                agree(self.opt.ema[position], model.ema, f"average {position}")
            if position not in self.opt.state:
                assert not model.steps
                continue
            entry = self.opt.state[position]
            assert entry["step"] == model.steps
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                if name in entry or getattr(model, name).any():
                    agree(entry[name], getattr(model, name), f"{name} {position}")
            if self.lazy == "skip":
                own = np.full(model.param.shape[:1], model.steps) if model.own is None else model.own
                assert entry.get("row_step", np.full(own.shape, model.steps)).tolist() == own.tolist()
        assert self.opt.skipped_steps == self.skipped
        for group, options in zip(self.opt.param_groups, self.options, strict=True):
            assert {key: group[key] for key in options} == options


def schedule(step: int) -> float:
    """Return a learning rate; at the top of the module, so that it can be pickled."""
    return 0.5 / (1 + step)


Machine.TestCase.settings = examples(12, stateful_step_count=30)
TestTheWholeAPI = Machine.TestCase
