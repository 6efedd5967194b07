"""Averages in the place of parameters, on all ranks together."""

from __future__ import annotations

from fastadam.groups.groups import Groups
from fastadam.mpi.exchange import Parameters
from fastadam.mpi.ranks import Ranks
from fastadam.step.locks import Guard
from fastadam.work.averages import Swapped


class SharedSwap(Swapped):
    """See `Swapped`: each rank exchanges what it has, then all get what the others have.

    Parameters
    ----------
    groups : Groups
    guard : Guard
    ranks : Ranks
    """

    def __init__(self, groups: Groups, guard: Guard, ranks: Ranks) -> None:
        super().__init__(groups, guard, lambda: None)  # ranks take no steps over rows
        self._ranks = ranks
        self._parameters = Parameters(ranks, [member for group in groups for member in group.members])

    def __enter__(self) -> None:
        with self._ranks.operation("averaged") as operation:
            super().__enter__()
            try:
                operation.agree()
            except BaseException:
                self._leave()
                raise
            self._parameters.gather()

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        with self._ranks.operation("averaged") as operation:
            operation.agree()
            self._parameters.gather()
