"""The examples and the benchmark script run, on small budgets; the PPO example has tests of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastadam

ROOT = Path(__file__).parents[2]


def run(*command: str, timeout: float = 300) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_worked_example_prints_its_numbers() -> None:
    rows = [
        list(map(float, line.split()))
        for line in run("examples/worked_example.py", "--steps", "4").splitlines()[1:]
    ]
    assert len(rows) == 5
    assert rows[0] == [0, 0.5, -0.3, 0.43]
    step, *numbers = rows[1]
    assert step == 1
    assert numbers == [1.0, -1.2, 0.1, -0.12, 0.001, 0.00144, 0.4, -0.2, 0.24]


def test_the_first_step_of_the_worked_example(backend: str) -> None:
    theta = np.array([0.5, -0.3])
    optimizer = fastadam.Adam(theta, lr=0.1, betas=(0.9, 0.999), eps=1e-8, backend=backend)
    optimizer.step(np.array([1.0, -1.2]))
    np.testing.assert_allclose(optimizer.state[0]["exp_avg"], [0.1, -0.12], rtol=1e-15)
    np.testing.assert_allclose(optimizer.state[0]["exp_avg_sq"], [0.001, 0.00144], rtol=1e-15)
    np.testing.assert_allclose(theta, [0.4, -0.2], rtol=1e-7)
    # The whole story: theta moves by lr * 1 / (1 + eps / |g|).
    np.testing.assert_allclose(theta, [0.5 - 0.1 / (1 + 1e-8), -0.3 + 0.1 / (1 + 1e-8 / 1.2)], rtol=1e-15)


def test_the_benchmark_prints_a_ratio_for_every_contender() -> None:
    out = run("benchmarks/quick.py", "--cases", "ppo", "overhead", "--backends", "numpy")
    assert "9,155 parameters" in out
    for contender in ("numpy", "packed numpy", "in place numpy"):
        # The last of the three ratios is the one to NumPy; those to torch may be missing.
        ratio = re.search(rf"(?m)^  {contender} +[\d.]+ +\S+ +\S+ +([\d.]+)( |$)", out)
        assert ratio is not None
        assert float(ratio[1]) > 0
    assert "One packed parameter: np.add takes" in out


def test_placement_times_every_distance() -> None:
    out = run("benchmarks/placement.py", "--size", "100", "--rounds", "2", "--backend", "numpy")
    rows = re.findall(r"(?m)^ +(\d+)(?:, as in fastadam)? +([\d.]+) +([\d.]+) +([\d.]+)$", out)
    assert [int(lag) for lag, *_ in rows] == [0, 1, 2, 3, 4, 6, 8, 12, 16, 13]
    assert all(float(each) > 0 for _, *figures in rows for each in figures)


@pytest.mark.parametrize("name", ["quick", "sweep", "threshold", "placement"])
def test_benchmark_scripts_explain_themselves(name: str) -> None:
    assert (ROOT / "benchmarks" / f"{name}.py").read_text().startswith('"""')
