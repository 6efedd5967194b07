"""The example of a linear model with its state on disk."""

from __future__ import annotations

import os

import pytest

from tests.examples.loading import load


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the example reads /proc")
def test_it_learns_with_its_state_on_disk(tmp_path: os.PathLike[str]) -> None:
    losses = load("linear_on_disk").main(["--megabytes", "4", "--folder", str(tmp_path), "--passes", "4"])
    assert losses[-1] < 0.9 * losses[0]
    assert not os.listdir(tmp_path)
