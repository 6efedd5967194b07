"""Compact formats and mixtures of formats on CUDA devices, under Numba's simulator (see `conftest.py`)."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
from numba import cuda as numba_cuda

import fastadam
from fastadam import backends
from fastadam.backends.cuda.kernels import BLOCK
from fastadam.memory.structs import AVERAGE, IDLE, MASTER, ROLES, TAKEN
from fastadam.step.after import After, Averaging
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.backends.cuda.test_simulated_api import assert_same, make
from tests.support.bits import assert_same_bits, random_arrays
from tests.support.compact_memory import COMBINATIONS, Memory, compare
from tests.support.plans import HYPERS

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

# Around the ends of what a thread steps, of what shares a scale, and of what a block of threads steps.
SIZES = [0, 1, 7, 8 * BLOCK, 8 * BLOCK + 9]
SHAPES: list[tuple[int, ...]] = [(3, 4), (), (17,), (0,), (3, 5, 7)]


def variants_in(memory: Memory, flags: int) -> np.ndarray:
    """Return the variants of its spans."""
    codes = np.repeat([[each.code] for each in memory.formats], len(memory.params), axis=1)
    return variants_of(codes, flags)


def plan_of(
    memories: list[Memory], hyper: Hyperparameters, counters: np.ndarray, backend: str = "cuda", **options: Any
) -> Plan:
    """Return a plan of all their spans, in one row."""
    variants = [variants_in(each, flags_of(hyper)) for each in memories]
    spans = np.concatenate([each.spans() for each in memories])
    choices = (counters, counters, [backends.load(backend)], 1, True)
    plan = Plan(spans, np.concatenate(variants), *choices, **options)
    plan.write_options([Coefficients(hyper)])
    return plan


def move(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins where no vector of numbers does."""
    room = np.zeros(array.size + 1, array.dtype)
    room[1:] = array
    return room[1:]


@pytest.mark.parametrize(("combination", "name"), [*zip(COMBINATIONS, itertools.cycle(HYPERS), strict=False)])
def test_bits_are_those_of_the_oracle(combination: str, name: str) -> None:
    hyper = HYPERS[name]._replace(seed=11)
    ours, theirs = Memory(combination, SIZES), Memory(combination, SIZES)
    plan = ours.plan("cuda", hyper)
    for step in (6, 7):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")


def test_combinations_in_one_plan_and_arrays_that_are_not_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    hyper = HYPERS["amsgrad decoupled"]._replace(seed=2**40)
    names = [*COMBINATIONS, "float32 alone"]
    monkeypatch.setitem(COMBINATIONS, names[-1], " ".join(["float32"] * 5))
    ours, theirs = ([Memory(name, [70, 9]) for name in names] for _ in range(2))
    for memory in ours:
        for kept in memory.params[0]:
            kept.stored = move(kept.stored)
            kept.beside = None if kept.beside is None else move(kept.beside)
    steps = np.array([0])
    plan = plan_of(ours, hyper, counters_in(steps))
    assert plan.take() == TAKEN
    for mine, other, name in zip(ours, theirs, names, strict=True):
        other.oracle(hyper, plan.rows[0], 1)
        compare(mine, other, name)
    assert steps[0] == 1


@pytest.mark.parametrize(
    "combination", ["int8 state", "bfloat16 with masters", "stochastic float16", "float16 with masters"]
)
def test_gradients_that_are_huge_tiny_or_not_finite(combination: str) -> None:
    """Blocks with such numbers are marked, and read again in the next step."""
    hyper = HYPERS["amsgrad"]._replace(seed=5)
    ours, theirs = Memory(combination, [75, 64], odd=True), Memory(combination, [75, 64], odd=True)
    for memory in (ours, theirs):
        for each in memory.params[1][1:]:  # and one is all zeros
            each.stored[...] = 0
    plan = ours.plan("cuda", hyper)
    for step in (6, 7):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_averages_follow_masters_and_move_without_a_gradient(combination: str) -> None:
    found = []
    for backend in ("cuda", "c"):
        memory = Memory(combination, [9, 66, 5])
        memory.emas = [move(each) for each in memory.emas]
        spans = memory.spans()
        for name in spans.dtype.names:  # where nothing is, nothing is read
            if name not in ("param", MASTER, "size", "row", "slot", AVERAGE):
                spans[name][2] = 0
        variants = variants_in(memory, 0)
        variants[2] = variants_in(memory, IDLE)[2]
        counters = counters_in(memory.steps)
        after = After(Averaging(0.9, False))
        choices = (counters, counters, [backends.load(backend)], 1, True)
        plan = Plan(spans, variants, *choices, after=after)
        plan.write_options([Coefficients(HYPERS["plain"])])
        for _ in range(2):
            assert plan.take() == TAKEN
        found.append([each.tobytes() for each in memory.emas])
        found[-1] += [each.stored.tobytes() for kept in memory.params for each in kept]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("layout", "dtype", "state_dtype"),
    [
        ("in place", np.float32, "int8"),
        ("packed", np.float32, "int8"),
        ("packed", np.complex64, "int8"),
        ("parameters", np.float64, "int8"),
        ("in place", np.float32, "bfloat16"),
        ("packed", np.complex128, "bfloat16"),
        ("packed", np.float64, "float32"),
    ],
)
def test_optimizers_have_the_bits_of_the_host(layout: str, dtype: Any, state_dtype: str) -> None:
    arrays = random_arrays(SHAPES, dtype, 0)
    options = {"lr": 0.1, "weight_decay": 0.1, "maximize": True, "state_dtype": state_dtype, "seed": 5}
    options |= {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.9}
    ours, step = make(layout, arrays, **options)
    theirs = fastadam.Adam([array.copy() for array in arrays], backend="c", **options)
    for seed in range(1, 7):
        grads: list[Any] = list(random_arrays(SHAPES, dtype, seed))
        if seed == 2:
            grads[0] = grads[4] = None
        if seed == 3:
            grads[2][5] = np.inf
        if seed == 4:
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["amsgrad"] = True
        if seed == 5:
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["decoupled_weight_decay"] = True
        step(grads)
        theirs.step(grads)
        assert_same(ours, theirs)
    assert ours.skipped_steps == 1


def test_clipping_on_the_device_alone() -> None:
    """Nothing has to wait for the norm; kernels read the scale."""
    arrays = random_arrays(SHAPES, np.float32, 0)
    options = {"lr": 0.1, "state_dtype": "int8", "max_grad_norm": 0.5}
    ours, step = make("own arrays", arrays, **options)
    theirs = fastadam.Adam([array.copy() for array in arrays], backend="c", **options)
    for seed in (1, 2):
        grads = random_arrays(SHAPES, np.float32, seed)
        step(grads)
        theirs.step(grads)
        assert_same(ours, theirs)
    assert ours.grad_norm == theirs.grad_norm


def test_groups_of_several_kinds_on_the_host_and_the_device() -> None:
    arrays = random_arrays([(70,), (9, 2), (5,), (33,)], np.float32, 0)

    def groups(on_device: bool) -> list[dict[str, Any]]:
        one, two, three, four = (array.copy() for array in arrays)
        there = numba_cuda.to_device if on_device else np.asarray
        return [
            {"params": [there(one), two], "state_dtype": "int8", "seed": 3},
            {"params": [there(three)], "amsgrad": True},
            {"params": [there(four)], "state_dtype": "bfloat16", "decoupled_weight_decay": True},
        ]

    ours, theirs = (fastadam.Adam(groups(on_device), weight_decay=0.1) for on_device in (True, False))
    assert ours.backend.endswith("+cuda")
    for seed in range(1, 4):
        grads: list[Any] = random_arrays([each.shape for each in arrays], np.float32, seed)
        theirs.step(grads)
        ours.step([each if i == 1 else numba_cuda.to_device(each) for i, each in enumerate(grads)])
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("combination", "options"),
    [
        ("float16 with masters", {"master_weights": True, "state_dtype": "bfloat16"}),
        ("stochastic float16", {"rounding": "stochastic", "state_dtype": "float32"}),
    ],
)
@pytest.mark.parametrize("layout", ["in place", "packed"])
def test_float16_weights(combination: str, options: dict[str, Any], layout: str) -> None:
    theirs = Memory(combination, [5, 70, 8])
    for kept in theirs.params:
        for each in kept[2:]:
            each.stored[...] = 0
        if kept[0].beside is not None:
            kept[0].beside[...] = kept[0].stored
    weights = [kept[0].stored.copy() for kept in theirs.params]
    before = [np.zeros(1, np.float16) for _ in range(3)]  # the oracle's positions begin with 3
    ours, step = make(layout, [*before, *weights], lr=0.1, seed=4, **options)
    hyper, steps, other = Hyperparameters(lr=0.1, seed=4), np.array([0]), Memory(combination, [1])
    scalars = plan_of([other], hyper, counters_in(steps), "c")  # whose rows are those of any plan
    for t in (1, 2):
        grads = [array * np.float16(t) for array in random_arrays([(5,), (70,), (8,)], np.float16, t)]
        for kept, grad in zip(theirs.params, grads, strict=True):
            kept[1].stored[...] = grad
        step([*before, *grads])
        assert scalars.take() == TAKEN
        theirs.oracle(hyper, scalars.rows[0], t)
    group = ours._groups[0]
    for i, kept in enumerate(theirs.params, 3):
        assert_same_bits(group.members[i].array.copy_to_host(), kept[0].stored)
        for role, each in zip(ROLES[2:4], kept[2:], strict=False):
            assert_same_bits(group.moment(role, i).copy_to_host(), each.stored)
        if kept[0].beside is not None:
            assert_same_bits(group.moment(MASTER, i).copy_to_host(), kept[0].beside)
