"""Steps over 1, 2, 3 and 4 ranks have the bits of one process, with every option."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi.cases import CASES
from tests.mpi.launch import RANKS, check


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", [*CASES, "small buffers", "on disk"])
def test_bits(folder: Path, name: str, ranks: int) -> None:
    check(folder, "same_bits", name, ranks)
