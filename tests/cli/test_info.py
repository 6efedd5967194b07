"""``fastadam info``: what it says of backends, settings and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.backends import c
from fastadam.cli import info
from fastadam.memory.cuda import available as cuda_devices
from fastadam.step import threads
from tests.cli.commands import process, run, words
from tests.conftest import AVAILABLE


def test_info_as_json() -> None:
    found = json.loads(run("info", "--json").stdout)
    assert list(found) == [
        "fastadam",
        "folder",
        "python",
        "system",
        "packages",
        "backends",
        "auto",
        "threads",
        "c",
        "numba",
        "huge_pages",
        "cuda",
    ]
    assert found["fastadam"] == fastadam.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["backends"] == fastadam.available_backends()
    assert found["auto"] == AVAILABLE[0]
    assert found["threads"]["limit"] == threads.default_limit()
    assert found["c"]["instruction_sets"] == list(c.instruction_sets())
    assert set(found["numba"]) == {"threading_layer", "cache"}
    assert bool(found["cuda"]["devices"]) == (found["cuda"]["reason"] is None)


def test_info_as_text() -> None:
    text = words(run("info").stdout)
    assert f"fastadam {fastadam.__version__}" in text
    for name, state in fastadam.available_backends().items():
        assert f"{name} available" in text if state == "available" else f"{name} missing" in text
    assert "huge pages" in text


@pytest.mark.parametrize(
    ("environment", "limit", "source"),
    [
        ({"FASTADAM_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3, "FASTADAM_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1"}, 1, "OMP_NUM_THREADS"),
    ],
)
def test_info_says_where_the_limit_of_threads_comes_from(
    environment: dict[str, str], limit: int, source: str
) -> None:
    done = process("info", "--json", **environment)
    found = json.loads(done.stdout)["threads"]
    assert (found["limit"], found["source"], found["error"]) == (limit, source, None)


def test_info_goes_on_with_wrong_settings() -> None:
    done = process("info", FASTADAM_NUM_THREADS="many", FASTADAM_INSTRUCTION_SET="mmx")
    assert done.returncode == 0, done.stderr
    assert "must be a number from 1 to 256, got 'many'" in words(done.stdout)


def test_info_says_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """A driver that answers with these codes, and has one device."""

        def __init__(self, started: int, count: int) -> None:
            self.started, self.count = started, count

        def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's names
            return self.started

        def cuDeviceGetCount(self, place: Any) -> int:  # noqa: N802
            place._obj.value = self.count
            return 0

        def cuDeviceGet(self, place: Any, ordinal: int) -> int:  # noqa: N802
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
            name.value = b"A device"
            return 0

    def missing(name: str) -> None:
        raise OSError(name)

    def names(driver: Callable[[str], object]) -> tuple[list[str], str | None]:
        monkeypatch.setattr(cuda_devices.ctypes, "CDLL", driver)
        return cuda_devices.devices()

    assert names(lambda _: Driver(0, 1)) == (["A device"], None)
    assert "A device" in run("info").stdout
    assert names(lambda _: Driver(0, 0)) == ([], "the NVIDIA driver finds no device")
    assert names(lambda _: Driver(100, 0)) == ([], "the NVIDIA driver finds no device")
    assert "error 999" in str(names(lambda _: Driver(999, 0))[1])
    assert "no NVIDIA driver" in str(names(missing)[1])


def test_huge_pages_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(info, "HUGE_PAGES", tmp_path / "enabled")
    assert info.huge_pages() is None
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert info.huge_pages() == "madvise"
