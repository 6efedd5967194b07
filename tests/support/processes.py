"""Python code in a process of its own, which must end by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import AVAILABLE

LONG = 240  # seconds that no process comes near to, unless it hangs
STEERING = ("NUMBA_", "FASTADAM_", "OMP_")

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason="the C extension is not available")
needs_numba = pytest.mark.skipif("numba" not in AVAILABLE, reason="Numba is not available")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def python(code: str, *args: str, **environment: str) -> str:
    """Run code in a new process and return what it printed; fail if it fails, aborts or hangs."""
    return run([sys.executable, "-c", code, *args], environment)


def only(environment: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with nothing but `environment` of what steers steps.

    What that has of ``PYTHONPATH`` comes before what is there.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(STEERING)}
    paths = [each["PYTHONPATH"] for each in (environment, inherited) if each.get("PYTHONPATH")]
    return {**inherited, **environment, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a command with nothing but `environment` of what steers steps; return what it printed."""
    process = subprocess.Popen(
        command,
        env=only(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that forked children that hang can be ended too
    )
    try:
        out, err = process.communicate(timeout=LONG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the process hangs; it printed:\n{out}\n{err}")
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out


COMMON = """
import sys
import threading

import numpy as np

import fastadam

N = 300_000  # enough for two threads


def bits(backend, threads=None, n=N, steps=2):
    rng = np.random.default_rng(n)
    w, b = rng.standard_normal(n), rng.standard_normal(n // 2).astype(np.float32)
    opt = fastadam.Adam([w, b], lr=0.01, weight_decay=0.1, backend=backend, threads=threads)
    for _ in range(steps):
        opt.step([rng.standard_normal(n), rng.standard_normal(n // 2).astype(np.float32)])
    moments = [opt.state[i][name] for i in range(2) for name in ("exp_avg", "exp_avg_sq")]
    return b"".join(array.tobytes() for array in (w, b, *moments))


def in_threads(count, work):
    failed = []

    def run():
        try:
            work()
        except BaseException as error:
            failed.append(error)
            raise

    running = [threading.Thread(target=run) for _ in range(count)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    assert not failed, failed
"""
