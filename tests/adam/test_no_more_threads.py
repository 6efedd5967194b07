"""Where the system makes no more threads, a step takes those that there are, and the process goes on.

Each case limits the processes of a user, or the memory, of a process of its own.
"""

from __future__ import annotations

import sys

import pytest

from tests.conftest import AVAILABLE
from tests.support.processes import COMMON, python

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's"),
    pytest.mark.slow,
]

LIMITED = (
    COMMON
    + """
import os, resource

n_threads, how, before = int(sys.argv[2]), sys.argv[3], sys.argv[4]
n = 131_072 * n_threads


def make(threads):
    params = [np.ones(n, np.float32)]
    return params, fastadam.Adam(params, backend=sys.argv[1], threads=threads)


rng = np.random.default_rng(0)
grads = [rng.standard_normal(n, np.float32)]
alone, one = make(1)
params, opt = make(n_threads)
_, fewer = make(2)
for _ in range(2):
    one.step(grads)
if before != "nothing":
    opt.step(grads)
if before == "a smaller team":  # which ends the threads that it does not need
    fewer.step(grads)
if how == "processes":
    if os.getuid() == 0:  # for whom there is no such limit
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
else:
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (int(how) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
for _ in range(1 if before != "nothing" else 2):
    opt.step(grads)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert params[0].tobytes() == alone[0].tobytes()
print("stepped")
"""
)


@pytest.mark.parametrize("before", ["nothing", "all threads", "a smaller team"])
@pytest.mark.parametrize("how", ["processes", "16", "60"])  # or so many MiB more: for no stack, and for some
@pytest.mark.parametrize("n_threads", [3, 24])
def test_c_takes_the_threads_that_there_are(n_threads: int, how: str, before: str) -> None:
    if "c" not in AVAILABLE:
        pytest.skip("the C extension is not available")
    assert python(LIMITED, "c", str(n_threads), how, before) == "stepped\n"


@pytest.mark.parametrize("how", ["processes", "60"])
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("before", ["nothing", "all threads"])
def test_numba_takes_the_threads_that_there_are(layer: str, how: str, before: str) -> None:
    if "numba" not in AVAILABLE:
        pytest.skip("Numba is not available")
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "24"}
    assert python(LIMITED, "numba", "3", how, before, **environment) == "stepped\n"


def test_numba_starts_no_threads_where_none_can_be_had() -> None:
    """Numba's workqueue layer starts all of them at once, and waits for ever for one that could not be."""
    if "numba" not in AVAILABLE:
        pytest.skip("Numba is not available")
    code = (
        COMMON
        + """
from fastadam.backends.numba import teams

teams.can_be_started = lambda n: n - 1
assert teams.threading_layer() == "none"
assert bits("numba", 2) == bits("numpy")
print("stepped")
"""
    )
    assert python(code, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="4") == "stepped\n"
