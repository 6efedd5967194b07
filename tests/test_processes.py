"""No crash, hang or abort: threads, forks, spawned processes, missing or broken parts, environment variables.

Each test runs Python code in a process of its own, which must end by itself and print what is expected.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import AVAILABLE

LONG = 240  # seconds that no process comes near to, unless it hangs

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason="the C extension is not available")
needs_numba = pytest.mark.skipif("numba" not in AVAILABLE, reason="Numba is not available")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def python(code: str, *args: str, **environment: str) -> str:
    """Run code in a new process and return what it printed; fail if it fails, aborts or hangs."""
    return _run([sys.executable, "-c", code, *args], environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    steering = ("NUMBA_", "FASTADAM_", "OMP_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(steering)}
    if "PYTHONPATH" in environment and "PYTHONPATH" in inherited:
        environment["PYTHONPATH"] += os.pathsep + inherited["PYTHONPATH"]
    process = subprocess.Popen(
        command,
        env={**inherited, **environment},
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

# -------------------- threads

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


# -------------------- processes

FORK = (
    COMMON
    + """
import multiprocessing
import pickle

context = multiprocessing.get_context("fork")


def in_child(work):
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send_bytes(work()))
    child.start()
    assert receive.poll(200), "the child hangs"
    found = receive.recv_bytes()
    child.join(200)
    assert child.exitcode == 0, child.exitcode
    return found
"""
)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_after_use(backend: str) -> None:
    code = (
        FORK
        + """
backend = sys.argv[1]
expected = bits(backend, threads=2)  # the parent has used parallel kernels
w = np.ones(N)
opt = fastadam.Adam([w], backend=backend, threads=2)
flat = fastadam.pack([np.ones(N, np.float32), np.ones(5, np.float32)])
packed = fastadam.Adam(flat, amsgrad=True, backend=backend)
grads = np.random.default_rng(1).standard_normal((4, N))


def go_on():
    opt.step([grads[1]])
    opt.step([grads[2][::-1]])
    flat.grad[...] = 0.5
    packed.step()
    packed.step([np.ones(N, np.float32), None])
    return w.tobytes() + opt.state[0]["exp_avg"].tobytes() + flat.param.tobytes()


opt.step([grads[0]])
packed.step()
for threads in (2, None, 1):
    assert in_child(lambda: bits(backend, threads)) == expected, "a new optimizer in the child"
    assert in_child(lambda: in_child(lambda: bits(backend, threads))) == expected, "in its child"
found = in_child(go_on)
assert go_on() == found, "the parent's optimizer in the child"
assert bits(backend, threads=2) == expected, "the parent afterwards"
print("same bits")
"""
    )
    assert python(code, backend) == "same bits\n"


@needs_fork
def test_fork_while_a_thread_steps(backend: str) -> None:
    """The child has no other thread that could give back what was locked when it was forked."""
    code = (
        FORK
        + """
backend = sys.argv[1]
expected = bits(backend, n=1000)
shared = fastadam.Adam([np.ones(N)], backend=backend, threads=1)
grads = [np.ones(N)]
stop = False


def work():
    while not stop:
        shared.step(grads)


def in_the_child():
    shared.step(grads)
    return bits(backend, n=1000)


thread = threading.Thread(target=work)
thread.start()
try:
    for _ in range(5):
        assert in_child(in_the_child) == expected
    found = []
    in_threads(1, lambda: found.append(in_child(in_the_child)))  # forked by a thread that is not the main one
    assert found == [expected]
finally:
    stop = True
    thread.join()
print("same bits")
"""
    )
    assert python(code, backend) == "same bits\n"


DATA_LOADER = """
import sys

import torch

import fastadam.torch


class Trained(torch.utils.data.Dataset):
    \"""Items that are what is left of a parameter after some steps in the worker.\"""

    def __init__(self):
        self.optimizer = None

    def __len__(self):
        return 4

    def __getitem__(self, i):
        param = torch.nn.Parameter(torch.linspace(0, i, 1000))
        inherited = self.optimizer or fastadam.torch.Adam([param])
        for optimizer in (fastadam.torch.Adam([param], lr=0.1), inherited):
            for each in optimizer.param_groups[0]["params"]:
                each.grad = torch.full_like(each, 0.5)
            optimizer.step()
            optimizer.step()
        return param.detach().clone()


if __name__ == "__main__":
    method = sys.argv[1]
    trained = Trained()
    expected = [trained[i] for i in range(4)]
    if method == "fork":  # the workers go on with what they inherit
        param = torch.nn.Parameter(torch.ones(300_000))
        param.grad = torch.ones(300_000)
        trained.optimizer = fastadam.torch.Adam([param])
        trained.optimizer.threads = 2
        trained.optimizer.step()
        trained.optimizer.step()
        expected = [trained[i] for i in range(4)]
    loader = torch.utils.data.DataLoader(
        trained, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=100
    )
    assert all(torch.equal(a, b) for a, b in zip(loader, expected, strict=True))
    print("same bits")
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_steps_in_workers_of_a_data_loader(method: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "workers.py").write_text(DATA_LOADER)
    assert _run([sys.executable, str(tmp_path / "workers.py"), method], {}) == "same bits\n"


@needs_fork
@needs_numba
def test_fork_while_numba_compiles() -> None:
    code = (
        FORK
        + """
expected = bits("numpy", n=1000)
first = fastadam.Adam([np.ones(3)], backend="numba")
first.step([np.ones(3)])
compiling = threading.Event()
from fastadam.backends import numba as numba_cpu

compile_, numba_cpu._compile = numba_cpu._compile, None


def slow(*args):
    compiling.set()
    forked.wait(1)  # the fork waits for the compilation
    return compile_(*args)


numba_cpu._compile = slow
forked = threading.Event()
thread = threading.Thread(target=lambda: bits("numba", n=1000))
thread.start()
compiling.wait(100)
receive, send = context.Pipe(duplex=False)


def child_work():
    numba_cpu._compile = compile_
    first.step([np.ones(3)])
    send.send_bytes(bits("numba", n=1000))


child = context.Process(target=child_work)
child.start()
forked.set()
assert receive.poll(100), "the child hangs"
assert receive.recv_bytes() == expected
child.join(100)
thread.join(100)
print("same bits")
"""
    )
    assert python(code) == "same bits\n"


SPAWNED = """
import copy
import multiprocessing
import sys

import numpy as np

import fastadam

N = 1000


def grads(step):
    rng = np.random.default_rng(step)
    return {"w": rng.standard_normal(N), "b": rng.standard_normal(7)}


def go_on(opt, steps):
    for step in steps:
        opt.step(grads(step))
    arrays = [opt.state[name][key] for name in "wb" for key in ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")]
    for given in opt.param_groups[0]["params"]:
        arrays.append(given.data if isinstance(given, fastadam.Parameter) else given)
    return b"".join(array.tobytes() for array in arrays)


def make(backend, kind):
    params = {"w": np.ones(N), "b": np.ones(7)}
    if kind == "packed":
        params = fastadam.pack(params)
    elif kind == "objects":
        params = {name: fastadam.Parameter(array) for name, array in params.items()}
    return fastadam.AdamW(params, lr=0.01, amsgrad=True, backend=backend, threads=2)


if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
        for kind in ("in place", "packed", "objects"):
            opt = make(sys.argv[1], kind)
            go_on(opt, (1, 2))
            copied = copy.deepcopy(opt)
            restored = make(sys.argv[1], "in place")
            go_on(restored, (1, 2))
            restored.load_state_dict(opt.state_dict())
            found = [pool.apply(go_on, (each, (3, 4))) for each in (opt, copied, restored)]  # as pickles
            assert found == [go_on(opt, (3, 4))] * 3, kind
            assert go_on(copied, (3, 4)) == found[0], kind
    print("same bits")
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pickled_optimizer_goes_on_in_another_process(backend: str, method: str, tmp_path: Path) -> None:
    """And so do a deep copy and an optimizer that has loaded a saved state."""
    (tmp_path / "spawned.py").write_text(SPAWNED)
    assert _run([sys.executable, str(tmp_path / "spawned.py"), backend, method], {}) == "same bits\n"


# -------------------- the cache of Numba

SMALL = (
    COMMON
    + """
import numba
from fastadam.backends import numba as numba_cpu
from numba.core import caching


def step():
    w = np.ones(100)
    opt = fastadam.Adam([w], backend="numba", threads=1)
    opt.step([np.linspace(0, 1, 100)])
    opt.step([np.linspace(1, 2, 100)])
    return w.tobytes()


def check(what):
    numba_cpu._kernels.clear()  # so that the kernel is compiled, or loaded, again
    assert step() == expected, what


w = np.ones(100)
opt = fastadam.Adam([w], backend="numpy")
opt.step([np.linspace(0, 1, 100)])
opt.step([np.linspace(1, 2, 100)])
expected = w.tobytes()
"""
)


VARIANT = """
import itertools

kinds = [*itertools.product((np.float32,), (0.0, 0.1), (False, True), (1,)), (np.float32, 0.1, True, 2)]
fastadam.step.threads.ELEMENTS_PER_THREAD = 8


def run(backend, dtype, weight_decay, amsgrad, threads):
    w = np.linspace(-1, 1, 100).astype(dtype)
    opt = fastadam.Adam([w], weight_decay=weight_decay, amsgrad=amsgrad, backend=backend, threads=threads)
    for t in range(3):
        opt.step([np.linspace(t - 2, 1, 100).astype(dtype)])
    return w.tobytes()


chosen = kinds if sys.argv[1] == "all" else [kinds[int(sys.argv[1])]]
for kind in chosen:
    assert run("numba", *kind) == run("numpy", *kind), kind
print("same bits")
"""


@needs_numba
def test_variants_cached_by_different_processes_do_not_mix(tmp_path: Path) -> None:
    """Numba knows compiled functions by their names, which must differ between variants."""
    for which in ("0", "1", "2", "3", "all", "all"):
        assert python(COMMON + VARIANT, which, NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"


@needs_numba
def test_cache_in_the_next_process_and_damaged(tmp_path: Path) -> None:
    """Kernels are compiled once; a cache that cannot be read is no reason to fail."""
    python(SMALL + "check('first')", NUMBA_CACHE_DIR=str(tmp_path))
    code = """
from pathlib import Path


def files():
    return {path: path.read_bytes() for path in Path(sys.argv[1]).rglob("*.nb?")}


whole = files()
assert sorted(path.suffix for path in whole) == [".nbc", ".nbi"]
check("from the cache")
assert files() == whole, "compiled again"
for suffix in (".nbi", ".nbc"):
    for damage in (b"rubbish" * 99, None):
        for path, content in whole.items():
            cut_short = content[: len(content) // 2]
            path.write_bytes((damage or cut_short) if path.suffix == suffix else content)
        check((suffix, damage))
print("same bits")
"""
    assert python(SMALL + code, str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"


@needs_numba
def test_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in ("/dev/null/cache", str(tmp_path / "file")):
        python(SMALL + "check('no folder')", NUMBA_CACHE_DIR=folder)


@needs_numba
def test_cache_that_fails(tmp_path: Path) -> None:
    code = """
def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


for owner, name, value in (
    (caching.CacheImpl, "_locator_classes", []),  # no folder can be written: raises at decoration
    (caching.IndexDataCacheFile, "save", full),
    (caching.IndexDataCacheFile, "load", full),
    (caching.CompileResultCacheImpl, "reduce", full),
):
    before = owner.__dict__[name]
    setattr(owner, name, value)
    check(name)
    setattr(owner, name, before)
print("same bits")
"""
    assert python(SMALL + code, NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"


# -------------------- what is imported


def test_import_loads_numpy_and_nothing_heavier() -> None:
    code = """
import sys

import numpy

before = set(sys.modules)
import fastadam

new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - {"numpy"} - set(sys.stdlib_module_names)))
heavy = ("numba", "torch", "scipy", "matplotlib", "safetensors", "tqdm", "_cffi_backend", "fastadam.backends._c")
print([name for name in heavy if name in sys.modules])
"""
    assert python(code) == "['fastadam']\n[]\n"


@needs_c
@pytest.mark.parametrize("name", ["c", "auto"])
def test_c_backend_does_not_import_numba(name: str) -> None:
    code = """
import sys

import numpy as np

import fastadam

opt = fastadam.Adam([np.ones(300_000)], backend=sys.argv[1])
opt.step([np.ones(300_000)])
opt.step([np.ones(600_000)[::2]])
print(opt.backend, "numba" in sys.modules)
"""
    assert python(code, name) == "c False\n"


def test_numpy_backend_imports_no_other() -> None:
    code = (
        "import sys, numpy as np, fastadam\n"
        "fastadam.Adam([np.ones(3)], backend='numpy').step([np.ones(3)])\n"
        "print([name for name in ('numba', 'fastadam.backends._c') if name in sys.modules])"
    )
    assert python(code) == "[]\n"


# -------------------- environment variables


def test_limit_of_threads() -> None:
    code = """
import os

from fastadam.step.threads import default_limit, limit_from_environment

processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
for own, shared, limit in (
    ("3", None, 3),
    ("256", None, 256),
    (None, "5", 5),
    (None, "4,2", 4),
    (None, "100000", 256),
    ("3", "5", 3),
    (None, "0", processors),
    (None, "many", processors),
    (None, "", processors),
    (None, None, processors),
):
    for name, value in (("FASTADAM_NUM_THREADS", own), ("OMP_NUM_THREADS", shared)):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    limit_from_environment.cache_clear()
    default_limit.cache_clear()
    assert default_limit() == limit, (own, shared, default_limit())
print("done")
"""
    assert python(code) == "done\n"


def test_bad_limit_of_threads() -> None:
    code = """
import os

import numpy as np

import fastadam

for value in (os.environ["FASTADAM_NUM_THREADS"], "0", "-1", "257", "", "1.5"):
    os.environ["FASTADAM_NUM_THREADS"] = value
    try:
        fastadam.Adam([np.ones(3)], backend="numpy")
    except ValueError as error:
        assert str(error) == f"FASTADAM_NUM_THREADS must be a number from 1 to 256, got {value!r}"
    else:
        raise AssertionError(value)
    fastadam.Adam([np.ones(3)], backend="numpy", threads=1).step([np.ones(3)])  # not asked for
print("done")
"""
    assert python(code, FASTADAM_NUM_THREADS="two") == "done\n"


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"FASTADAM_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "2"}, "2"),
        ({"FASTADAM_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, "1"),
    ],
)
def test_limit_of_threads_holds(environment: dict[str, str], threads: str) -> None:
    code = COMMON + (
        "opt = fastadam.Adam([np.ones(10 * N)], backend='numpy')\n"
        "print(*opt._planner.in_pieces.plan.batches['threads'])\n"
    )
    assert python(code, **environment) == threads + "\n"


@needs_c
def test_instruction_set_from_the_environment() -> None:
    code = COMMON + (
        "from fastadam.backends import c\n"
        "assert fastadam.available_backends()['c'] == 'available'\n"
        "assert bits('c', 2) == bits('numpy')\n"
        "print(c.instruction_set())\n"
    )
    assert python(code, FASTADAM_INSTRUCTION_SET="baseline") == "baseline\n"


@needs_c
@pytest.mark.parametrize("value", ["sse9", ""])
def test_unknown_instruction_set(value: str) -> None:
    code = """
import numpy as np

import fastadam

print(fastadam.available_backends()["c"])
for backend in ("c", "auto"):
    try:
        fastadam.Adam([np.ones(3)], backend=backend)
    except fastadam.BackendUnavailableError as error:
        print(error)
print(fastadam.Adam([np.ones(3)], backend="numpy").backend)
"""
    reason, error, auto, named = python(code, FASTADAM_INSTRUCTION_SET=value).splitlines()
    assert reason.startswith(
        f"FASTADAM_INSTRUCTION_SET: instruction set {value!r} is not available here; this proc"
    )
    assert error == f"backend 'c' is not available: {reason}"
    assert auto == error  # a wrong setting must not choose another backend in silence
    assert named == "numpy"


# -------------------- missing parts

MISSING = """
import sys

if "c" in sys.argv[1:]:
    sys.modules["fastadam.backends._c"] = None

import numpy as np

import fastadam

name = sys.argv[1]
print(fastadam.available_backends()[name])
try:
    fastadam.Adam([np.ones(3)], backend=name)
except fastadam.BackendUnavailableError as error:
    print(error)
opt = fastadam.Adam([np.ones(3)])
opt.step([np.ones(3)])
print(opt.backend)
"""
AUTO_WITHOUT_NUMBA = "c" if "c" in AVAILABLE else "numpy"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no numba here')", "numba cannot be imported (ImportError: no numba here); try: pip"),
        ("raise SystemError('wrong ABI')", "numba cannot be imported (SystemError: wrong ABI); try: pip"),
        (
            "import no_such_module",
            "numba cannot be imported (ModuleNotFoundError: No module named 'no_such_module')",
        ),
    ],
)
def test_numba_that_cannot_be_imported(tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "numba.py").write_text(source)
    out = python(MISSING, "numba", PYTHONPATH=str(tmp_path)).splitlines()
    assert out[0].startswith(reason)
    assert out[1:] == [f"backend 'numba' is not available: {out[0]}", AUTO_WITHOUT_NUMBA]
    assert python(MISSING, "numba", "c", PYTHONPATH=str(tmp_path)).splitlines()[-1] == "numpy"


@needs_numba
def test_numba_without_its_compiler() -> None:
    out = python(MISSING, "numba", NUMBA_DISABLE_JIT="1").splitlines()
    assert out[0].startswith("NUMBA_DISABLE_JIT is set")
    assert out[1:] == [f"backend 'numba' is not available: {out[0]}", AUTO_WITHOUT_NUMBA]


def test_c_extension_that_cannot_be_imported() -> None:
    out = python(MISSING, "c").splitlines()
    assert out[0].startswith("the C extension was not built or cannot be loaded (")
    assert "install a C compiler" in out[0]
    assert out[1] == f"backend 'c' is not available: {out[0]}"
    state = python("import fastadam; print(fastadam.available_backends()['numba'])")
    assert out[2] == ("numba" if state == "available\n" else "numpy")


def test_pickle_of_a_backend_that_is_missing_elsewhere(tmp_path: Path) -> None:
    """An optimizer that chose its backend itself chooses again where it is loaded."""
    save = (
        "import pickle, sys, numpy as np, fastadam\n"
        "opt = fastadam.Adam([np.ones(3)])\n"
        "opt.step([np.ones(3)])\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps(opt))\n"
    )
    load = (
        "import pickle, sys; sys.modules['fastadam.backends._c'] = None\n"
        "import numpy as np, fastadam\n"
        "opt = pickle.load(open(sys.argv[1], 'rb'))\n"
        "opt.step([np.ones(3)])\n"
        "print(opt.state[0]['step'], opt.backend != 'c')\n"
    )
    python(save, str(tmp_path / "opt"))
    assert python(load, str(tmp_path / "opt"), NUMBA_DISABLE_JIT="1") == "2 True\n"
