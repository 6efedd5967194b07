"""What a step exchanges: the means of gradients, and the parameters that each rank has stepped."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from fastadam.groups.contents import Alone
from fastadam.groups.group import Group
from fastadam.groups.members import Member, Piece
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.mpi.lanes import Lane
from fastadam.mpi.ranks import Operation, Ranks

_LONGEST = 16384  # bytes of a path that rank 0 tells the others


def numbers(array: Array) -> Array:
    """Return the real numbers of a contiguous array, 1-D and in a dtype that NumPy computes with."""
    flat = array.reshape(-1)
    element = ALL_DTYPES[array.dtype]
    return flat.view(element.real) if element.reals > 1 else flat


def _lanes(
    ranks: Ranks, members: Sequence[Member], dtypes: Sequence[np.dtype[Any]]
) -> list[tuple[Lane, list[int]]]:
    """Return a lane for each dtype of real numbers, with the places of the members that are in it."""
    places: dict[np.dtype[Any], list[int]] = {}
    for place, dtype in enumerate(dtypes):
        element = ALL_DTYPES[dtype]
        places.setdefault(element.real if element.reals > 1 else dtype, []).append(place)
    made = []
    for dtype, own in places.items():
        bounds = [_bounds(members[place]) * ALL_DTYPES[dtypes[place]].reals for place in own]
        made.append((Lane(ranks, np.array(bounds, np.int64), dtype), own))
    return made


def _bounds(member: Member) -> Array:
    assert isinstance(member, Piece)
    return member.bounds


class Means:
    """The mean gradients of what this rank steps, for one choice of parameters and dtypes.

    Parameters
    ----------
    ranks : Ranks
    members : sequence of Piece
        Those that have a gradient.
    dtypes : sequence of dtype
        Of the gradients.

    Attributes
    ----------
    arrays : tuple of ndarray
        The mean of each member's gradient, for this rank's piece of it: the sum in the order of the ranks, divided
        by their number, in the dtype that is computed in.
    """

    def __init__(self, ranks: Ranks, members: Sequence[Member], dtypes: Sequence[np.dtype[Any]]) -> None:
        self._lanes = []
        found: list[Any] = [None] * len(members)
        for lane, places in _lanes(ranks, members, dtypes):
            compute = ALL_DTYPES[dtypes[places[0]]].format.compute
            mean: Array = np.zeros(lane.own, compute)
            self._lanes.append((lane, places, mean))
            for i, place in enumerate(places):
                part = mean[lane.places[i] : lane.places[i + 1]]
                found[place] = part.view(dtypes[place]) if ALL_DTYPES[dtypes[place]].reals > 1 else part
        self.arrays: tuple[Array, ...] = tuple(found)

    def compute(self, grads: Sequence[Array]) -> None:
        """Exchange gradients, contiguous ones of the dtypes, and write their means."""
        for lane, places, mean in self._lanes:
            arrays = [numbers(grads[place]) for place in places]
            lane.reduce(arrays, mean, lane.flat(arrays))

    @property
    def received(self) -> int:
        """How many bytes this rank has got from others so far."""
        return sum(lane.received for lane, _, _ in self._lanes)


class Parameters:
    """The parameters of an optimizer, of which each rank has stepped its pieces.

    Parameters
    ----------
    ranks : Ranks
    members : sequence of Piece
    """

    def __init__(self, ranks: Ranks, members: Sequence[Member]) -> None:
        self._lanes = []
        for lane, places in _lanes(ranks, members, [member.dtype for member in members]):
            arrays = [numbers(members[place].whole.array) for place in places]
            self._lanes.append((lane, arrays, lane.flat(arrays)))

    def gather(self) -> None:
        """Have each rank's pieces everywhere."""
        for lane, arrays, flat in self._lanes:
            lane.gather(arrays, flat)

    @property
    def received(self) -> int:
        """How many bytes this rank has got from others so far."""
        return sum(lane.received for lane, _, _ in self._lanes)


def broadcast(ranks: Ranks, members: Sequence[Member], what: str) -> None:
    """Give the parameters of all ranks the numbers of rank 0."""
    most = 1 << 26
    for member in members:
        flat = member.whole.array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, most):
            ranks.wait(ranks.comm.Ibcast(flat[start : start + most], 0), what)


def whole_state(groups: Sequence[Group], state: dict[int, dict[str, Any]]) -> list[Callable[[Ranks], None]]:
    """Put arrays for all of a parameter's state in the place of this rank's.

    Parameters
    ----------
    groups : sequence of Group
    state : dict
        That of a state dict, with live views of pieces; written to.

    Returns
    -------
    list of callable
        Each fills one of the arrays, from all ranks.
    """
    calls: list[Callable[[Ranks], None]] = []
    for group in groups:
        for index, member in enumerate(group.members):
            element = ALL_DTYPES[member.dtype]
            entry = state.get(group.start + index, {})
            for name, piece in entry.items():
                if name == "step":
                    continue
                kept = group.kept[member.buffer_key][name]
                reals = 1 if kept.stored is None else element.reals
                bounds = -(-_bounds(member) * reals // kept.block)
                whole = np.empty(kept.shape(member.whole.shape, element.reals), piece.dtype)
                entry[name] = whole
                calls.append(functools.partial(_collect, piece, whole, bounds))
    return calls


def _collect(piece: Array, whole: Array, bounds: Array, ranks: Ranks) -> None:
    raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
    counts, starts = np.diff(bounds) * piece.itemsize, bounds[:-1] * piece.itemsize
    target = [whole.reshape(-1).view(np.uint8), counts.tolist(), starts.tolist(), MPI.BYTE]
    ranks.wait(ranks.comm.Iallgatherv([raw, raw.size, MPI.BYTE], target), "state_dict")


class Peers(Alone):
    """The ranks, as those see them who save and load.

    Parameters
    ----------
    ranks : Ranks
    operation : Operation
    """

    def __init__(self, ranks: Ranks, operation: Operation) -> None:
        self.rank = ranks.rank
        self._ranks, self._operation = ranks, operation

    def agree(self, topics: Mapping[str, bytes] | None = None) -> None:
        """Wait for all others; raise where one of them has failed, or has another value under a topic."""
        self._operation.agree(topics, lambda topic: "something else")
        self._operation.check_again()

    def tell(self, text: str) -> str:
        """Return what rank 0 says, after all have agreed."""
        self._operation.agree()
        encoded = np.zeros(_LONGEST, np.uint8)
        own = os.fsencode(text)
        encoded[: len(own)] = np.frombuffer(own, np.uint8)
        self._ranks.wait(self._ranks.comm.Ibcast(encoded, 0), self._operation.name)
        self._operation.check_again()
        return os.fsdecode(encoded.tobytes().rstrip(b"\0"))
