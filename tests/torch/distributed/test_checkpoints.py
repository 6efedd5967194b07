"""Checkpoints of `torch.distributed.checkpoint` go on over any number of processes, with torch's optimizer too."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.torch.distributed.launch import RANKS, value_of  # noqa: E402


@pytest.mark.parametrize("ranks", RANKS[:-1])
def test_what_was_saved_on_more_processes(folder: Path, ranks: int) -> None:
    saved = value_of(folder, "saving", "saving", RANKS[-1])
    loaded = value_of(folder, "loading", "loading", ranks)
    assert len(loaded) == 4
    for what, losses in loaded.items():
        expected = saved[what.partition(" by ")[0]]
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=0, atol=1e-5)
