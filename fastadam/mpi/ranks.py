"""The ranks of one optimizer: exchanges that end in time, and operations that all take or all refuse.

Every operation that needs the others begins with a few words of each rank: what it is about to do, whether its
checks have passed, and digests of what must be the same everywhere. All ranks see the same table, and so come to
the same decision, before anything is written.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from mpi4py import MPI

from fastadam.memory.arrays import Array
from fastadam.step.hyperparameters import as_real, as_scalar

DEFAULT_TIMEOUT = 600.0  # seconds
# What ranks can do together; a number of each is in the first word.
OPERATIONS = ("Adam", "add_param_group", "step", "state_dict", "load_state_dict", "save", "load", "averaged")
MOST_TOPICS = 6  # digests of an operation
_TEXT = 1024  # bytes of what each rank has to say, where they cannot go on
# Waiting for others: so many looks in a row, then the processor is handed to others between looks, and after a
# while the process sleeps between them. (Messages only move while somebody looks.)
_SPINS, _SLEEP_AFTER, _SLEEP = 300, 0.05, 0.0005

_hand_over = getattr(os, "sched_yield", lambda: time.sleep(0))

_NONE: Array = np.zeros(0, np.uint8)
# What an exchange that never ended may still write to.
_given_up: list[Any] = []


class RankError(RuntimeError):
    """Another rank has failed, or the ranks do not agree."""


class LostRankError(RankError, TimeoutError):
    """Another rank did not come in time: the ranks cannot go on together."""


class _Line:
    """What is known of a duplicate: why nothing more can be exchanged over it, if so."""

    why_lost: str | None = None


@functools.cache
def _key() -> int:
    """Return the key under which a communicator has its duplicate."""
    return int(MPI.Comm.Create_keyval())


class Ranks:
    """The ranks of one optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator; it is duplicated, so that messages of others are kept apart.
    timeout : object, default 600
        What is to be the timeout, unless `check_timeout` refuses it.

    Raises
    ------
    TypeError
        If it is none.

    Attributes
    ----------
    timeout : float
        Seconds that an exchange may take.
    comm : mpi4py.MPI.Intracomm
        The duplicate.
    rank, size : int
    """

    def __init__(self, comm: Any, timeout: Any = DEFAULT_TIMEOUT) -> None:
        self.timeout = DEFAULT_TIMEOUT
        with contextlib.suppress(TypeError, ValueError):  # refused once the others can be told
            self.timeout = check_timeout(timeout)
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise TypeError(
                f"comm must be an intracommunicator of mpi4py, such as mpi4py.MPI.COMM_WORLD, got {comm!r}"
            )
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._buffers: dict[int, Array] = {}
        duplicate = comm.Get_attr(_key())
        if duplicate is None:  # the first time: one for all optimizers, as there can be some thousands at most
            self._line = _Line()
            self.comm, request = comm.Idup()
            self.wait(request, "Adam")
            comm.Set_attr(_key(), (self.comm, self._line))
        else:
            self.comm, self._line = cast(tuple[MPI.Intracomm, _Line], duplicate)
        self._words: Array = np.zeros(2 + MOST_TOPICS, np.int64)
        self._table: Array = np.zeros((self.size, 2 + MOST_TOPICS), np.int64)

    def wait(self, request: Any, what: str) -> None:
        """Wait until a request is done, looking at it again and again.

        Raises
        ------
        LostRankError
            If that takes longer than the timeout.
        """
        looks = 0
        deadline = sleep_at = math.inf
        try:
            while not request.Test():
                looks += 1
                if looks < _SPINS:
                    continue
                if looks == _SPINS:
                    now = time.monotonic()
                    deadline, sleep_at = now + self.timeout, now + _SLEEP_AFTER
                _hand_over()
                if looks % 16 == 0:
                    now = time.monotonic()
                    if now > deadline:
                        raise LostRankError(
                            f"rank {self.rank} of {self.size} waited {self.timeout:g} seconds for the other ranks "
                            f"in {what}, which have stopped, hang or are doing something else; look at what they "
                            f"printed, or give a longer timeout if they are only slow"
                        )
                    if now > sleep_at:
                        time.sleep(_SLEEP)
        except BaseException as error:
            self.give_up(request, str(error) or type(error).__name__)
            raise

    def give_up(self, request: Any, why: str) -> None:
        """Note that an exchange was left in the middle: none can follow it."""
        _given_up.append(request)  # it has the buffers, which may be written to
        self.lose(why)

    def lose(self, why: str) -> None:
        """Note that the ranks have come apart: what follows is refused."""
        if self._line.why_lost is None:
            self._line.why_lost = why
            _abort_at_exit(self.comm)

    def check_lost(self) -> None:
        """Raise LostRankError if an exchange was left in the middle before."""
        if self._line.why_lost is not None:
            raise LostRankError(
                f"the ranks have come apart before ({self._line.why_lost}); start all of them "
                f"again, from a checkpoint"
            )

    def buffer(self, number: int, nbytes: int) -> Array:
        """Return a buffer of so many bytes, the same one again as long as it is large enough."""
        if self._buffers.get(number, _NONE).size < nbytes:
            self._buffers[number] = np.empty(nbytes, np.uint8)
        return self._buffers[number][:nbytes]

    # -------------------- operations

    @contextlib.contextmanager
    def operation(self, name: str) -> Iterator[Operation]:
        """Have a block be what all ranks do together: what it raises before they agree, the others hear of."""
        self.check_lost()
        under_way = Operation(self, name)
        try:
            yield under_way
        except BaseException as error:
            if under_way.exchanging:
                self.lose(f"rank {self.rank} failed in {name}: {_said(error)}")
            elif not under_way.refused and self._line.why_lost is None:
                under_way.tell(error)
            raise

    def exchange(self, words: Array, what: str) -> Array:
        """Return the words of all ranks."""
        self._words[:] = words
        self.wait(self.comm.Iallgather(self._words, self._table), what)
        return self._table

    def texts(self, text: str, what: str) -> list[str]:
        """Return what each rank has to say, cut short."""
        own: Array = np.zeros(_TEXT, np.uint8)
        encoded = text.encode(errors="replace")[:_TEXT]
        own[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        found: Array = np.zeros((self.size, _TEXT), np.uint8)
        self.wait(self.comm.Iallgather(own, found), what)
        return [each.tobytes().rstrip(b"\0").decode(errors="replace") for each in found]

    def add_up(self, numbers: Array, what: str) -> None:
        """Put the sum of all ranks' numbers, whole ones of 64 bits, in their place."""
        if self.size > 1:
            self.wait(self.comm.Iallreduce(MPI.IN_PLACE, numbers), what)


class Operation:
    """Something that all ranks do together.

    Attributes
    ----------
    exchanging : bool
        Whether the others count on this rank, after an agreement: what goes wrong then, they do not hear of.
    refused : bool
        Whether all ranks know that it is not done.
    """

    def __init__(self, ranks: Ranks, name: str) -> None:
        self.rank = ranks.rank
        self._ranks, self.name = ranks, name
        self.exchanging = self.refused = False

    def agree(self, topics: Mapping[str, Any] | None = None, describe: Callable[[str], str] | None = None) -> None:
        """Wait for the others, and compare.

        Parameters
        ----------
        topics : mapping of str to bytes, optional
            What must be the same on every rank, by how messages call it.
        describe : callable, optional
            ``describe(topic)`` says what this rank has of it.

        Raises
        ------
        RankError
            If a rank has failed, does something else, or differs in a topic: on every rank.
        """
        topics = topics or {}
        table = self._exchange(0, [_digest(each) for each in topics.values()])
        differing = np.flatnonzero((table != table[0]).any(axis=0))
        if differing.size == 0:
            self.exchanging = True
            return
        self.refused = True
        at = int(differing[0])
        failed = np.flatnonzero(table[:, 1])
        if at == 0 or failed.size:
            says = f"calls {self.name}"
        else:
            topic = list(topics)[at - 2]
            says = describe(topic) if describe else ""
        texts = self._ranks.texts(says, self.name)
        if failed.size:
            raise RankError(_of_ranks(self.name, [(rank, texts[rank]) for rank in failed.tolist()]))
        other = int(np.flatnonzero(table[:, at] != table[0, at])[0])
        if at == 0:
            raise RankError(
                f"the ranks do different things: rank 0 {texts[0]}, and rank {other} {texts[other]}; every rank "
                f"has to make the same calls in the same order. Nothing was written"
            )
        first, second = _differing(texts[0], texts[other])
        raise RankError(
            f"the ranks differ in {topic}: rank 0 has {first}, and rank {other} has {second}; give every rank the "
            f"same. Nothing was written"
        )

    def check_again(self) -> None:
        """Go on with checks, before the next agreement: the others have all that they need until then."""
        self.exchanging = False

    def tell(self, error: BaseException) -> None:
        """Have the others hear that this rank cannot go on; it raises what it raises."""
        try:
            self._exchange(1, [])
            self._ranks.texts(_said(error), self.name)
        except RankError as lost:
            if hasattr(error, "add_note"):  # from Python 3.11 on
                error.add_note(f"Besides, the other ranks could not be told: {lost}")

    def _exchange(self, failed: int, digests: Sequence[int]) -> Array:
        words: Array = np.zeros(2 + MOST_TOPICS, np.int64)
        words[0], words[1] = 1 + OPERATIONS.index(self.name), failed
        words[2 : 2 + len(digests)] = digests
        return self._ranks.exchange(words, self.name)


def check_timeout(timeout: Any) -> float:
    """Return how many seconds an exchange may take.

    Raises
    ------
    TypeError, ValueError
        If it is no positive number.
    """
    seconds = as_real("timeout", as_scalar(timeout))
    if not seconds > 0:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}; math.inf waits for ever")
    return seconds


def _digest(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little", signed=True)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _of_ranks(name: str, said: Sequence[tuple[int, str]]) -> str:
    listed = "; ".join(f"rank {rank} raised {text}" for rank, text in said[:3])
    more = f"; and {len(said) - 3} ranks more" if len(said) > 3 else ""
    return f"{name} was refused on another rank, and so on this one: {listed}{more}. Nothing was written"


def _differing(*texts: str) -> tuple[str, ...]:
    """Return what differs of texts whose parts are separated by semicolons; all of it, where that says nothing."""
    parts = [text.split("; ") for text in texts]
    common = set(parts[0]).intersection(*parts[1:])
    left = tuple("; ".join(each for each in own if each not in common) for own in parts)
    return left if all(left) else tuple(text or "none" for text in texts)


_ends_by_abort = False


def _abort_at_exit(comm: Any) -> None:
    """End all ranks when this process ends: MPI's own end would wait for those that never come."""
    global _ends_by_abort
    if not _ends_by_abort:
        _ends_by_abort = True
        atexit.register(comm.Abort, 1)
