"""Models copied and pickled together with their optimizers: a step of the copy moves the copy, and only that."""

from __future__ import annotations

import copy
import io
import mmap
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.strategies import examples

SHAPES: list[tuple[int, ...]] = [(4, 3), (), (0,), (150,)]
NAMES = ["w", "scale", "none", "b"]


class Model:
    """Holds its weights in one of many ways, and its optimizer; which is first, a copy meets first."""

    def __init__(self, how: str, optimizer_first: bool, start: list[np.ndarray], **options: Any) -> None:
        params: Any
        self.weights: list[Any]
        self.grads: Any = None
        held: Any = None
        named = dict(zip(NAMES, start, strict=True))
        if how == "arrays":
            params = held = start
            weights = start
        elif how == "named arrays":
            params = held = named
            weights = start
        elif how == "objects":
            params = held = [fastadam.Parameter(each) for each in start]
            weights = [each.data for each in params]
        elif how == "groups of packed":
            flats = [fastadam.pack(start[:2]), fastadam.pack(start[2:])]
            params = [{"params": flats[0]}, {"params": flats[1], "lr": 0.03}]
            held = flats[1].param[1:]
            weights = [*flats[0].params, *flats[1].params]
            self.grads = [*flats[0].grads, *flats[1].grads]
        else:
            flat = params = fastadam.pack(named if "named" in how else start)
            weights = flat.param_views
            self.grads = flat.grad_views
            held = {
                "packed": flat,
                "params": flat.params,
                "named params": flat.params,
                "copied params": flat.params.copy(),
                "whole": flat.param,
                "views": None,
                "views of views": [weights[0][1:].T, flat.param[3:].reshape(-1, 1), weights[3][::-2]],
            }[how]
        optimizer = fastadam.Adam(params, lr=0.1, **options)
        if optimizer_first:
            self.optimizer, self.weights, self.held = optimizer, list(weights), held
        else:
            self.held, self.weights, self.optimizer = held, list(weights), optimizer

    def step(self, seed: int) -> None:
        drawn = random_arrays(SHAPES, self.weights[0].dtype, seed)
        given: Any = self.optimizer.param_groups[0]["params"]
        if isinstance(given[0], fastadam.Parameter):
            for parameter, grad in zip(given, drawn, strict=True):
                parameter.grad = grad
            self.optimizer.step()
        elif self.grads is not None:  # written where the optimizer finds them
            for place, grad in zip(self.grads, drawn, strict=True):
                place[...] = grad
            self.optimizer.step()
        elif "param_names" in self.optimizer.param_groups[0]:
            self.optimizer.step(dict(zip(NAMES, drawn, strict=True)))
        else:
            self.optimizer.step(drawn)

    def numbers(self) -> list[np.ndarray]:
        """Return copies of the weights, as the model sees them."""
        held: Any = self.held
        if isinstance(held, fastadam.Packed):
            held = list(held.params)
        elif isinstance(held, np.ndarray) or held is None:
            held = [held] if held is not None else []
        else:
            held = list(held.values() if hasattr(held, "values") else held)
        held = [each.data if isinstance(each, fastadam.Parameter) else each for each in held]
        return [np.array(each) for each in (*self.weights, *held)]


HOLDERS = (
    *("arrays", "named arrays", "objects", "groups of packed", "packed", "params", "named params"),
    *("copied params", "whole", "views", "views of views"),
)


def through_pickle(protocol: int) -> Callable[[Any], Any]:
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))


def in_python(thing: Any) -> Any:
    """Pickle and unpickle with Python's own classes, as `joblib` and `cloudpickle` build on."""
    file = io.BytesIO()
    pickle._Pickler(file, 4).dump(thing)  # type: ignore[attr-defined]
    file.seek(0)
    return pickle._Unpickler(file).load()  # type: ignore[attr-defined]


def out_of_band(store: Callable[[bytes], Any]) -> Callable[[Any], Any]:
    """Pickle with buffers out of band, which come back as an object store hands them out."""

    def send(thing: Any) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(thing, 5, buffer_callback=buffers.append)
        return pickle.loads(data, buffers=[store(bytes(each)) for each in buffers])

    return send


def mapped(numbers: bytes) -> Any:
    """Return the bytes in a file that is mapped to be read."""
    with tempfile.TemporaryFile() as file:
        file.write(numbers or b"\0")
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[: len(numbers)]


def through_joblib(mmap_mode: str | None) -> Callable[[Any], Any]:
    def send(thing: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "thing"
            joblib.dump(thing, path)
            return joblib.load(path, mmap_mode=mmap_mode)

    return send


KEEP_SHARED: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    **{f"protocol {protocol}": through_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "in Python": in_python,
    "bytes": out_of_band(lambda numbers: numbers),
    "writable": out_of_band(bytearray),
    "mapped": out_of_band(mapped),
}
LOADERS = {f"joblib, {mode}": through_joblib(mode) for mode in (None, "r", "c")}


@examples(15)
@given(
    how=st.sampled_from(HOLDERS),
    way=st.sampled_from([*KEEP_SHARED, *LOADERS]),
    optimizer_first=st.booleans(),
    dtype=st.sampled_from([np.float32, np.complex128]),
    steps=st.integers(0, 2),
    amsgrad=st.booleans(),
)
def test_a_step_of_the_copy_moves_the_copy_as_a_step_of_the_original_moves_that(
    backend: str, how: str, way: str, optimizer_first: bool, dtype: Any, steps: int, amsgrad: bool
) -> None:
    start = random_arrays(SHAPES, dtype, 0)
    model = Model(how, optimizer_first, start, amsgrad=amsgrad, backend=backend)
    for seed in range(steps):
        model.step(seed)
    if way in LOADERS and how in ("arrays", "named arrays", "objects"):
        with pytest.raises(pickle.PicklingError, match="separate arrays of one that is shared"):
            LOADERS[way](model)
        return
    before = model.numbers()
    twin = {**KEEP_SHARED, **LOADERS}[way](model)
    assert_same_state(snapshot(twin.optimizer), snapshot(model.optimizer))
    for seed in range(2):
        twin.step(seed + 7)
    for number, old in zip(model.numbers(), before, strict=True):
        assert_same_bits(number, old)
    for seed in range(2):
        model.step(seed + 7)
    for ours, theirs, old in zip(twin.numbers(), model.numbers(), before, strict=True):
        assert_same_bits(ours, theirs)
        assert not ours.size or (ours != old).any()
    assert_same_state(snapshot(twin.optimizer), snapshot(model.optimizer))


@pytest.mark.parametrize("way", [*KEEP_SHARED, *LOADERS])
@pytest.mark.parametrize("how", HOLDERS)
def test_an_optimizer_by_itself_arrives_and_steps(how: str, way: str) -> None:
    model = Model(how, True, random_arrays(SHAPES, np.float32, 0))
    model.step(0)
    twin = {**KEEP_SHARED, **LOADERS}[way](model.optimizer)
    grads = random_arrays(SHAPES, np.float32, 1)
    for optimizer in (model.optimizer, twin):
        given: Any = [each for group in optimizer.param_groups for each in group["params"]]
        for parameter, grad in zip(given, grads, strict=True):
            if isinstance(parameter, fastadam.Parameter):
                parameter.grad = grad
        named = dict(zip(NAMES, grads, strict=True))
        if how == "objects":
            optimizer.step()
        else:
            optimizer.step(named if how.startswith("named") else grads)
    assert_same_state(snapshot(twin), snapshot(model.optimizer))


@pytest.mark.parametrize("way", [*KEEP_SHARED, *LOADERS])
def test_saved_states_that_arrive_can_be_loaded(way: str) -> None:
    optimizer, fresh = fastadam.Adam([np.ones(200)]), fastadam.Adam([np.ones(200)])
    optimizer.step([np.arange(200.0)])
    fresh.load_state_dict({**KEEP_SHARED, **LOADERS}[way](optimizer.state_dict()))
    for twin in (optimizer, fresh):
        twin.step([np.ones(200)])
    assert_same_bits(fresh.state[0]["exp_avg_sq"], optimizer.state[0]["exp_avg_sq"])


@pytest.mark.parametrize("way", ["bytes", "mapped", "joblib, r"])
def test_parameters_that_arrive_can_be_written(way: str) -> None:
    parameter = fastadam.Parameter(np.ones(200))
    parameter.grad = np.ones(200)
    twin = {**KEEP_SHARED, **LOADERS}[way](parameter)
    twin.grad += 1
    fastadam.Adam([twin]).step()
    assert (twin.data < 1).all()
    assert (parameter.data == 1).all()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_subclasses_of_parameters_travel_with_what_they_have(protocol: int) -> None:
    for kind in (Named, Slotted):
        parameter = kind(np.ones(3))
        parameter.name = "w"
        twin = through_pickle(protocol)(parameter)
        assert (type(twin), twin.name) == (kind, "w")
        assert_same_bits(twin.data, parameter.data)


def test_optimizers_can_be_hashed_by_value() -> None:
    """As `joblib.Memory` does with arguments: by a pickler that replaces arrays."""
    first, second = fastadam.Adam([np.ones(3)]), fastadam.Adam([np.ones(3)])
    assert joblib.hash(first) == joblib.hash(second)
    assert joblib.hash(fastadam.pack([np.ones(3)])) == joblib.hash(fastadam.pack([np.ones(3)]))


class Named(fastadam.Parameter):
    """Has a dict of its own."""

    name: str


def test_a_shallow_copy_of_a_model_shares_its_weights() -> None:
    for how in HOLDERS:
        model = Model(how, True, random_arrays(SHAPES, np.float32, 0))
        twin = copy.copy(model)
        assert twin.optimizer is model.optimizer
        twin.optimizer = copy.copy(model.optimizer)
        twin.step(0)
        for ours, theirs in zip(twin.numbers(), model.numbers(), strict=True):
            assert_same_bits(ours, theirs)


def test_a_copy_of_a_packed_buffer_is_its_own() -> None:
    flat = fastadam.pack([np.ones(3)])
    copy.copy(flat).param[...] = 2
    assert (flat.param == 1).all()


def test_arrays_made_read_only_on_purpose_are_refused() -> None:
    """By the constructor, and by copies that share them: that their memory can be written is no leave to do so."""
    array = np.ones(3)
    optimizer = fastadam.Adam([array])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        copy.copy(optimizer)
    with pytest.raises(ValueError, match="read-only"):
        fastadam.Adam([array])
    with pytest.raises(ValueError, match="read-only"):
        fastadam.Adam([np.frombuffer(bytes(24))])
    assert not array.flags.writeable


def test_shallow_copies_leave_arrays_as_they_are() -> None:
    """Also those that were unpickled, whose memory is that of a bytes object."""
    array = pickle.loads(pickle.dumps(np.ones(1000), 2))
    optimizer, parameter = fastadam.Adam([array]), Slotted(array)
    parameter.grad, parameter.name = np.frombuffer(bytes(8000)), "w"
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        copy.copy(optimizer)
    twin = copy.copy(parameter)
    assert twin.data is array
    assert twin.grad is parameter.grad
    assert twin.name == "w"
    assert not array.flags.writeable
    assert not twin.grad.flags.writeable


class Slotted(fastadam.Parameter):
    """Has a slot of its own."""

    __slots__ = ("name",)


class Slicing:
    """Makes views of an array as it is unpickled, before the optimizer that steps the array arrives."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        self.part = self.array[10:]


def test_views_made_on_the_way_keep_their_memory() -> None:
    array = np.arange(1000.0)
    both = [Slicing(array), fastadam.Adam([array])]
    slicing, optimizer = KEEP_SHARED["bytes"](both)
    optimizer.step([np.ones(1000)])
    del optimizer, both
    junk = [bytes(8032) for _ in range(50)]
    assert_same_bits(slicing.part, array[10:])
    assert (slicing.array < array).all()
    del junk


class Attached(fastadam.Adam):
    """An optimizer that has its model."""


def test_an_optimizer_that_holds_the_model_is_not_by_itself() -> None:
    array = np.ones(3)
    optimizer = Attached([array])
    optimizer.model = {"w": array}  # type: ignore[attr-defined]
    twin = copy.deepcopy(optimizer)
    twin.step([np.ones(3)])
    assert (twin.model["w"] < 1).all()  # type: ignore[attr-defined]
    with pytest.raises(pickle.PicklingError, match="separate arrays"):
        through_joblib(None)(optimizer)
