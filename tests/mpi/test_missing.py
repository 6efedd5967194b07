"""Without mpi4py, the import says what to install."""

from __future__ import annotations

import pytest

from tests.support.processes import python


def test_the_import_names_the_extra() -> None:
    code = """
import sys
sys.modules["mpi4py"] = None
try:
    import fastadam.mpi
except ImportError as error:
    print(error)
"""
    assert "pip install 'fastadam[mpi]'" in python(code)


def test_the_import_says_that_there_is_no_mpi() -> None:
    pytest.importorskip("mpi4py")
    code = """
import os
os.environ["MPI4PY_LIBMPI"] = "/no/such/library.so"
try:
    import fastadam.mpi
except ImportError as error:
    print(error)
"""
    assert "pip install mpich, where there is none" in python(code)


def test_the_library_does_not_import_it() -> None:
    assert python("import sys, fastadam; print('mpi4py' in sys.modules)").strip() == "False"
