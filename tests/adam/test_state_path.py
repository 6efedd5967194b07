"""State on disk: the bits of the one in memory, and a file that is never somebody else's."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory import state_file
from fastadam.step import windows
from tests.conftest import AVAILABLE
from tests.support.bits import assert_same_bits
from tests.support.strategies import examples

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="state_path needs posix_fallocate")
HOSTS = [name for name in AVAILABLE if name != "cuda"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"amsgrad": True, "weight_decay": 0.1},
    {"state_dtype": "int8", "amsgrad": True},
    {"state_dtype": "bfloat16", "max_grad_norm": 0.5},
    {"ema_decay": 0.9, "ema_warmup": True},
    {"ema_decay": 0.9, "state_dtype": "int8"},
]
HALVES: list[dict[str, Any]] = [
    {"master_weights": True},
    {"master_weights": True, "state_dtype": "int8", "amsgrad": True},
    {"rounding": "stochastic", "state_dtype": "bfloat16"},
]
SIZES = [3 * windows.UNIT + 5, 1, 0, 17, 2 * windows.UNIT, 9 * windows.UNIT + 64]


def run(code: str, *args: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=seconds, check=False
    )


def assert_same_state(one: fastadam.Adam, other: fastadam.Adam) -> None:
    """Compare all state in bits."""
    first, second = one.state_dict()["state"], other.state_dict()["state"]
    assert first.keys() == second.keys()
    for key, entry in first.items():
        assert entry.keys() == second[key].keys()
        for name, value in entry.items():
            assert_same_bits(np.asarray(value), np.asarray(second[key][name]))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a file that is to be made, and check that it is gone at the end."""
    return str(tmp_path / "moments.bin")


@examples(40)
@given(data=st.data(), backend=st.sampled_from(HOSTS), packed=st.booleans(), dtype=st.sampled_from("efdFD"))
def test_the_bits_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, backend: str, packed: bool, dtype: str
) -> None:
    options = data.draw(st.sampled_from(HALVES if dtype == "e" else OPTIONS))
    if dtype == "e":
        options = {**options}
    window = data.draw(st.sampled_from([64, 128, 1024])) << 10  # of several to a parameter, up to all in one
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))

    def numbers(n: int) -> Any:
        found = rng.standard_normal(n)
        return (found + 1j * found[::-1] if dtype in "FD" else found).astype(dtype)

    arrays = [numbers(n) for n in SIZES]
    path = str(tmp_path_factory.mktemp("state") / "moments.bin")
    make = fastadam.pack if packed else (lambda each: [array.copy() for array in each])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW", window)
        pairs = [make(arrays), make(arrays)]
        one = fastadam.Adam(pairs[0], backend=backend, **options)
        other = fastadam.Adam(pairs[1], backend=backend, state_path=path, **options)
        more = [numbers(700), numbers(700)]
        more[1][...] = more[0]
        for step in range(4):
            if step == 2:
                one.add_param_group({"params": more[0], "lr": 0.1})
                other.add_param_group({"params": more[1], "lr": 0.1})
            if step == 3 and "amsgrad" not in options:
                one.amsgrad = other.amsgrad = True
            grads: list[Any] = [numbers(n) for n in SIZES] + ([numbers(700)] if step > 1 else [])
            if step == 1:
                grads[data.draw(st.integers(0, len(SIZES) - 1))] = None
            one.step(grads, grad_scale=2.0)
            other.step(grads, grad_scale=2.0)
        for mine, theirs in zip(one._groups.members, other._groups.members, strict=True):
            assert_same_bits(mine.array, theirs.array)
        assert_same_state(one, other)
        third = fastadam.Adam([*make(arrays)] if not packed else make(arrays), backend=backend, **options)
        third.add_param_group({"params": more[0].copy()})
        third.load_state_dict(other.state_dict())
        other.load_state_dict(one.state_dict())
        assert_same_state(one, third)
        assert_same_state(one, other)
    del other
    assert not os.path.exists(path)


def test_averages_switched_on_later_and_off(path: str) -> None:
    one, other = np.ones(5000), np.ones(5000)
    here, there = fastadam.Adam(one), fastadam.Adam(other, state_path=path)
    for decay in (None, 0.9, 0.5, None, 0.9):
        here.ema_decay = there.ema_decay = decay
        for optimizer in (here, there):
            optimizer.step(np.sin(np.arange(5000.0)))
    with here.averaged(), there.averaged():
        assert_same_bits(one, other)
    assert_same_bits(one, other)
    assert_same_state(here, there)


def test_the_room_of_dropped_averages_is_given_back(path: str) -> None:
    optimizer = fastadam.Adam(np.ones(100_000), state_path=path)
    before = os.path.getsize(path)
    optimizer.ema_decay = 0.9
    assert os.path.getsize(path) > before
    optimizer.ema_decay = None
    optimizer.step(np.ones(100_000))
    gc.collect()
    assert os.path.getsize(path) == before


def test_checkpoints_go_both_ways(path: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    one, other = np.ones(5000, np.float32), np.zeros(5000, np.float32)
    here, there = fastadam.Adam(one, state_dtype="int8"), fastadam.Adam(other, state_path=path, state_dtype="int8")
    here.step(np.arange(5000, dtype=np.float32))
    fastadam.save(tmp_path / "a.safetensors", here)
    fastadam.load(tmp_path / "a.safetensors", there)
    fastadam.save(tmp_path / "b.safetensors", there)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert_same_bits(one, other)


@pytest.mark.parametrize("sizes", [[0], [0, 3], [3, 0], [0, 0]])
def test_groups_without_a_number(path: str, sizes: list[int]) -> None:
    """An array of no numbers has an address, too, and none in the file."""
    arrays = [np.ones(size) for size in sizes]
    optimizer = fastadam.Adam([{"params": each} for each in arrays], state_path=path)
    others = [each.copy() for each in arrays]
    twin = fastadam.Adam([{"params": each} for each in others])
    for each in (optimizer, twin):
        each.step([np.ones(size) for size in sizes])
    assert_same_state(optimizer, twin)
    for one, other in zip(arrays, others, strict=True):
        assert_same_bits(one, other)


def test_a_checkpoint_that_takes_its_place_is_kept(path: str) -> None:
    """So a file is kept under its name; the optimizer goes on with the one that it had."""
    w, other = np.ones(5000), np.ones(5000)
    optimizer, twin = fastadam.Adam(w, state_path=path), fastadam.Adam(other)
    for each in (optimizer, twin):
        each.step(np.linspace(-1, 1, 5000))
    fastadam.save(path, optimizer)
    saved = twin.state_dict()
    for each in (optimizer, twin):
        each.step(np.ones(5000))
    optimizer.amsgrad = True  # the file grows
    optimizer.step(np.ones(5000))
    twin.amsgrad = True
    twin.step(np.ones(5000))
    assert_same_bits(w, other)
    assert_same_state(optimizer, twin)
    del optimizer
    gc.collect()
    with pytest.raises(FileExistsError, match="move it away"):
        fastadam.Adam(w, state_path=path)
    loaded = fastadam.Adam(np.zeros(5000), state_path=f"{path}.next")
    fastadam.load(path, loaded)
    in_memory = fastadam.Adam(np.zeros(5000))
    in_memory.load_state_dict(saved)
    assert_same_state(loaded, in_memory)


def test_saving_takes_little_memory(path: str, tmp_path: Path) -> None:
    code = """
import sys, numpy as np, fastadam
def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
optimizer = fastadam.Adam(np.zeros(4_000_000, np.float64), state_path=sys.argv[1], threads=1)
optimizer.step(np.ones(4_000_000))
fastadam.save(sys.argv[2], fastadam.Adam(np.ones(3)), params=False)
before = resident()
fastadam.save(sys.argv[2], optimizer, params=False)
print(resident() - before)
fastadam.load(sys.argv[2], optimizer)
print(resident() - before)
"""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc here")
    found = run(code, path, str(tmp_path / "run.safetensors"))
    assert found.returncode == 0, found.stderr
    assert all(int(line) < 20_000 for line in found.stdout.split())  # KiB, of 64 MB of state


def test_views_of_the_state_are_live(path: str) -> None:
    w = np.ones(3000)
    optimizer = fastadam.Adam(w, state_path=path)
    optimizer.step(np.ones(3000))
    optimizer.state[0]["exp_avg"][...] = 0.5
    view = optimizer.state[0]["exp_avg"]
    optimizer.step(np.ones(3000))
    assert np.allclose(view, 0.5 * 0.9 + 0.1)
    del optimizer
    assert np.allclose(view, 0.55)  # what a view sees lives as long as it


def test_the_file_is_sparse_until_the_first_step(path: str) -> None:
    optimizer = fastadam.Adam(w := np.zeros(1_000_000), state_path=path)
    assert os.path.getsize(path) > 16e6
    assert os.stat(path).st_blocks * 512 < 1e6
    optimizer.step(w + 1)
    assert os.stat(path).st_blocks * 512 >= 16e6


def test_the_file_is_locked_and_removed(path: str) -> None:
    optimizer = fastadam.Adam(np.ones(3), state_path=path)
    with pytest.raises(BlockingIOError, match="path of its own") as caught:
        fastadam.Adam(np.ones(3), state_path=path)
    assert path in str(caught.value)
    code = "import sys, numpy, fastadam; fastadam.Adam(numpy.ones(3), state_path=sys.argv[1])"
    found = run(code, path)
    assert found.returncode == 1
    assert "BlockingIOError" in found.stderr
    assert path in found.stderr
    del optimizer
    assert not os.path.exists(path)
    assert run(code, path).returncode == 0
    assert not os.path.exists(path)
    assert run(code + "; raise SystemExit(3)", path).returncode == 3
    assert not os.path.exists(path)


def test_a_killed_process_leaves_nothing_in_the_way(path: str) -> None:
    code = (
        "import sys, os, signal, numpy, fastadam; o = fastadam.Adam(w := numpy.ones(3), state_path=sys.argv[1]); "
        "o.step(w.copy()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run(code, path).returncode == -9
    assert os.path.exists(path)
    optimizer = fastadam.Adam(np.ones(3), state_path=path)
    optimizer.step(np.ones(3))
    assert np.allclose(optimizer.state[0]["exp_avg"], 0.1)  # nothing of the other one's


def test_what_is_refused(path: str, tmp_path: Path) -> None:
    own = tmp_path / "own.bin"
    own.write_bytes(b"somebody's numbers" * 1000)
    with pytest.raises(FileExistsError, match="move it away"):
        fastadam.Adam(np.ones(3), state_path=own)
    assert own.read_bytes() == b"somebody's numbers" * 1000
    with pytest.raises(FileNotFoundError, match="folder that there is"):
        fastadam.Adam(np.ones(3), state_path=tmp_path / "none" / "a.bin")
    with pytest.raises(IsADirectoryError):
        fastadam.Adam(np.ones(3), state_path=tmp_path)
    with pytest.raises(OSError, match="regular file"):
        fastadam.Adam(np.ones(3), state_path="/dev/null")
    for wrong in (3, b"bytes", "", "a\0b", True):
        with pytest.raises(TypeError, match="state_path must be the path"):
            fastadam.Adam(np.ones(3), state_path=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fastadam.Adam([np.ones(3), "no array"], state_path=path)  # type: ignore[list-item]
    assert not os.path.exists(path)


def test_copies_are_refused_with_a_remedy(path: str) -> None:
    optimizer = fastadam.Adam(np.ones(3), state_path=path)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"fastadam\.save"):
            attempt(optimizer)
    optimizer.step(np.ones(3))


def test_a_full_disk_is_noticed_before_anything_is_written(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.ones(100_000)
    optimizer = fastadam.Adam(w, state_path=path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="make room and go on"):
            optimizer.step(np.ones(100_000))
    assert (w == 1).all()
    assert not optimizer.state
    optimizer.step(np.ones(100_000))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        optimizer.amsgrad = True
        with pytest.raises(OSError, match="make room and go on"):
            optimizer.step(np.ones(100_000))
    optimizer.step(np.ones(100_000))
    with pytest.raises(OSError, match="more than its disk has"):
        optimizer._groups.file.zeros(1 << 58, np.dtype(np.uint8), "exp_avg")  # type: ignore[union-attr]
    optimizer.step(np.ones(100_000))


def test_a_limit_on_the_size_of_files(path: str) -> None:
    code = (
        "import sys, resource, numpy, fastadam; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "fastadam.Adam(numpy.ones(1_000_000), state_path=sys.argv[1])"
    )
    found = run(code, path)
    assert found.returncode == 1
    assert "OSError" in found.stderr
    assert path in found.stderr
    assert not os.path.exists(path)


def test_a_file_that_was_cut_does_not_end_the_process(path: str) -> None:
    w = np.ones(100_000)
    optimizer = fastadam.Adam(w, state_path=path)
    optimizer.step(np.ones(100_000))
    before = w.copy()
    os.truncate(path, 4096)
    for _ in range(2):
        with pytest.raises(OSError, match=r"fastadam\.load a checkpoint"):
            optimizer.step(np.ones(100_000))
    with pytest.raises(OSError, match=r"fastadam\.load a checkpoint"):
        optimizer.state_dict()
    assert_same_bits(w, before)


def test_a_disk_that_fails_in_the_middle(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW", 64 << 10)
    optimizer = fastadam.Adam(np.ones(100_000), state_path=path)
    optimizer.step(np.ones(100_000))
    write = state_file.StateFile.write_from
    times = iter(range(100))

    def fail(self: Any, source: Any, offset: int) -> None:
        if next(times) == 3:
            raise OSError(5, "Input/output error")
        write(self, source, offset)

    monkeypatch.setattr(state_file.StateFile, "write_from", fail)
    with pytest.raises(OSError, match="Input/output error"):
        optimizer.step(np.ones(100_000))
    with pytest.raises(OSError, match="are of two steps"):
        optimizer.step(np.ones(100_000))


def in_child(optimizer: fastadam.Adam, connection: Any) -> None:
    """Step in a forked child, which is refused."""
    try:
        optimizer.step(np.ones(3))
    except RuntimeError as error:
        connection.send(str(error))
    del optimizer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_file(path: str) -> None:
    optimizer = fastadam.Adam(w := np.ones(3), state_path=path)
    optimizer.step(np.ones(3))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=in_child, args=(optimizer, there))
    child.start()
    assert here.poll(60)
    assert "forked child" in here.recv()
    child.join(60)
    assert child.exitcode == 0
    assert os.path.exists(path)
    optimizer.step(np.ones(3))
    assert optimizer.state[0]["step"] == 2
    assert w.shape == (3,)


def test_an_interrupted_step_is_whole(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import _thread

    monkeypatch.setattr(windows, "WINDOW", 64 << 10)
    one, other = np.ones(300_000), np.ones(300_000)
    here, there = fastadam.Adam(one), fastadam.Adam(other, state_path=path)
    write = state_file.StateFile.write_from

    def interrupt(self: Any, source: Any, offset: int) -> None:
        write(self, source, offset)
        _thread.interrupt_main()
        time.sleep(0.01)

    monkeypatch.setattr(state_file.StateFile, "write_from", interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        there.step(np.ones(300_000))
        for _ in range(1000):  # where the last one has not arrived
            time.sleep(0.01)
    monkeypatch.undo()
    here.step(np.ones(300_000))
    assert_same_bits(one, other)
    assert_same_state(here, there)


def test_resident_memory_is_bounded(path: str) -> None:
    code = """
import sys, numpy as np, fastadam
def resident():
    with open("/proc/self/status") as lines:
        return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Rss", "VmHWM"))}
w = np.zeros(8_000_000, np.float16)
g = np.ones_like(w)
optimizer = fastadam.Adam(w, state_path=sys.argv[1], amsgrad=True, master_weights=True, threads=1)
small = fastadam.Adam(np.ones(3, np.float16), amsgrad=True, master_weights=True)
small.step(np.ones(3, np.float16))
before = resident()
for _ in range(2):
    optimizer.step(g)
found = resident()
print(found["VmHWM"] - max(before["VmHWM"], before["RssAnon"] + before["RssFile"]))
"""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc here")
    found = run(code, path)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 40_000  # KiB, of 128 MB of state
