"""The CUDA backend, as far as it can be tested without a device: under the simulator, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


def run_tests(name: str, **environment: str) -> None:
    """Run a file of tests in a process of its own, in another environment."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / name)],
        cwd=TESTS.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@needs_numba_cuda
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_with_a_stand_in_for_the_driver(tmp_path: Path) -> None:
    source = TESTS / "stand_in_driver.c"
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    run_tests("cuda_stand_in.py", LD_LIBRARY_PATH=str(tmp_path), NUMBA_ENABLE_CUDASIM="0")


@needs_numba_cuda
@pytest.mark.parametrize("name", ["cuda_simulated.py", "cuda_simulated_api.py", "cuda_simulated_torch.py"])
def test_under_the_simulator(name: str) -> None:
    run_tests(name, NUMBA_ENABLE_CUDASIM="1")
