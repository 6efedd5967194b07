"""What can be checked of builds for free-threaded Python without one: the source is prepared for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import LONG

SOURCE = Path(__file__).parents[2] / "cext" / "tensors.c"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("free_threaded", [False, True])
def test_the_stable_interface_is_asked_for_where_there_is_one(free_threaded: bool, tmp_path: Path) -> None:
    """Python's header refuses it in a free-threaded build, as pyconfig.h says, and the extension went missing."""
    (tmp_path / "pyconfig.h").write_text("#define Py_GIL_DISABLED 1\n" if free_threaded else "")
    (tmp_path / "Python.h").write_text("stable interface: Py_LIMITED_API\n")
    command = ["cc", "-E", f"-I{tmp_path}", str(SOURCE)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=True).stdout
    assert ("stable interface: Py_LIMITED_API" in found) == free_threaded
