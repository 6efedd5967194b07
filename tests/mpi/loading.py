"""Loads what `tests.mpi.saving` has left, over another number of ranks."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from mpi4py import MPI

import fastadam
import fastadam.mpi
from tests.mpi.saving import make, train

FROM = (1, 2, 3, 4)


def load_from(ranks: int, folder: Path) -> None:
    """Go on where others have stopped."""
    params, optimizer = make(fastadam.mpi, "all", timeout=60)
    fastadam.load(folder / f"from-{ranks}.safetensors", optimizer)
    train(optimizer, "all", 4, 6)
    expected = json.loads((folder / f"from-{ranks}.json").read_text())
    assert {name: param.tobytes().hex() for name, param in params.items()} == expected
    MPI.COMM_WORLD.Barrier()


CHECKS = {f"from {ranks}": functools.partial(load_from, ranks) for ranks in FROM}
