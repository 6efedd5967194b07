"""Compact formats and mixtures of formats on CUDA devices, under Numba's simulator (see `conftest.py`)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from fastadam.backends import cuda
from fastadam.backends.cuda.kernels import BLOCK
from fastadam.memory.structs import TAKEN
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.step.test_compact import COMBINATIONS, Memory, compare
from tests.support.plans import HYPERS

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

# Around the ends of what a thread steps, of what shares a scale, and of what a block of threads steps.
SIZES = [1, 0, 7, 8, 63, 64, 65, 9 * BLOCK + 3]


def plan_of(memory: Memory, hyper: Hyperparameters, counters: np.ndarray) -> Plan:
    codes = np.repeat([[each.code] for each in memory.formats], len(memory.params), axis=1)
    plan = Plan(memory.spans(), variants_of(codes, flags_of(hyper)), counters, counters, [cuda], 1, True)
    plan.write_options([Coefficients(hyper)])
    return plan


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
def test_bits_are_those_of_the_oracle(combination: str, hyper: Hyperparameters) -> None:
    hyper = hyper._replace(seed=11)
    ours, theirs = Memory(combination, SIZES), Memory(combination, SIZES)
    steps = np.array([5])
    plan = plan_of(ours, hyper, counters_in(steps))
    for step in (6, 7):
        assert plan.take() == TAKEN
        theirs.oracle(hyper, plan.rows[0], step)
        compare(ours, theirs, f"step {step}")
