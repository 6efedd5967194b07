"""The bytes of state that each rank has."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from mpi4py import MPI

import fastadam.mpi
from benchmarks import mpi_table

COMM = MPI.COMM_WORLD
SIZES = (200_000, 3, 1_000_001, 70_000, 0)
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "float32": (np.float32, {}),
    "amsgrad, with averages": (np.float64, {"amsgrad": True, "ema_decay": 0.9}),
    "int8": (np.float32, {"state_dtype": "int8"}),
    "masters": (ml_dtypes.bfloat16, {"master_weights": True, "state_dtype": "bfloat16"}),
}


def nbytes(optimizer: Any) -> int:
    """Return the bytes of all state of an optimizer."""
    buffers = [each for group in optimizer._groups for each in group.moments.values()]
    return sum(buffer.nbytes for each in buffers for buffer in each.values())


def shared_out(name: str, folder: Path) -> None:
    """Compare with one process: all ranks together have as much, and each has its share."""
    dtype, options = OPTIONS[name]
    params = [np.zeros(size, dtype) for size in SIZES]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    many = fastadam.mpi.Adam(groups, timeout=60, **options)
    alone = nbytes(fastadam.Adam([param.copy() for param in params], **options))
    every = COMM.allgather(nbytes(many))
    assert sum(every) == alone
    assert max(every) * COMM.size <= 1.02 * alone, every


def arithmetic(folder: Path) -> None:
    """Count what `benchmarks.mpi_table` computes, to the byte."""
    numbers = 12 * 1024 * 50  # whose share is whole blocks on one to four ranks
    params = [np.zeros(numbers // 3, np.float32), np.zeros(2 * numbers // 3, np.float32)]
    optimizer = fastadam.mpi.Adam(params, timeout=60)
    assert nbytes(optimizer) == mpi_table.state(numbers, COMM.size)
    for _ in range(2):
        before = optimizer._steps.received
        optimizer.step([np.ones_like(param) for param in params])
        assert optimizer._steps.received - before == mpi_table.received(numbers, COMM.size)


CHECKS = {"arithmetic": arithmetic} | {name: functools.partial(shared_out, name) for name in OPTIONS}
