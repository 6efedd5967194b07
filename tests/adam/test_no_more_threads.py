"""Where the system makes no more threads, a step takes those that there are, and the process goes on.

Each case limits the processes of a user, or the memory, of a process of its own.
"""

from __future__ import annotations

import ctypes.util
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
import ctypes, os, resource

n_threads, how, before = int(sys.argv[2]), sys.argv[3], sys.argv[4]
n = 131_072 * n_threads


def make(threads):
    params = [np.ones(n, np.float32)]
    return params, fastadam.Adam(params, backend=sys.argv[1], threads=threads)


def end_slowly(n):
    # Let each thread of this thread's team, made by libgomp, take a second to end.
    libc, gomp = ctypes.CDLL(None), ctypes.CDLL("libgomp.so.1")

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def mark(_):
        if threading.get_ident() != main:
            libc.pthread_setspecific(slow, ctypes.c_void_p(999_999))

    main = threading.get_ident()
    gomp.GOMP_parallel(mark, None, n, 0)


# Made before the library has one, so that it is the first thing that an ending thread comes to.
slow = ctypes.c_uint()
ctypes.CDLL(None).pthread_key_create(ctypes.byref(slow), ctypes.CDLL(None).usleep)
rng = np.random.default_rng(0)
grads = [rng.standard_normal(n, np.float32)]
alone, one = make(1)
params, opt = make(n_threads)
_, fewer = make(2)
for _ in range(2):
    one.step(grads)
if before != "nothing":
    opt.step(grads)
if before == "a team that ends slowly":
    end_slowly(n_threads)
if before in ("a smaller team", "a team that ends slowly"):  # which ends the threads that it does not need
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


def test_threads_that_are_about_to_end_do_not_count() -> None:
    if "c" not in AVAILABLE:
        pytest.skip("the C extension is not available")
    if ctypes.util.find_library("gomp") is None:
        pytest.skip("there is no libgomp")
    assert python(LIMITED, "c", "24", "16", "a team that ends slowly") == "stepped\n"


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
