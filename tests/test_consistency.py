"""Interrupts, refusals and lies leave an optimizer whole; bits stay what they have always been."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import adam
from fastadam.memory import host
from tests import strategies
from tests.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

SHAPES: list[tuple[int, ...]] = [(3,), (4,)]


def make(backend: str) -> fastadam.Adam:
    return fastadam.Adam(random_arrays(SHAPES, np.float64, 0), backend=backend)


def grads(seed: int) -> list[Any]:
    return list(random_arrays(SHAPES, np.float64, seed))


CHANGES: dict[str, Callable[[fastadam.Adam], object]] = {
    "amsgrad": lambda o: (o.param_groups[0].update(amsgrad=True), o.step(grads(3))),
    "a None that splits rows": lambda o: o.step([grads(3)[0], None]),
    "load_state_dict": lambda o: (o.load_state_dict(make("numpy").state_dict()), o.step(grads(3))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_interrupt_while_work_is_planned_leaves_no_stale_plan(
    backend: str, change: Callable[[fastadam.Adam], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the interrupt, doing the same again ends where an uninterrupted run ends."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    results = []
    for interrupt in (False, True):
        optimizer = make(backend)
        optimizer.step(grads(1))
        optimizer.step(grads(2))
        if interrupt:
            with monkeypatch.context() as patch:
                patch.setattr(adam, "WorkList", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    change(optimizer)
        change(optimizer)
        optimizer.step(grads(4))
        results.append(snapshot(optimizer))
    assert_same_state(results[1], results[0])


def test_an_interrupt_while_a_group_is_added(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    optimizer = make(backend)
    optimizer.step(grads(1))
    optimizer.add_param_group({"params": np.ones(2)})
    monkeypatch.setattr(adam, "WorkList", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step([*grads(2), np.ones(2)])
    monkeypatch.undo()
    optimizer.step([*grads(2), np.ones(2)])
    assert [optimizer.state[i]["step"] for i in range(3)] == [2, 2, 1]


def test_out_of_memory_for_the_third_moment_changes_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: Any) -> None:
        raise MemoryError("no memory")

    optimizer, twin = make(backend), make(backend)
    for each in (optimizer, twin):
        each.step(grads(1))
    before = snapshot(optimizer)
    optimizer.param_groups[0]["amsgrad"] = True
    with monkeypatch.context() as patch:
        patch.setattr(host, "aligned_zeros", none_left)
        with pytest.raises(MemoryError):
            optimizer.step(grads(2))
    assert_same_state(snapshot(optimizer), before)
    twin.param_groups[0]["amsgrad"] = True
    for each in (optimizer, twin):
        each.step(grads(2))
    assert_same_state(snapshot(optimizer), snapshot(twin))


def test_a_schedule_cannot_change_its_optimizer_in_the_middle_of_a_step(backend: str) -> None:
    saved = make(backend).state_dict()
    attempts: list[Callable[[], object]] = [
        lambda: optimizer.step(grads(1)),
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.add_param_group({"params": np.ones(1)}),
        lambda: optimizer.state_dict(),
        lambda: copy.deepcopy(optimizer),
    ]

    def schedule(step: int) -> float:
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
                attempt()
        return 1e-3

    optimizer = make(backend)
    expected = make("numpy")
    optimizer.param_groups[0]["lr"] = schedule
    optimizer.step(grads(1))
    expected.step(grads(1))
    assert_same_state(snapshot(optimizer), snapshot(expected))
    optimizer.state_dict()


def test_edits_reach_the_work_lists_of_steps_with_none(backend: str) -> None:
    optimizer, alone = make(backend), fastadam.Adam(random_arrays(SHAPES, np.float64, 0)[0], backend="numpy")
    for seed, eps in ((1, 1e-8), (2, 0.5), (3, 0.25)):
        optimizer.param_groups[0]["eps"] = alone.param_groups[0]["eps"] = eps
        optimizer.step([grads(seed)[0], None])
        alone.step(grads(seed)[0])
    assert_same_bits(optimizer.param_groups[0]["params"][0], alone.param_groups[0]["params"][0])


@pytest.mark.parametrize("start", [0, 4, 9, 14])
def test_a_gradient_that_runs_into_its_parameter_from_either_side_is_refused(backend: str, start: int) -> None:
    base = np.zeros(30)
    optimizer = fastadam.Adam(base[10:15], backend=backend)
    grad = base[start : start + 5]
    if start in (9, 14):
        with pytest.raises(ValueError, match="shares memory with parameter 0"):
            optimizer.step(grad)
        assert len(optimizer.state) == 0
    else:
        optimizer.step(grad)


class Liar(np.ndarray):
    """A subclass that claims to be larger than it is."""

    shape = property(lambda self: (8,))  # type: ignore[assignment]
    size = property(lambda self: 8)  # type: ignore[assignment]


def test_subclasses_have_no_say_in_shapes(backend: str) -> None:
    optimizer = fastadam.Adam([np.zeros(8)], backend=backend)
    with pytest.raises(ValueError, match=r"has shape \(2,\)"):
        optimizer.step([np.ones(2).view(Liar)])
    short = fastadam.Adam([np.zeros(2).view(Liar)], backend=backend)
    short.step([np.ones(2)])
    assert short.state[0]["exp_avg"].shape == (2,)


MUTATIONS: dict[str, Callable[[Any, np.ndarray], object]] = {
    "append": lambda views, array: views.append(array),
    "extend": lambda views, array: views.extend([array]),
    "insert": lambda views, array: views.insert(0, array),
    "pop": lambda views, array: views.pop(),
    "reverse": lambda views, array: views.reverse(),
    "slice": lambda views, array: views.__setitem__(slice(0, 1), [array]),
    "in-place add": lambda views, array: views.__iadd__([array]),
    "item": lambda views, array: views.__setitem__(0, array),
    "del": lambda views, array: views.__delitem__(0),
}
NAMED_MUTATIONS: dict[str, Callable[[Any, np.ndarray], object]] = {
    "update": lambda views, array: views.update(w=array),
    "in-place or": lambda views, array: views.__ior__({"w": array}),
    "setdefault": lambda views, array: views.setdefault("x", array),
    "pop": lambda views, array: views.pop("w"),
    "clear": lambda views, array: views.clear(),
    "item": lambda views, array: views.__setitem__("w", array),
    "new item": lambda views, array: views.__setitem__("x", array),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_lists_of_packed_views_cannot_be_changed(mutation: Callable[[Any, np.ndarray], object]) -> None:
    flat = fastadam.pack([np.ones(3), np.ones(3)])
    with pytest.raises(AttributeError, match="cannot be exchanged"):
        mutation(flat.grads, np.ones(3))
    assert len(flat.grads) == 2
    assert copy.deepcopy(flat.grads)[1].shape == (3,)


@pytest.mark.parametrize("mutation", NAMED_MUTATIONS.values(), ids=NAMED_MUTATIONS.keys())
def test_dicts_of_packed_views_cannot_be_changed(mutation: Callable[[Any, np.ndarray], object]) -> None:
    flat = fastadam.pack({"w": np.ones(3)})
    with pytest.raises(AttributeError, match="cannot be exchanged"):
        mutation(flat.grads, np.ones(3))
    assert list(flat.grads) == ["w"]
    assert list(copy.deepcopy(flat.grads)) == ["w"]


@pytest.mark.parametrize("name", ["threads", "backend", "state"])
def test_what_cannot_be_changed_says_so(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(make("numpy"), name, 1)


def test_the_counter_in_the_state_cannot_be_assigned() -> None:
    optimizer = make("numpy")
    optimizer.step(grads(1))
    with pytest.raises(TypeError):
        optimizer.state[0]["step"] = 5  # type: ignore[index]


def test_an_empty_array_given_twice_is_refused() -> None:
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="parameter 1 is the same array as parameter 0"):
        fastadam.Adam([empty, empty])


class Counting(fastadam.AdamW):
    """An optimizer with an attribute of its own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.extra = {"calls": 3}


def test_subclasses_keep_their_attributes_when_copied() -> None:
    assert copy.deepcopy(Counting(np.ones(2))).extra == {"calls": 3}


def test_an_optimizer_is_freed_with_its_last_reference(backend: str) -> None:
    """No cycle keeps parameters and moments alive until the garbage collector runs."""
    import gc
    import weakref

    gc.disable()
    try:
        param = np.ones(3)
        alive = weakref.ref(param)
        optimizer = fastadam.Adam(param, backend=backend)
        optimizer.step(np.ones(3))
        del param, optimizer
        assert alive() is None
    finally:
        gc.enable()


# SHA-256 of parameters and moments after 20 steps. A change here is a change of bits: it must be meant, and be
# listed under "Numerics" in the changelog.
GOLDEN = {
    "float32": "b170b933d802f8c5143abb065007e11897b67fcf3d8c97738449f41db3df77df",
    "float64": "4a206c94c37a17e2bfb308afb3b32e6a20fed45bde5f4c096ff51446e423d773",
    "complex64": "554137eebe844ceb91286957852c6151c671562c3cd104da9862b7112972feef",
    "complex128": "013ecbbbb0b6dd0ca68a5216cdcca5aea4bfafa623d1a9323c8cc418bb392980",
}


def golden_digest(dtype: Any, backend: str) -> str:
    """Return the digest of runs in all variants, over numbers that no library's generator decides."""
    digest = hashlib.sha256()
    for variant in range(16):
        # Multiples of powers of two, exact in every dtype.
        numbers = ((np.arange(200) * 37 % 101) - 50) / 64
        param = numbers.astype(dtype)
        optimizer = fastadam.Adam(
            param,
            lr=0.01,
            betas=(0.875, 0.96875),
            weight_decay=0.125 if variant & 1 else 0.0,
            decoupled_weight_decay=bool(variant & 2),
            amsgrad=bool(variant & 4),
            maximize=bool(variant & 8),
            backend=backend,
        )
        for step in range(20):
            grad = ((np.arange(200) * (2 * step + 11) % 97) - 48) / 32
            if np.dtype(dtype).kind == "c":
                grad = grad + 1j * grad[::-1]
            optimizer.step(grad.astype(dtype))
        for array in (param, *(v for k, v in optimizer.state[0].items() if k != "step")):
            digest.update(np.asarray(array).astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("dtype", strategies.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_bits_are_what_they_have_always_been(backend: str, dtype: Any) -> None:
    assert golden_digest(dtype, backend) == GOLDEN[np.dtype(dtype).name]
