"""The example of a noisy objective: Adam arrives where L-BFGS-B stops early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")
ROOT = Path(__file__).parents[2]


def values(*options: str) -> dict[str, float]:
    """Run the example; return the value that each method arrives at."""
    command = [sys.executable, "examples/noisy_quadratic.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return {row[0]: float(row[1]) for row in rows}


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_with_noise_adam_is_far_closer(seed: str) -> None:
    found = values("--seed", seed)
    assert found["Adam"] < 0.02 < 1.0 < found["L-BFGS-B"]


def test_without_noise_both_arrive() -> None:
    assert max(values("--noise", "0").values()) < 1e-6
