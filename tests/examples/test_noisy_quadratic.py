"""The example of a noisy objective: Adam arrives where L-BFGS-B stops early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.loading import load

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]


def values(folder: Path, *options: str) -> dict[str, float]:
    """Run the example; return the value that each method arrives at."""
    command = [sys.executable, str(ROOT / "examples/noisy_quadratic.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:5]]
    return {row[0]: float(row[1]) for row in rows}


def test_with_noise_adam_is_far_closer(tmp_path: Path) -> None:
    """And the picture is there."""
    found = values(tmp_path)
    assert found["Adam"] < 0.02 < 1.0 < min(found["BFGS"], found["L-BFGS-B"], found["Nelder-Mead"])
    assert [file.name for file in tmp_path.iterdir()] == ["noisy_quadratic.png"]


@pytest.mark.parametrize("seed", [1, 2])
def test_other_noise_makes_no_other_result(seed: int) -> None:
    found = {name: value for name, (value, _) in load("noisy_quadratic").run(1.0, seed, 2000).items()}
    assert found["Adam"] < 0.02 < 1.0 < min(found["BFGS"], found["L-BFGS-B"], found["Nelder-Mead"])


def test_without_noise_those_with_gradients_arrive() -> None:
    found = {name: value for name, (value, _) in load("noisy_quadratic").run(0.0, 0, 2000).items()}
    assert found.pop("Nelder-Mead") > 1
    assert max(found.values()) < 1e-6
