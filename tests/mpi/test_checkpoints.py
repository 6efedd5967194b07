"""Checkpoints over MPI: one file, from and for any number of ranks, and for one process."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("safetensors")

from tests.mpi.launch import RANKS, check_all


@pytest.mark.parametrize("ranks", RANKS)
def test_files(folder: Path, ranks: int) -> None:
    check_all(folder, "saving", ranks, at_least=5)


@pytest.mark.skipif(RANKS != (1, 2, 3, 4), reason="FASTADAM_RANKS leaves some out")
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_other_numbers_of_ranks(folder: Path, ranks: int) -> None:
    for each in RANKS:
        check_all(folder, "saving", each, at_least=5)
    check_all(folder, "loading", ranks, at_least=4)


def test_kills(folder: Path, tmp_path: Path) -> None:
    """``python -m tests.kill_mpi --kills 100`` takes some minutes; a few here."""
    from tests.kill_mpi import survive

    assert survive(6, tmp_path, 1) >= 6
