"""Compact formats in plans over plain memory: every backend gives the bits of an oracle that was written apart."""

from __future__ import annotations

import numpy as np
import pytest

from fastadam.backends.numpy import CHUNK
from fastadam.memory.structs import BLOCK, SCALE_BLOCK, TAKEN
from fastadam.step.after import After, Averaging, weight_at
from fastadam.step.hyperparameters import Hyperparameters
from tests.support.compact_memory import COMBINATIONS, Memory, compare
from tests.support.plans import HYPERS, bits_of

SIZES = [1, 0, 63, 64, 65, 1200, 3000]
# Around the borders of blocks, shares and chunks.
AROUND = [0, 1, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 5000]
BORDERS = [*(CHUNK + each for each in (-1, 0, 1, SCALE_BLOCK, SCALE_BLOCK + 3)), 2 * CHUNK + BLOCK + 7]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_backend_gives_the_bits_of_the_oracle(
    backend: str, combination: str, hyper: Hyperparameters, threads: int, small_shares: None
) -> None:
    hyper = hyper._replace(seed=11)
    ours, theirs = Memory(combination, SIZES), Memory(combination, SIZES)
    plan = ours.plan(backend, hyper, threads=threads)
    for step in (6, 7, 8):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_sizes_around_the_borders_of_chunks(backend: str, combination: str, small_shares: None) -> None:
    hyper = HYPERS["amsgrad decoupled"]._replace(seed=2**62)
    ours, theirs = Memory(combination, BORDERS), Memory(combination, BORDERS)
    plan = ours.plan(backend, hyper, threads=2)
    assert plan.take() == TAKEN
    theirs.oracle(hyper, plan.rows[0], 6)
    compare(ours, theirs, "step 6")


@pytest.mark.parametrize("hyper", ["plain", "amsgrad"])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_gradients_that_are_huge_tiny_or_not_finite(backend: str, combination: str, hyper: str) -> None:
    """Blocks with such numbers are marked, and read again in the next steps."""
    chosen = HYPERS[hyper]._replace(seed=5)
    ours, theirs = Memory(combination, SIZES, odd=True), Memory(combination, SIZES, odd=True)
    plan = ours.plan(backend, chosen)
    for step in (6, 7, 8):
        assert plan.take() == TAKEN
        theirs.oracle(chosen, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")


@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_hard_cases_in_every_instruction_set(
    instruction_set: str, combination: str, hyper: Hyperparameters, small_shares: None
) -> None:
    """Infinity and NaN of any bits, denormal numbers, zeros, and one huge number among tiny ones."""
    chosen = hyper._replace(seed=11)
    ours, theirs = Memory(combination, AROUND, hard=True), Memory(combination, AROUND, hard=True)
    plan = ours.plan("c", chosen, threads=3)
    for step in (6, 7, 8):
        assert plan.take() == TAKEN
        theirs.oracle(chosen, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_averages_follow_the_masters(backend: str, combination: str, small_shares: None) -> None:
    """They are of the masters where there are any, else of the parameters as they were rounded."""
    hyper, after = HYPERS["plain"], After(Averaging(0.9))
    ours, theirs = Memory(combination, [*SIZES, CHUNK + 70]), Memory(combination, [*SIZES, CHUNK + 70])
    plan = ours.plan(backend, hyper, threads=2, after=after)
    for step in (6, 7):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")
        for kept, mine, ema in zip(theirs.params, ours.emas, theirs.emas, strict=True):
            real = ema.dtype.type
            ema += real(weight_at(step, 0.9, False)) * (kept[0].read() - ema)
            np.testing.assert_array_equal(bits_of(mine, real.__name__), bits_of(ema, real.__name__))
