"""Random bits: where they come from is the same in C, Numba and Python, for odd seeds and steps."""

from __future__ import annotations

import numpy as np
import pytest

from fastadam.memory.structs import TAKEN
from fastadam.step.compact import random_key, random_sequence
from tests.support.compact import random_bits
from tests.support.compact_memory import COMBINATIONS, Memory, compare
from tests.support.plans import HYPERS

SEEDS = [0, 1, 2**32, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1]
STEPS = [0, 1, 2**24, 2**32 + 1, 2**53 - 2]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_keys_and_what_is_rounded_with_them(backend: str, seed: int, steps: int) -> None:
    """With positions near the largest, too; the bits of a bfloat16 moment show where its sequence began."""
    hyper = HYPERS["plain"]._replace(seed=seed)
    ours, theirs = (Memory("stochastic bfloat16", [3, 70], first=2**62) for _ in range(2))
    ours.steps[...] = steps
    plan = ours.plan(backend, hyper)
    assert plan.take() == TAKEN
    assert plan.random_keys.view(np.uint64).tolist() == [random_key(seed, steps + 1)]
    theirs.oracle(hyper, plan.rows[0], steps + 1)
    compare(ours, theirs, f"seed {seed}, step {steps + 1}")


@pytest.mark.parametrize("position", [0, 1, 2**31, 2**63 - 1])
@pytest.mark.parametrize("role", [0, 2, 3])
def test_sequences_are_those_of_the_oracle(position: int, role: int) -> None:
    for seed in SEEDS:
        sequence = random_sequence(random_key(seed, 7), position, role, 0)
        start, stride = sequence >> 32, sequence & 0xFFFFFFFF
        assert stride % 2
        expected = [(start + i * stride) % 2**32 >> 16 for i in range(3)]
        assert expected == random_bits(seed, 7, position, role, 3).tolist()


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_parameter_in_pieces_has_the_bits_of_the_whole(backend: str, combination: str) -> None:
    """Pieces that begin where blocks do."""
    hyper = HYPERS["plain"]._replace(seed=5, amsgrad=True)
    whole, parted = (Memory(combination, [3, 700, 64, 129], odd=True) for _ in range(2))
    plans = [whole.plan(backend, hyper), parted.plan(backend, hyper, threads=2, spans=parted.pieces(128))]
    for step in range(3):
        assert [plan.take() for plan in plans] == [TAKEN, TAKEN]
        compare(parted, whole, f"step {step}")


def test_rows_that_are_alike_but_for_their_seeds_have_keys_of_their_own(backend: str) -> None:
    hypers = [HYPERS["plain"]._replace(seed=seed) for seed in (3, 3, 4)]
    memory = Memory("bfloat16 state", [20, 30, 40])
    plan = memory.plan(backend, *hypers)
    assert plan.take() == TAKEN
    expected = [random_key(each.seed, 6) for each in hypers]
    assert plan.random_keys.view(np.uint64).tolist() == expected
