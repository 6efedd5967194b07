"""Cases that run in another process are collected, selected and reported one by one, whatever becomes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.other_process import ROOT
from tests.support.processes import LONG

CONFTEST = """
import os
from pathlib import Path
from tests.support.other_process import INSIDE, File, OtherProcess

def pytest_pycollect_makemodule(module_path, parent):
    if INSIDE in os.environ:
        return None
    if "missing" in module_path.name:
        return File.from_parent(parent, path=module_path, process=None, why_missing="it is not here")
    process = OtherProcess(module_path, Path(__file__).parent, lambda: {"GIVEN": "1"})
    parent.config.add_cleanup(process.stop)
    process.start()
    return File.from_parent(parent, path=module_path, process=process, why_missing=None)
"""
CASES = """
import os
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_passes(number):
    assert os.environ["GIVEN"] == "1"

def test_fails():
    print("on the way")
    assert "this" == "that"

def test_skips():
    pytest.skip("for a reason")

def test_crashes():
    os._exit(3)

def test_comes_too_late():
    pass
"""


def outcomes(folder: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Run pytest there; return the outcome of each case, and all that was printed."""
    folder.mkdir()
    (folder / "pytest.ini").touch()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_odd.py").write_text(CASES)
    (folder / "test_missing.py").write_text("import what_is_missing")
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False)
    found = re.findall(r"test_odd\.py::(\S+) (PASSED|FAILED|SKIPPED|ERROR)", done.stdout)
    found += [(name, outcome) for outcome, name in re.findall(r"(PASSED|FAILED|SKIPPED) \S*::(\S+)", done.stdout)]
    return dict(found), done.stdout + done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_each_case_has_its_outcome(tmp_path: Path, workers: int) -> None:
    if workers:
        pytest.importorskip("xdist")
    found, printed = outcomes(tmp_path / "run", *(["-n", str(workers)] if workers else []))
    assert found == {
        "test_passes[1]": "PASSED",
        "test_passes[2]": "PASSED",
        "test_fails": "FAILED",
        "test_skips": "SKIPPED",
        "test_crashes": "FAILED",
        "test_comes_too_late": "FAILED",
    }, printed
    assert "assert 'this' == 'that'" in printed
    assert "on the way" in printed
    assert "for a reason" in printed
    assert "exit code 3" in printed
    assert "it is not here" in printed


def test_a_case_can_be_selected(tmp_path: Path) -> None:
    found, printed = outcomes(tmp_path / "run", "-k", "test_passes and 2 or comes")
    assert found == {"test_passes[2]": "PASSED", "test_comes_too_late": "PASSED"}, printed
    found, printed = outcomes(tmp_path / "again", "--deselect", "test_odd.py::test_crashes")
    assert found["test_comes_too_late"] == "PASSED", printed


def test_a_file_that_cannot_be_imported_is_an_error_of_collection(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcomes(folder, "--collect-only")
    for path in folder.glob("test_odd.*"):
        path.unlink()
    (folder / "test_odd.py").write_text("import what_is_missing")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 2
    assert "No module named 'what_is_missing'" in done.stdout
