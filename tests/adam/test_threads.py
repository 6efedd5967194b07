"""No crash, hang or abort where several threads step: each test is a process that must end by itself."""

from __future__ import annotations

import signal

import pytest

from tests.support.processes import COMMON, needs_numba, python

OPTIMIZERS_OF_THEIR_OWN = (
    COMMON
    + """
backend = sys.argv[1]
found = []
in_threads(4, lambda: found.append(bits(backend, 2)))  # nothing is loaded, compiled or started yet
expected = bits("numpy", threads=1)
assert found == [expected] * 4
assert bits(backend, threads=1) == expected
for threads in (None, 2):
    for count in (2, 4):
        found = []
        in_threads(count, lambda: found.append(bits(backend, threads)))
        assert found == [expected] * count, (threads, count)
print("same bits")
"""
)


def test_threads_with_optimizers_of_their_own(backend: str) -> None:
    assert python(OPTIMIZERS_OF_THEIR_OWN, backend) == "same bits\n"


def test_threads_that_share_an_optimizer(backend: str) -> None:
    """Steps and saved states from several threads take turns; no step is lost."""
    code = (
        COMMON
        + """
for n, steps in ((10, 200), (N, 5)):
    w = np.ones(n)
    opt = fastadam.Adam([w], backend=sys.argv[1], threads=2)
    grads = [np.full(n, 2.0)]

    def work():
        for i in range(steps):
            opt.step(grads)
            if i % 5 == 0:
                opt.state_dict()

    in_threads(3, work)
    assert opt.state[0]["step"] == 3 * steps
    alone = fastadam.Adam([np.ones(n)], backend="numpy")
    for _ in range(3 * steps):
        alone.step(grads)
    assert opt.state[0]["exp_avg"].tobytes() == alone.state[0]["exp_avg"].tobytes()
print("done")
"""
    )
    assert python(code, backend) == "done\n"


def test_exit_while_a_thread_steps(backend: str) -> None:
    code = (
        COMMON
        + """
opt = fastadam.Adam([np.ones(N)], backend=sys.argv[1], threads=2)
grads = [np.ones(N)]
opt.step(grads)
started = threading.Event()


def work():
    while True:
        opt.step(grads)
        started.set()


threading.Thread(target=work, daemon=True).start()
started.wait()
print("done")
"""
    )
    assert python(code, backend) == "done\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_state_asked_for_in_the_middle_of_a_step(backend: str) -> None:
    """By a learning-rate schedule, or by a signal handler that saves a checkpoint: neither may wait for ever."""
    code = """
import signal
import sys

import numpy as np

import fastadam

asked = 0


def ask(*args):
    global asked
    asked += 1
    try:
        opt.state_dict()
    except RuntimeError:  # it may say that a step is under way
        pass
    return 0.1


opt = fastadam.Adam([np.ones(3)], lr=ask, backend=sys.argv[1])
opt.step([np.ones(3)])
opt.step([np.ones(3)[::-1]])
assert asked >= 2
opt.param_groups[0]["lr"] = 0.1
signal.signal(signal.SIGALRM, ask)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while asked < 200:
    opt.step([np.ones(3)])
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""
    assert python(code, backend) == "done\n"


@needs_numba
@pytest.mark.parametrize("layer", ["workqueue", "tbb"])
def test_threading_layers_of_numba(layer: str) -> None:
    """Workqueue ends a process in which two threads run kernels at once; TBB is mostly not installed."""
    assert python(OPTIMIZERS_OF_THEIR_OWN, "numba", NUMBA_THREADING_LAYER=layer) == "same bits\n"
