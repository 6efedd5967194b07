"""A run of the tests to which a part was promised fails where that is missing, however little it prints."""

from __future__ import annotations

import pytest

from tests.support.processes import python

CODE = """
import sys
import pytest
sys.modules["mpi4py"] = None
files = ["tests/house/test_promised.py", "--collect-only", "-p", "no:cacheprovider"]
print("ended with", int(pytest.main([*files, *sys.argv[1:]])))
"""


@pytest.mark.parametrize("arguments", [(), ("-q",), ("-q", "-n", "2")], ids=" ".join)
def test_a_missing_part_ends_the_run(arguments: tuple[str, ...]) -> None:
    if "-n" in arguments:
        pytest.importorskip("xdist")
    printed = python(CODE, *arguments, FASTADAM_PROMISED_BACKENDS="mpi")
    assert "promised backends are missing: {'mpi': 'mpi4py is not installed'}" in printed
    assert "ended with 1" in printed
