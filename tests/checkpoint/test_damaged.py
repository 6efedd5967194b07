"""Damaged and lying files are refused or loaded whole, and take no memory that they do not hold."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support.bits import assert_same_state, snapshot

pytest.importorskip("safetensors")

from tests.checkpoint.runs import ROOT, assert_refuses, join, split, trained
from tests.support.processes import LONG
from tests.support.strategies import examples


def _load_damaged(path: Path, data: bytes) -> bool:
    """Load what may be damaged: either it is refused and changes nothing, or it loads."""
    path.write_bytes(data)
    optimizer = trained(steps=1)
    before = snapshot(optimizer)
    try:
        fastadam.load(path, optimizer)
    except ValueError:
        assert_same_state(snapshot(optimizer), before)
        return False
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run"
    fastadam.save(path, trained("named", amsgrad=True), extra={"epoch": 3})
    return path.read_bytes()


@examples(60)
@given(data=st.data())
def test_truncated_and_overlong_files_are_refused(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(whole) - 1))
    assert not _load_damaged(tmp_path / "run", whole[:length])
    assert not _load_damaged(tmp_path / "run", whole + data.draw(st.binary(min_size=1, max_size=40)))


@examples(200)
@given(flips=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4), in_header=st.booleans())
def test_flipped_bits_never_crash(tmp_path: Path, whole: bytes, flips: Any, in_header: bool) -> None:
    damaged = bytearray(whole)
    reach = 8 + int.from_bytes(whole[:8], "little") if in_header else len(whole)
    for flip in flips:
        bit = int(flip * reach * 8)
        damaged[bit // 8] ^= 1 << bit % 8
    _load_damaged(tmp_path / "run", bytes(damaged))


HUGE = (0, 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1)


@examples(100)
@given(data=st.data())
def test_lying_headers_are_refused(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    header, body = split(whole)
    names = [name for name in header if name != "__metadata__"]
    name = data.draw(st.sampled_from(names))
    numbers = st.one_of(st.sampled_from(HUGE), st.integers(-5, 200))
    what = data.draw(st.sampled_from(["shape", "data_offsets", "dtype", "name", "none", "twins", "length"]))
    entry = header[name]
    damaged = None
    if what in ("shape", "data_offsets"):
        old = list(entry[what])
        entry[what] = data.draw(st.lists(numbers, max_size=4))
        if entry[what] == old or (what == "shape" and name.endswith("/3") and entry[what] == [0, 3]):
            return
    elif what == "dtype":
        entry["dtype"] = data.draw(
            st.sampled_from(["F64", "F16", "BOOL", "I64", "F4", "C64", "?", "", None, 3, []])
        )
    elif what == "name":
        header[data.draw(st.text(max_size=10))] = header.pop(name)
    elif what == "none":
        del header[name]
    elif what == "twins":
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}" + "}"
        twice = struct.pack("<Q", len(text.encode())) + text.encode() + body
        _load_damaged(tmp_path / "run", twice)  # the library may take one of them
        return
    else:
        length = data.draw(st.sampled_from([n for n in HUGE if 0 <= n < 2**64]))
        damaged = struct.pack("<Q", length) + whole[8:]
    assert not _load_damaged(tmp_path / "run", join(header, body) if damaged is None else damaged)


def test_a_huge_file_that_holds_nothing_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run"
    size = 2**36
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    with path.open("wb") as file:
        file.write(join(header, b""))
        try:
            file.truncate(file.tell() + size)
        except OSError:
            pytest.skip("this file system has no sparse files")
    assert_refuses(path, trained(), "not written by fastadam.save")


def test_fuzzed_files_load_whole_or_not_at_all() -> None:
    """In a process of its own, with a limit on its memory; see tests/fuzz_checkpoint.py."""
    command = [sys.executable, "-m", "tests.fuzz_checkpoint", "--files", "300", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "300 files" in done.stdout
