"""No crash, hang or abort after forks, in spawned processes and in workers of a DataLoader."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

from tests.support.processes import COMMON, needs_fork, needs_numba, python, run

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
    assert run([sys.executable, str(tmp_path / "workers.py"), method], {}) == "same bits\n"


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
    assert run([sys.executable, str(tmp_path / "spawned.py"), backend, method], {}) == "same bits\n"
