"""What the tests on several processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.torch.distributed.launch import why_missing


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """Return a folder that all workers have."""
    if reason := why_missing():
        pytest.skip(f"gloo: {reason}")
    found = shared_folder(request.config) / "distributed"
    found.mkdir(exist_ok=True)
    return found
