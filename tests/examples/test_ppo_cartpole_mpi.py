"""The PPO example over MPI, on two ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.loading import EXAMPLES
from tests.mpi.launch import run, why_missing

for _library in ("gymnasium", "tqdm", "matplotlib"):
    pytest.importorskip(_library)

pytestmark = pytest.mark.slow


def test_learns_on_two_ranks_and_again_the_same(tmp_path: Path) -> None:
    missing = why_missing()
    if missing is not None:
        pytest.skip(f"mpi: {missing}")
    means = []
    for attempt in range(2):
        path = tmp_path / f"curve{attempt}.png"
        program = ["-m", "mpi4py", str(EXAMPLES / "ppo_cartpole_mpi.py"), "--steps", "50000", "--plot", str(path)]
        code, printed = run(2, program)
        assert code == 0, printed
        assert printed.count("The picture is in") == 1  # the first process alone writes it
        assert path.exists()
        found = re.search(r"Mean return over the last 20 episodes: ([\d.]+) \(2 processes, ", printed)
        assert found is not None, printed
        means.append(float(found[1]))
    assert means[0] == means[1]
    assert means[0] > 150
