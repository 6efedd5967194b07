"""Steps in which ever other gradients are missing: native code leaves them out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.groups.patterns import MOST_PATTERNS
from fastadam.memory.array_offsets import array_offsets
from tests.conftest import AVAILABLE
from tests.support.strategies import examples, seeds

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (9000,), (0,), (1,)]
DTYPES = (np.float32, np.float64, np.complex64)
NATIVE = [name for name in AVAILABLE if name != "numpy"]
ENOUGH = 2 * MOST_PATTERNS + 3
Pattern = Callable[[int, int], bool]

pytestmark = pytest.mark.skipif(array_offsets() is None, reason="native code cannot read arrays here")


def arrays(seed: int, n: int, dtypes: Any = DTYPES) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.standard_normal(SHAPES[i % len(SHAPES)])).astype(dtypes[i % len(dtypes)]) for i in range(n)
    ]


def grouped(params: list[Any], lr: Any = 0.1) -> list[dict[str, Any]]:
    """Return two groups of them, with other options."""
    half = len(params) // 2
    return [{"params": params[:half], "lr": lr}, {"params": params[half:], "weight_decay": 0.1}]


def at_random(seed: int, n: int) -> list[list[bool]]:
    """Return which gradients there are in each of some steps, among them steps with all and with none."""
    rng = random.Random(seed)
    found = [[rng.random() < 0.5 for _ in range(n)] for _ in range(ENOUGH)]
    return [*found, [True] * n, [False] * n, *found[:3], [True] * n]


def bits(optimizer: fastadam.Adam, params: list[Any]) -> list[bytes]:
    state = optimizer.state_dict()["state"]
    kept = [np.asarray(state[i][key]).tobytes() for i in state for key in sorted(state[i])]
    return [array.tobytes() for array in params] + kept


def leaves_out(optimizer: fastadam.Adam) -> bool:
    return optimizer._planner.by_member.leaves_out


class Pair:
    """An optimizer, and one over the same arrays that makes a plan for each pattern, in NumPy."""

    def __init__(self, backend: str, n: int = 7, dtypes: Any = DTYPES, lr: Any = 0.1, **settings: Any) -> None:
        self.n, self.dtypes = n, dtypes
        self.params = [arrays(0, n, dtypes) for _ in range(2)]
        self.optimizers = [
            fastadam.Adam(grouped(params, lr), backend=name, **settings)  # type: ignore[arg-type]
            for params, name in zip(self.params, (backend, "numpy"), strict=True)
        ]

    def step(self, seed: int, present: list[bool], **how: Any) -> None:
        for optimizer in self.optimizers:
            grads = arrays(1 + seed, self.n, self.dtypes)
            optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)], **how)
            if how.get("zero_grad"):
                assert not any(grad.any() for grad, there in zip(grads, present, strict=True) if there)
                assert all(
                    grad.any() for grad, there in zip(grads, present, strict=True) if not there and grad.size
                )
        self.check()

    def check(self) -> None:
        ours, theirs = (bits(*each) for each in zip(self.optimizers, self.params, strict=True))
        assert ours == theirs
        assert self.optimizers[0].grad_norm == self.optimizers[1].grad_norm

    def irregular(self) -> None:
        """Step until gradients are left out."""
        for seed, present in enumerate(at_random(0, self.n)):
            self.step(seed, present)
        assert leaves_out(self.optimizers[0])
        assert not leaves_out(self.optimizers[1])


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "decoupled": {"decoupled_weight_decay": True, "weight_decay": 0.1},
    "schedule": {"lr": lambda step: 0.1 / step},
    "clipped": {"max_grad_norm": 0.5},
    "averages": {"ema_decay": 0.9, "ema_warmup": True},
    "all": {"amsgrad": True, "max_grad_norm": 0.5, "ema_decay": 0.9, "skip_nonfinite": True},
}


@pytest.mark.parametrize("backend", NATIVE)
@examples(20)
@given(seed=seeds, settings_=st.sampled_from(sorted(SETTINGS)), zero_grad=st.booleans(), n=st.integers(2, 9))
def test_bits_do_not_depend_on_how_gradients_are_left_out(
    backend: str, seed: int, settings_: str, zero_grad: bool, n: int
) -> None:
    pair = Pair(backend, n, **SETTINGS[settings_])
    for number, present in enumerate(at_random(seed, n)):
        pair.step(number, present, zero_grad=zero_grad)
    assert leaves_out(pair.optimizers[0]) or n < 6  # of few, there are few patterns


@pytest.mark.parametrize("backend", NATIVE)
def test_agents_that_take_turns(backend: str) -> None:
    pair = Pair(backend, 2 * MOST_PATTERNS, (np.float32,))
    for step in range(3 * MOST_PATTERNS):
        pair.step(step, [i // 2 == step % MOST_PATTERNS for i in range(pair.n)])
    assert leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
def test_few_patterns_have_plans_of_their_own(backend: str) -> None:
    pair = Pair(backend, 4)
    for step in range(ENOUGH):
        pair.step(step, [step % 4 != i for i in range(4)])
    assert not leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("dtypes", [(np.float32,), DTYPES], ids=["one", "several"])
@pytest.mark.parametrize("threads", [1, 3])
def test_on_threads(backend: str, dtypes: Any, threads: int) -> None:
    """The threads are those that the elements of this step need."""
    shape, n = (150_000,), 5
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype(dtypes[i % len(dtypes)]) for i in range(n)]
    both = []
    for name, limit in ((backend, threads), ("numpy", 1)):
        params = [grad.copy() for grad in grads]
        optimizer = fastadam.Adam(params, backend=name, threads=limit, max_grad_norm=1.0)  # type: ignore[arg-type]
        for present in at_random(1, n):
            optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)])
        both.append(bits(optimizer, params))
        assert leaves_out(optimizer) == (name != "numpy")
    assert both[0] == both[1]


@pytest.mark.parametrize("backend", NATIVE)
def test_what_comes_after(backend: str) -> None:
    """Edited options, loaded states, other groups and copies find rows as they need them."""
    pair = Pair(backend)
    pair.irregular()
    for optimizer in pair.optimizers:
        optimizer.param_groups[0]["lr"] = 0.01
    pair.step(50, [True] * pair.n)
    pair.step(51, [i % 2 == 0 for i in range(pair.n)])
    for optimizer in pair.optimizers:
        saved = optimizer.state_dict()
        for i, each in saved["state"].items():
            each["step"] = np.int64(5 + (i > 3))  # several in the same row again
        optimizer.load_state_dict(saved)
    for seed, present in enumerate(at_random(3, pair.n)):
        pair.step(60 + seed, present)
    assert leaves_out(pair.optimizers[0])
    added = [np.ones(3, np.float32), np.ones(2)]
    for optimizer, params in zip(pair.optimizers, pair.params, strict=True):
        params += [array.copy() for array in added]
        optimizer.add_param_group({"params": params[-2:]})
    for seed, present in enumerate(at_random(4, pair.n)):
        for optimizer in pair.optimizers:
            grads = [*arrays(seed, pair.n), *added]
            optimizer.step(
                [grad if there else None for grad, there in zip(grads, [*present, seed % 2, 1], strict=True)]
            )
        pair.check()
    assert leaves_out(pair.optimizers[0])
    for optimizer in pair.optimizers:
        optimizer.ema_decay = 0.9
    for seed, present in enumerate(at_random(5, pair.n)):
        for optimizer in pair.optimizers:
            grads = [*arrays(seed, pair.n), *added]
            optimizer.step([grad if there else None for grad, there in zip(grads, [*present, 0, 1], strict=True)])
        pair.check()


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("n", [6, 80], ids=["few", "many"])
def test_gradients_that_are_not_plain(backend: str, n: int) -> None:
    pair = Pair(backend, n, (np.float32,))
    pair.irregular()
    made = pair.optimizers[0]._planner._n_made
    for seed, present in enumerate([[True, False] * (n // 2), [True] * n, [False, True] * (n // 2)]):
        for optimizer in pair.optimizers:
            grads: list[Any] = [
                np.repeat(grad, 2, axis=0)[::2] if grad.ndim else grad for grad in arrays(seed, n, (np.float32,))
            ]
            optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)])
        pair.check()
    assert pair.optimizers[0]._planner._n_made == made


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("bad", ["dtype", "shape", "not finite"])
def test_a_bad_gradient_changes_nothing(backend: str, bad: str) -> None:
    pair = Pair(backend, 6, (np.float32,), error_if_nonfinite=True)
    pair.irregular()
    before = [bits(*each) for each in zip(pair.optimizers, pair.params, strict=True)]
    grads: list[Any] = [None, *arrays(9, 6, (np.float32,))[1:3], None, None, np.ones(1, np.float32)]
    grads[1] = {"dtype": np.ones((2, 3)), "shape": np.ones((3, 2), np.float32), "not finite": grads[1] * np.inf}[
        bad
    ]
    for optimizer in pair.optimizers:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=r"parameter 1\b|param_groups\[0\]"):
            optimizer.step(grads)
    assert [bits(*each) for each in zip(pair.optimizers, pair.params, strict=True)] == before
    pair.step(70, [True, False] * 3)
    assert leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
def test_skipped_steps(backend: str) -> None:
    pair = Pair(backend, 6, (np.float32,), skip_nonfinite=True)
    pair.irregular()
    before = [bits(*each) for each in zip(pair.optimizers, pair.params, strict=True)]
    for optimizer in pair.optimizers:
        grads: list[Any] = [None, np.full((2, 3), np.nan, np.float32), None, None, None, np.ones(1, np.float32)]
        optimizer.step(grads, zero_grad=True)
        assert not grads[1].any()
        assert not grads[5].any()
        assert optimizer.skipped_steps == 1
    assert [bits(*each) for each in zip(pair.optimizers, pair.params, strict=True)] == before
    pair.step(70, [True, False] * 3)


@pytest.mark.parametrize("backend", NATIVE)
def test_a_schedule_is_called_for_each_step_number_once(backend: str) -> None:
    calls: list[int] = []

    def schedule(step: int) -> float:
        calls.append(step)
        return 0.1

    params = arrays(0, 8, (np.float64,))
    optimizer = fastadam.Adam(params, schedule, backend=backend)  # type: ignore[arg-type]
    for seed, present in enumerate(at_random(0, 8)):
        grads = arrays(seed, 8, (np.float64,))
        optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)])
    assert leaves_out(optimizer)
    calls.clear()
    optimizer.step([grads[0], *[None] * 7])
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize("backend", NATIVE)
def test_packed_buffers_and_objects(backend: str) -> None:
    both = []
    for name in (backend, "numpy"):
        flat = fastadam.pack(arrays(0, 4, (np.float32,)))
        objects = [fastadam.Parameter(array) for array in arrays(1, 3, (np.float32,))]
        optimizer = fastadam.Adam([{"params": flat}, {"params": objects}], backend=name)  # type: ignore[arg-type]
        for seed, present in enumerate(at_random(2, 3)):
            for view, grad in zip(flat.grads, arrays(seed, 4, (np.float32,)), strict=True):
                view[...] = grad
            for each, there, grad in zip(objects, present, arrays(seed, 3, (np.float32,)), strict=True):
                each.grad = grad if there else None
            optimizer.step()
            given: list[Any] = [
                None if (seed + i) % 3 else grad for i, grad in enumerate(arrays(seed, 4, (np.float32,)))
            ]
            optimizer.step([*given, *(each.grad for each in objects)])
        both.append(bits(optimizer, [*flat.params, *(each.data for each in objects)]))
    assert both[0] == both[1]
