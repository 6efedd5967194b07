"""What the tests of the command line share."""

from __future__ import annotations

import importlib.util

import pytest

from fastadam.cli import bench


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out torch and optax: JAX, once imported, warns of every fork of this process."""
    find = importlib.util.find_spec
    hidden = set(bench.PEERS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in hidden else find(name))
