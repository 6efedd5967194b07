"""Adam over several processes, by MPI: each keeps the state of a part of the parameters."""

from __future__ import annotations

try:
    from mpi4py import MPI as MPI
except (ImportError, RuntimeError) as error:  # the latter where mpi4py finds no MPI
    raise ImportError(
        f"fastadam.mpi needs mpi4py: pip install 'fastadam[mpi]'; and an MPI: pip install mpich, where there is "
        f"none ({error})"
    ) from error

from fastadam.mpi.adam import Adam
from fastadam.mpi.adamw import AdamW
from fastadam.mpi.ranks import LostRankError, RankError

__all__ = ["Adam", "AdamW", "LostRankError", "RankError"]
