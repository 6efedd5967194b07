"""Lanes: the numbers of one dtype that the ranks exchange, in rounds, through buffers of a fixed size.

Each rank has a run of each array, as `fastadam.groups.shares` has cut it; its runs one after another are its
*part* of the lane. In each round, every rank gets or gives the next numbers of its part. Two rounds are under way
at a time: while one is exchanged, the other is added up, or copied to where it belongs.

What a rank gives to itself does not go through MPI. Arrays that lie one after another in memory, as those of a
packed buffer do, are exchanged where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from fastadam.memory.arrays import Array, address
from fastadam.mpi.ranks import Ranks

BUFFER = 8 << 20  # bytes of one buffer, for all ranks together
STRIP = 32 << 10  # numbers that are added up at a time, while they are in a cache
# By their sizes in bytes: numbers go as they are, MPI does not compute with them.
_TYPES = {2: MPI.UINT16_T, 4: MPI.UINT32_T, 8: MPI.UINT64_T}
_MOST = 2**31 - 1  # what all versions of MPI can count to


class Copy(NamedTuple):
    """Numbers of an array, and where they lie in a buffer.

    Attributes
    ----------
    at : slice
        Of the buffer.
    array : int
        Number of the array.
    which : slice
        Of its numbers.
    """

    at: slice
    array: int
    which: slice


class Lane:
    """The numbers of one dtype.

    Parameters
    ----------
    ranks : Ranks
    bounds : ndarray of int64, shape (arrays, ranks + 1)
        Where the runs of the ranks begin and end in each array, in real numbers.
    dtype : dtype
        Of the numbers.

    Attributes
    ----------
    own : int
        How many of them are this rank's.
    places : ndarray of int64, shape (arrays + 1,)
        Where this rank's run of each array is in its part.
    received : int
        How many bytes this rank has got from others so far.
    """

    def __init__(self, ranks: Ranks, bounds: Array, dtype: np.dtype[Any]) -> None:
        self._ranks, self._bounds, self._dtype = ranks, bounds, dtype
        self._raw = np.dtype(f"u{dtype.itemsize}")
        self._type = _TYPES[dtype.itemsize]
        lengths = np.diff(bounds, axis=1)
        self._starts = np.concatenate([np.zeros((1, ranks.size), np.int64), np.cumsum(lengths, axis=0)])
        self._counts = self._starts[-1]
        self.places = self._starts[:, ranks.rank]
        self.own = int(self._counts[ranks.rank])
        most = int(self._counts.max(initial=0))
        self._length = max(min(BUFFER // dtype.itemsize // ranks.size, most), 1)  # of a round, for each rank
        self._rounds = -(-most // self._length)
        # Where each array begins, if all of them lie one after another.
        self._offsets = np.concatenate([[0], np.cumsum(bounds[:, -1])])
        self._in_order = _are_in_order(lengths)
        self._known: dict[tuple[int, int], list[Copy]] = {}
        self.received = 0

    def _copies(self, number: int, rank: int) -> list[Copy]:
        """Return where the numbers are that a rank gets or gives in a round, counted from the round's first."""
        found = self._known.get((number, rank))
        if found is None:
            low, high = self._round(number, rank)
            starts = self._starts[:, rank]
            first = int(np.searchsorted(starts, low, side="right")) - 1
            found = []
            for array in range(first, len(starts) - 1):
                start, end = max(int(starts[array]), low), min(int(starts[array + 1]), high)
                if int(starts[array]) >= high:
                    break
                if start < end:
                    move = int(self._bounds[array, rank]) - int(starts[array])
                    found.append(Copy(slice(start - low, end - low), array, slice(start + move, end + move)))
            self._known[number, rank] = found
        return found

    def _round(self, number: int, rank: int) -> tuple[int, int]:
        """Return which numbers of its part a rank gets or gives in a round."""
        count = int(self._counts[rank])
        return min(number * self._length, count), min((number + 1) * self._length, count)

    def flat(self, arrays: Sequence[Array]) -> Array | None:
        """Return all arrays as one, if they lie in memory one after another."""
        if not self._in_order or self._offsets[-1] > _MOST:
            return None
        if len(arrays) == 1:
            return arrays[0].view(self._raw)
        at = address(arrays[0])
        for each in arrays:
            if address(each) != at:
                return None
            at += each.nbytes
        base: Any = arrays[0]
        while base.base is not None and isinstance(base.base, np.ndarray):
            base = base.base
        low = address(base)
        if not base.flags.c_contiguous or at > low + base.nbytes:
            return None
        start = address(arrays[0]) - low
        whole = base.reshape(-1).view(np.uint8)[start : start + int(self._offsets[-1]) * self._raw.itemsize]
        found: Array = whole.view(self._raw)
        return found

    # -------------------- gradients

    def reduce(self, arrays: Sequence[Array], mean: Array, flat: Array | None) -> None:
        """Compute this rank's part of the mean of all ranks' arrays.

        The sum is in the order of the ranks, in the dtype of `mean`, and is divided by their number.

        Parameters
        ----------
        arrays : sequence of ndarray
            1-D, contiguous, of this dtype.
        mean : ndarray
            1-D, of `own` numbers; written to.
        flat : ndarray or None
            What `flat` returned for them.
        """
        size = self._ranks.size
        if size == 1:
            for array, start, end in zip(arrays, self.places[:-1].tolist(), self.places[1:].tolist(), strict=True):
                mean[start:end] = array
            return
        raw = [array.view(self._raw) for array in arrays] if flat is None else []
        pending: tuple[int, Any, Array] | None = None
        for number in range(self._rounds):
            give, get = self._buffers(number % 2)
            ready = number, self._scatter(number, raw, flat, give, get), get
            if pending is not None:
                self._finish(pending, arrays, flat, mean)
            pending = ready
        if pending is not None:
            self._finish(pending, arrays, flat, mean)

    def _buffers(self, which: int) -> tuple[Array, Array]:
        """Return a buffer to give from, and one to get in."""
        nbytes = self._length * self._ranks.size * self._raw.itemsize
        give, get = (self._ranks.buffer(2 * which + i, nbytes).view(self._raw) for i in range(2))
        return give, get

    def _scatter(self, number: int, raw: Sequence[Array], flat: Array | None, give: Array, get: Array) -> Any:
        """Begin a round in which each rank gets from all others what they have of its part."""
        ranks, length = self._ranks, self._length
        counts = [0] * ranks.size
        displacements = [rank * length for rank in range(ranks.size)]
        for rank in range(ranks.size):
            low, high = self._round(number, rank)
            if rank == ranks.rank or low == high:
                continue
            counts[rank] = high - low
            copies = self._copies(number, rank)
            if flat is not None:
                displacements[rank] = int(self._offsets[copies[0].array]) + copies[0].which.start
            else:
                start = rank * length
                for at, array, which in copies:
                    give[start + at.start : start + at.stop] = raw[array][which]
        low, high = self._round(number, ranks.rank)
        self.received += (high - low) * (ranks.size - 1) * self._raw.itemsize
        own = [0 if rank == ranks.rank else high - low for rank in range(ranks.size)]
        return ranks.comm.Ialltoallv(
            [give if flat is None else flat, counts, displacements, self._type],
            [get, own, [rank * length for rank in range(ranks.size)], self._type],
        )

    def _finish(
        self, pending: tuple[int, Any, Array], arrays: Sequence[Array], flat: Array | None, mean: Array
    ) -> None:
        """Add up what a round has brought."""
        number, request, get = pending
        ranks, length = self._ranks, self._length
        ranks.wait(request, "step")
        low, high = self._round(number, ranks.rank)
        parts = [get[rank * length :][: high - low].view(self._dtype) for rank in range(ranks.size)]
        copies = self._copies(number, ranks.rank)
        if len(copies) == 1:
            parts[ranks.rank] = arrays[copies[0].array][copies[0].which]
        elif flat is not None and copies:
            start = int(self._offsets[copies[0].array]) + copies[0].which.start
            parts[ranks.rank] = flat[start:][: high - low].view(self._dtype)
        else:
            for at, array, which in copies:
                parts[ranks.rank][at] = arrays[array][which]
        _average(parts, mean[low:high])

    # -------------------- parameters

    def gather(self, arrays: Sequence[Array], flat: Array | None) -> None:
        """Have each rank's part of the arrays everywhere.

        Parameters
        ----------
        arrays : sequence of ndarray
            1-D, contiguous, of this dtype; written to, but for this rank's own part.
        flat : ndarray or None
            What `flat` returned for them.
        """
        ranks = self._ranks
        if ranks.size == 1:
            return
        self.received += (int(self._counts.sum()) - self.own) * self._raw.itemsize
        if flat is not None:
            counts = self._counts.tolist()
            displacements = [0, *np.cumsum(self._counts)[:-1].tolist()]
            request = ranks.comm.Iallgatherv(MPI.IN_PLACE, [flat, counts, displacements, self._type])
            ranks.wait(request, "step")
            return
        raw = [array.view(self._raw) for array in arrays]
        pending: tuple[int, Any, Array] | None = None
        for number in range(self._rounds):
            give, get = self._buffers(number % 2)
            for at, array, which in self._copies(number, ranks.rank):
                give[at] = raw[array][which]
            counts = [high - low for low, high in (self._round(number, rank) for rank in range(ranks.size))]
            displacements = [rank * self._length for rank in range(ranks.size)]
            request = ranks.comm.Iallgatherv(
                [give, counts[ranks.rank], self._type], [get, counts, displacements, self._type]
            )
            if pending is not None:
                self._spread(pending, raw)
            pending = number, request, get
        if pending is not None:
            self._spread(pending, raw)

    def _spread(self, pending: tuple[int, Any, Array], raw: Sequence[Array]) -> None:
        """Copy what a round has brought to where it belongs."""
        number, request, get = pending
        self._ranks.wait(request, "step")
        for rank in range(self._ranks.size):
            if rank != self._ranks.rank:
                start = rank * self._length
                for at, array, which in self._copies(number, rank):
                    raw[array][which] = get[start + at.start : start + at.stop]


def _are_in_order(lengths: Array) -> bool:
    """Whether all that a rank has lies before all that the next one has."""
    if not lengths.size:
        return False
    used = lengths[lengths.any(axis=1)] > 0
    first, last = used.argmax(axis=1), used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    return bool((last[:-1] <= first[1:]).all())


def _average(parts: Sequence[Array], target: Array) -> None:
    """Write the mean of parts, added up in their order in the dtype of `target`."""
    n = len(parts)
    # By a power of two, both have the same bits, and a product is sooner there.
    divide, by = (np.multiply, 1 / n) if n & (n - 1) == 0 else (np.divide, n)
    by = target.dtype.type(by)
    for start in range(0, target.size, STRIP):
        strip = target[start : start + STRIP]
        pieces = [part[start : start + STRIP] for part in parts]
        if pieces[0].dtype == target.dtype:
            np.add(pieces[0], pieces[1], out=strip)
        else:
            strip[...] = pieces[0]
            np.add(strip, pieces[1].astype(target.dtype), out=strip)
        for piece in pieces[2:]:
            np.add(strip, piece.astype(target.dtype, copy=False), out=strip)
        divide(strip, by, out=strip)
