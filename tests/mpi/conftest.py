"""What the tests over MPI share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.mpi.launch import why_missing


@pytest.fixture(scope="session")
def folder(pytestconfig: pytest.Config) -> Path:
    """Return the folder that all workers share; what needs it is skipped where MPI is missing."""
    missing = why_missing()
    if missing is not None:
        pytest.skip(f"mpi: {missing}")
    return shared_folder(pytestconfig)
