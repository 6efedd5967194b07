"""Step in many threads and forked children for a while: ``python -m tests.stress --seconds 60``.

Three cases, for each backend and threading layer of Numba, and for fastadam.torch; each in a process of its own:

own
    Eight threads step an optimizer each; the bits are those of the serial run.
shared
    Eight threads step one optimizer in turns; no step is lost, and the bits are those of as many serial steps.
fork
    Threads make, step, pickle and drop optimizers while the main thread forks; every child takes the steps of the
    serial run, and ends by itself.

A line for each says how many steps, or children, were compared. pytest is not needed; it runs a short one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastadam
from fastadam.backends.numba import threading_layer
from fastadam.step import threads as fastadam_threads

ROOT = Path(__file__).parent.parent
N_THREADS = 8
STEPS = 20  # of one run, whose bits are compared
MOST_SHARED = 20_000  # steps
LONG = 600  # seconds over the time asked for, which no case comes near to, unless it hangs
LAYERS = ("omp", "tbb", "workqueue")
SHAPES = [(40, 30), (30,), (), (3000,), (0, 3)]


def _arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    dtypes = (np.float32, np.float64)
    return [np.asarray(rng.standard_normal(shape), dtypes[i % 2]) for i, shape in enumerate(SHAPES)]


def _options(seed: int) -> dict[str, Any]:
    return {"lr": 0.01, "amsgrad": bool(seed & 1), "weight_decay": 0.1 * (seed >> 1 & 1)}


class OverArrays:
    """An optimizer over NumPy arrays, in place, packed or held by objects, as the seed says."""

    def __init__(self, backend: str, seed: int) -> None:
        arrays = _arrays(seed)
        params: Any = arrays
        if seed % 3 == 1:
            params = fastadam.pack([array for array in arrays if array.dtype == np.float32])
        elif seed % 3 == 2:
            params = [fastadam.Parameter(array) for array in arrays]
        self.optimizer = fastadam.Adam(params, **_options(seed), backend=backend, threads=2)
        self.arrays = list(params.params) if seed % 3 == 1 else arrays

    def step(self, seed: int) -> None:
        """Take one step, with some gradients that are not contiguous."""
        grads = [np.full((*array.shape, 2), 0.25 * (seed % 7 - 3), array.dtype) for array in self.arrays]
        self.optimizer.step([grad[..., 0] if i % 2 else grad[..., 0].copy() for i, grad in enumerate(grads)])

    def bits(self) -> bytes:
        """Return all that the steps have written."""
        state = [array for entry in self.optimizer.state.values() for array in entry.values()]
        return b"".join(np.asarray(array).tobytes() for array in [*self.arrays, *state])


class OverTensors:
    """An optimizer over torch tensors."""

    def __init__(self, backend: str, seed: int) -> None:
        import torch

        import fastadam.torch

        torch.set_num_threads(1)
        self.full_like = torch.full_like
        self.params = [torch.nn.Parameter(torch.from_numpy(array)) for array in _arrays(seed)]
        self.optimizer = fastadam.torch.Adam(self.params, **_options(seed))
        self.optimizer.threads = 2
        del backend

    def step(self, seed: int) -> None:
        """Take one step; every fifth leaves a gradient out."""
        for i, param in enumerate(self.params):
            param.grad = None if (i + seed) % 5 == 0 else self.full_like(param, 0.25 * (seed % 7 - 3))
        self.optimizer.step()

    def bits(self) -> bytes:
        """Return all that the steps have written."""
        state = [tensor for entry in self.optimizer.state.values() for tensor in entry.values()]
        return b"".join(tensor.detach().numpy().tobytes() for tensor in [*self.params, *state])


def make(backend: str, seed: int) -> OverArrays | OverTensors:
    """Return an optimizer at its start."""
    return OverTensors(backend, seed) if backend == "torch" else OverArrays(backend, seed)


def run(backend: str, seed: int) -> bytes:
    """Take the steps of one run, with a pickle in the middle for arrays; return the bits."""
    subject = make(backend, seed)
    for step in range(STEPS):
        subject.step(seed + step)
    pickle.loads(pickle.dumps(subject.optimizer))
    return subject.bits()


@functools.cache
def expected(backend: str, seed: int) -> bytes:
    """Return the bits of a run that nothing else goes on beside, in plain NumPy where that is the same."""
    return run("torch" if backend == "torch" else "numpy", seed)


def _in_threads(work: Callable[[int], None]) -> list[threading.Thread]:
    started = [threading.Thread(target=work, args=(i,)) for i in range(N_THREADS)]
    for each in started:
        each.start()
    return started


def _until(seconds: float, failures: list[str], work: Callable[[int], None]) -> Callable[[int], None]:
    """Return what a thread does: `work` again and again, with another seed each time, until the time is over."""
    end = time.monotonic() + seconds

    def go_on(thread: int) -> None:
        seed = thread
        try:
            while time.monotonic() < end and not failures:
                work(seed % 24)
                seed += N_THREADS + 1
        except BaseException:
            failures.append(traceback.format_exc())

    return go_on


def own(backend: str, seconds: float) -> str:
    """Step an optimizer in each thread."""
    failures: list[str] = []
    done: list[int] = []
    wanted = [expected(backend, seed) for seed in range(24)]

    def work(seed: int) -> None:
        assert run(backend, seed) == wanted[seed], f"other bits for the seed {seed}"
        done.append(STEPS)

    for each in _in_threads(_until(seconds, failures, work)):
        each.join()
    assert not failures, failures[0]
    return f"{sum(done)} steps"


def shared(backend: str, seconds: float) -> str:
    """Step one optimizer in all threads; the gradients are the same in each step, so that turns do not matter."""
    failures: list[str] = []
    done: list[int] = []
    subject = make(backend, 0)
    if isinstance(subject, OverTensors):
        for param in subject.params:
            param.grad = subject.full_like(param, 0.5)
        step = subject.optimizer.step
    else:
        grads = [np.full(array.shape, 0.5, array.dtype) for array in subject.arrays]
        step = functools.partial(subject.optimizer.step, grads)

    def work(seed: int) -> None:
        if sum(done) > MOST_SHARED:  # they are all taken again, in plain NumPy
            time.sleep(0.01)
            return
        for _ in range(STEPS):
            step()
        subject.optimizer.state_dict()
        done.append(STEPS)

    for each in _in_threads(_until(min(seconds, 20), failures, work)):
        each.join()
    assert not failures, failures[0]
    found = subject.bits()
    alone = make("torch" if backend == "torch" else "numpy", 0)
    for _ in range(sum(done)):
        if isinstance(alone, OverTensors):
            for param in alone.params:
                param.grad = alone.full_like(param, 0.5)
            alone.optimizer.step()
        else:
            alone.optimizer.step(grads)
    assert found == alone.bits(), "a step was lost, or taken twice"
    return f"{sum(done)} steps"


def fork(backend: str, seconds: float) -> str:
    """Fork while threads make, step, pickle and drop optimizers."""
    warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads is forked
    failures: list[str] = []
    wanted = [expected(backend, seed) for seed in range(24)]
    kept = make(backend, 0)
    kept.step(0)
    end = time.monotonic() + seconds
    started = _in_threads(_until(seconds, failures, lambda seed: run(backend, seed) and None))
    children = 0
    while time.monotonic() < end and not failures:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                kept.step(1)  # the parent's optimizer, and one of its own
                code = 0 if run(backend, children % 24) == wanted[children % 24] else 2
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        limit = time.monotonic() + LONG / 2
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < limit:
            time.sleep(0.001)
        if ended[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
            failures.append(f"child {children} hangs")
        elif ended[1] != 0:
            failures.append(f"child {children} ended with the status {ended[1]}")
        children += 1
    for each in started:
        each.join()
    assert not failures, failures[0]
    return f"{children} children"


CASES = {"own": own, "shared": shared, "fork": fork}


def subjects() -> list[tuple[str, str, dict[str, str]]]:
    """Return what can be stressed here: a label, the backend and its environment."""
    found: list[tuple[str, str, dict[str, str]]] = []
    for name, state in fastadam.available_backends().items():
        if state != "available":
            continue
        if name == "numba":
            found += [(f"numba {layer}", name, {"NUMBA_THREADING_LAYER": layer}) for layer in LAYERS]
        else:
            found.append((name, name, {}))
    if importlib.util.find_spec("torch"):
        found.append(("torch", "torch", {}))
    return found


def main() -> int:
    """Run the cases, each in a process of its own; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description="See the first lines of the file.")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of each thread case; a third of it for the others"
    )
    parser.add_argument("--only", help="one backend, or torch")
    parser.add_argument(
        "--without-processes", action="store_true", help="everything in this process, nothing forked"
    )
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        fastadam_threads.ELEMENTS_PER_THREAD = 512  # so that small optimizers use threads
        outcome = CASES[given.case](given.only, given.seconds)
        print(outcome + (f" on the layer {threading_layer()!r}" if given.only == "numba" else ""))
        return 0
    if given.without_processes:
        for case in ("own", "shared"):
            print(f"{given.only:16} {case:8} {CASES[case](given.only, given.seconds)}")
        return 0
    failed = 0
    for label, backend, environment in subjects():
        if given.only not in (None, backend):
            continue
        for case in CASES:
            if case == "fork" and not hasattr(os, "fork"):
                continue
            seconds = given.seconds if case == "own" else given.seconds / 3
            command = [sys.executable, "-m", "tests.stress", "--case", case, "--only", backend]
            command += ["--seconds", str(seconds)]
            try:
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **environment},
                    capture_output=True,
                    text=True,
                    timeout=seconds + LONG,
                    check=False,
                )
                outcome = (
                    done.stdout.strip() if done.returncode == 0 else f"FAILED: {done.returncode} {done.stderr}"
                )
            except subprocess.TimeoutExpired:
                outcome = "FAILED: hangs"
            failed += "FAILED" in outcome
            print(f"{label:16} {case:8} {outcome}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
