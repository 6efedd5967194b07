"""Whenever a save or a load ends early or meets another, the file is the old one or the new one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.checkpoint import reading, writing
from tests import kill_checkpoint
from tests.support.bits import assert_same_state, random_arrays, snapshot
from tests.support.processes import LONG, python

pytest.importorskip("safetensors")

from tests.checkpoint.runs import ROOT, SHAPES, make, trained


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    optimizer = trained()
    fastadam.save(path, optimizer)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    optimizer.step(random_arrays(SHAPES, np.float32, 7))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                fastadam.save(path, optimizer)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_became_shorter_while_it_is_loaded_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the library has looked at it: what is read is measured once more, before the first write."""
    path = tmp_path / "run"
    fastadam.save(path, trained())
    mapped = reading.mmap.mmap

    def cut(fd: int, length: int, **options: Any) -> Any:
        return mapped(fd, path.stat().st_size - 1, **options)

    optimizer = make(random_arrays(SHAPES, np.float32, 5))
    before = snapshot(optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(reading.mmap, "mmap", cut)
        with pytest.raises(ValueError, match="bytes in the file, its array has"):
            fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), before)
    fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), snapshot(trained()))


def test_what_killed_saves_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    left = [tmp_path / f".run.{digit * 16}.tmp" for digit in "ab"]
    other = [tmp_path / name for name in (".run.tmp", ".other.aaaaaaaaaaaaaaaa.tmp", "run.aaaaaaaaaaaaaaaa.tmp")]
    for path in left + other:
        path.write_bytes(b"x")
    fd, in_use = writing.open_temporary(str(tmp_path / "run"))
    fastadam.save(tmp_path / "run", trained())
    assert set(tmp_path.iterdir()) == {tmp_path / "run", Path(in_use), *other}
    os.close(fd)
    fastadam.save(tmp_path / "run", trained())
    assert set(tmp_path.iterdir()) == {tmp_path / "run", *other}


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "run", tmp_path / "link"
    fastadam.save(path, trained())
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    link.symlink_to(path)
    before = path.stat().st_ino
    fastadam.save(link, trained())
    assert link.is_symlink()
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_the_temporary_file_lets_nobody_read_who_may_not_read_the_file_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """At no time: whoever has opened it once reads all that is written to it later."""
    path = tmp_path / "run"
    fastadam.save(path, trained())
    path.chmod(mode)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        others = (each.stat() for each in tmp_path.iterdir() if each != path)
        seen.extend((stat.S_IMODE(found.st_mode), found.st_size) for found in others)

    def watched(call: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            look()
            try:
                return call(*args, **options)
            finally:
                look()

        return run

    for name in ("open", "chmod", "fstat", "fsync", "replace"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    before = os.umask(0)
    try:
        fastadam.save(path, trained(steps=3))
    finally:
        os.umask(before)
    monkeypatch.undo()
    assert any(size for _, size in seen)
    assert all(found & ~(mode | 0o600) == 0 for found, _ in seen)
    assert all(found == mode for found, size in seen if size)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("name", ["n" * 240, "n" * 255, "ü" * 127, "n" * 233, "n" * 234])
def test_long_file_names(tmp_path: Path, name: str) -> None:
    """The temporary file's name has more in it than the file's, and no more room."""
    path, optimizer = tmp_path / name, trained()
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no names as long")
    fastadam.save(path, optimizer)
    again = make(random_arrays(SHAPES, np.float32, 5))
    fastadam.load(path, again)
    assert_same_state(snapshot(again), snapshot(optimizer))
    fd, left = writing.open_temporary(str(path))
    fastadam.save(path, optimizer)
    assert set(tmp_path.iterdir()) == {path, Path(left)}  # it is in use
    os.close(fd)
    fastadam.save(path, optimizer)
    assert set(tmp_path.iterdir()) == {path}


def test_file_names_that_are_too_long_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        fastadam.save(tmp_path / ("n" * 300), trained())
    assert not any(tmp_path.iterdir())


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere file names must be UTF-8")
    path = tmp_path / os.fsdecode(b"\xff\xfe run")
    fastadam.save(path, trained(), extra={"a": 1})
    assert fastadam.load(path, trained()) == {"a": 1}


def test_a_load_under_way_goes_on_with_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system cannot open an open file once more")
    path = tmp_path / "run"
    first, later = trained(), trained(steps=5)
    fastadam.save(path, first)
    monkeypatch.setattr(reading, "WINDOW", 1)
    fill = reading.Source.fill

    def replace(source: Any, name: str, target: Any) -> Any:
        fastadam.save(path, later)
        return fill(source, name, target)

    monkeypatch.setattr(reading.Source, "fill", replace)
    optimizer = make(random_arrays(SHAPES, np.float32, 5))
    fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), snapshot(first))


def test_saves_wait_for_steps_of_other_threads(tmp_path: Path) -> None:
    optimizer = fastadam.Adam([np.zeros(50_000), np.zeros(3)])
    grads = [np.ones(50_000), np.ones(3)]
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            optimizer.step(grads)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(20):
            fastadam.save(tmp_path / "run", optimizer)
            again = fastadam.Adam([np.zeros(50_000), np.zeros(3)])
            fastadam.load(tmp_path / "run", again)
            params = again.param_groups[0]["params"]
            assert len({param[0] for param in params}) == 1  # all from one and the same step
            assert all((param == param[0]).all() for param in params)
    finally:
        stop.set()
        thread.join()


def test_a_step_under_way_refuses(tmp_path: Path) -> None:
    refused = []

    def schedule(step: int) -> float:
        for call in (fastadam.save, fastadam.load):
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way") as error:
                call(tmp_path / "run", optimizer)
            refused.append(str(error.value))
        return 0.1

    optimizer = fastadam.Adam(np.ones(2), lr=0.1)
    fastadam.save(tmp_path / "run", optimizer)
    optimizer.param_groups[0]["lr"] = schedule
    optimizer.step(np.ones(2))
    assert {message.partition(" ")[0] for message in refused} == {"save", "load"}


def test_a_progress_bar_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    optimizer = trained()
    fastadam.save(tmp_path / "run", optimizer)
    fastadam.load(tmp_path / "run", optimizer)
    assert capsys.readouterr().err == ""
    fastadam.save(tmp_path / "run", optimizer, progress=True)
    fastadam.load(tmp_path / "run", optimizer, progress=True)
    shown = capsys.readouterr().err
    for what in ("saving: 100%", "loading: 100%"):
        assert what in shown


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is in other units")
def test_saving_and_loading_take_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.big_checkpoint", "--gigabytes", "0.34", "--folder", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr + run.stdout


@pytest.mark.slow
def test_killed_runs_that_are_resumed_give_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    assert kill_checkpoint.survive(kills=8, folder=tmp_path, seed=1) == 8


MEMORY = """
import sys
import tracemalloc

import numpy as np

import fastadam

params = {f"encoder.layers.{i}.attention.weight": np.zeros(1, np.float32) for i in range(4000)}
optimizer = fastadam.Adam(fastadam.pack(params), backend="numpy")
optimizer.step()
fastadam.save(sys.argv[1], fastadam.Adam(np.ones(1), backend="numpy"))  # what is imported and made once
for call in (fastadam.save, fastadam.load):
    tracemalloc.start()
    call(sys.argv[1], optimizer)
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


def test_many_parameters_take_memory_in_proportion_to_what_is_said_of_them(tmp_path: Path) -> None:
    """Small ones, so that nearly all of the file is JSON: lists and dicts of all that would be many times it."""
    path = tmp_path / "run"
    saved, loaded = map(int, python(MEMORY, str(path)).split())
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header > 1_500_000
    assert saved < 4 * header
    assert loaded < 9 * header
