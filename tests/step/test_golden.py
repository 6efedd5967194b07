"""Steps whose bits are known: the same on every machine (tests/platforms/golden.py)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.platforms import golden


@pytest.mark.parametrize("what", [name for name in golden.STEPS if name != "resumed"])
def test_steps_give_the_known_bits(backend: str, what: str) -> None:
    assert golden.takes(what, backend) == golden.STEPS[what]


@pytest.mark.parametrize("what", [name for name in golden.STEPS if name != "resumed"])
def test_instruction_sets_give_the_known_bits(instruction_set: str, what: str) -> None:
    assert golden.takes(what, "c") == golden.STEPS[what]


def test_scalars_have_the_known_bits() -> None:
    assert golden.coefficients() == golden.COEFFICIENTS


def test_a_checkpoint_of_another_machine_goes_on(backend: str) -> None:
    pytest.importorskip("safetensors")
    assert golden.resume(backend) == golden.STEPS["resumed"]


def test_the_known_steps_are_worth_comparing() -> None:
    """Most numbers are finite, and they move."""
    array = golden.numbers(np.float32, 0)
    assert np.isfinite(array).sum() > 0.99 * golden.SIZE
    assert len(np.unique(array)) > 0.9 * golden.SIZE
    assert golden.digest([array]) != golden.digest([golden.numbers(np.float32, 1)])
