"""Adam over several processes, by MPI: each keeps the state of a part of the parameters."""

from __future__ import annotations

try:
    import mpi4py as mpi4py
except ImportError as error:
    raise ImportError(
        "fastadam.mpi needs mpi4py: pip install 'fastadam[mpi]'; and pip install mpich where there is no MPI"
    ) from error

from fastadam.mpi.adam import Adam
from fastadam.mpi.adamw import AdamW
from fastadam.mpi.ranks import LostRankError, RankError

__all__ = ["Adam", "AdamW", "LostRankError", "RankError"]
