"""Shares: which part of each parameter's state this process keeps, where several processes share it out.

All elements of a group stand in one row, in the order of the parameters, and are cut into as many runs as there
are processes, such that all have the same bytes of state, as far as cuts at block borders allow. So a process has
one run of each parameter at most. A cut is at a multiple of `BLOCK` elements from the start of a parameter, or at
its end: blocks of the norm and of 8-bit state, and random bits, are what they are on one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fastadam.groups.members import Member, Piece
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.host import HOST
from fastadam.memory.structs import AVERAGE, BLOCK, SCALE_BLOCK
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.precision import OF_MAXIMUM, kept_of


class Share(NamedTuple):
    """Which of the processes this is.

    Attributes
    ----------
    rank : int
    size : int
        How many there are.
    """

    rank: int
    size: int

    def pieces(self, members: Sequence[Member], hyper: Hyperparameters, loads: Sequence[int]) -> list[Member]:
        """Return what this process has of the parameters of a group.

        Parameters
        ----------
        members : sequence of Member
        hyper : Hyperparameters
            The options of the group.
        loads : sequence of int
            What each process has of other groups, as `loads_of` counts it.
        """
        for member in members:
            if member.device is not HOST:
                raise TypeError(
                    f"{member.label} is on {member.device!r}, and state is shared out for NumPy arrays; hold the "
                    f"parameters in those, or, for several devices, use fastadam.torch with torch.distributed"
                )
        weights = [weight_of(member, hyper) for member in members]
        bounds = cut([member.size for member in members], weights, loads)
        return [Piece(member, each, self.rank) for member, each in zip(members, bounds, strict=True)]


def weight_of(member: Member, hyper: Hyperparameters) -> int:
    """Return how much state an element of a parameter has, in bytes times `SCALE_BLOCK`; averages do not count."""
    element, total = ALL_DTYPES[member.dtype], 0
    for name, kept in kept_of(hyper, element).items():
        if name != AVERAGE and (hyper.amsgrad or name not in OF_MAXIMUM):
            nbytes = member.dtype.itemsize if kept.stored is None else kept.stored.itemsize * element.reals
            total += nbytes * SCALE_BLOCK // kept.block
    return total


def loads_of(groups: Iterable[tuple[Sequence[Member], Hyperparameters]], size: int) -> list[int]:
    """Return what each process has of groups that were cut, in the units of `weight_of`."""
    loads = np.zeros(size, np.int64)
    for members, hyper in groups:
        for member in members:
            if isinstance(member, Piece):
                loads += np.diff(member.bounds) * weight_of(member, hyper)
    return [int(each) for each in loads]


def cut(sizes: Sequence[int], weights: Sequence[int], loads: Sequence[int]) -> Array:
    """Cut parameters so that all processes have the same load.

    In whole numbers, so that all processes find the same.

    Parameters
    ----------
    sizes : sequence of int
        Elements of each parameter.
    weights : sequence of int
        Of an element of each.
    loads : sequence of int
        What each process has already.

    Returns
    -------
    ndarray of int64, shape (parameters, processes + 1)
        The elements of a parameter from one number in its row to the next are a process's.
    """
    n = len(loads)
    bounds: Array = np.zeros((len(sizes), n + 1), np.int64)
    bounds[:, n] = sizes
    ends = np.cumsum([size * weight for size, weight in zip(sizes, weights, strict=True)], dtype=np.int64)
    total = int(ends[-1])
    level = (sum(loads) + total) // n
    room = [max(level - load, 0) for load in loads]
    whole = sum(room)
    filled = 0
    for rank in range(1, n):
        filled += room[rank - 1]
        goal = total * rank // n if whole == 0 else total * filled // whole
        at = min(int(np.searchsorted(ends, goal)), len(sizes) - 1)
        inside = (goal - (int(ends[at]) - sizes[at] * weights[at])) // weights[at]
        below = inside // BLOCK * BLOCK
        above = min(below + BLOCK, sizes[at])
        bounds[:at, rank] = sizes[:at]
        bounds[at, rank] = above if above - inside < inside - below else below
    return bounds
