"""The work lists of an optimizer, kept in step with its groups."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from fastadam.groups.groups import Groups
from fastadam.groups.patterns import MOST_PATTERNS, Patterns
from fastadam.memory.array_offsets import array_offsets
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.device import Device
from fastadam.memory.written import Written
from fastadam.step.after import After
from fastadam.step.backend import Backend, Call
from fastadam.step.gradient_settings import GradientSettings
from fastadam.step.variants import flags_of
from fastadam.step.windows import Slots, Windowed
from fastadam.work.arrays import ApartWork, WorkList
from fastadam.work.containers import Containers
from fastadam.work.nested import Reader

# Of the gradients of a work list.
Dtypes = tuple[np.dtype[Any], ...]


class Planner:
    """Builds work lists from groups, and builds them anew when groups, rows or variants have changed.

    Parameters
    ----------
    groups : Groups
    backends : mapping of Device to Backend
        The live one, in which devices are entered.
    threads : int or None
        Upper limit of threads, as it was given.
    settings : GradientSettings
    after : After

    Attributes
    ----------
    backends : mapping of Device to Backend
        As given.
    threads : int or None
        The limit; whoever changes it makes the `start_over_calls`.
    containers : Containers
        Those that the parameters were given in.
    builds : int
        Grows whenever all is built anew.
    version : int
        That of the groups with which the work lists agree. Where it is another one than theirs, `catch_up` has to
        be called before anything else is used.
    in_pieces, by_member : WorkList
        One slot for each packed group that has stepped in one piece, and for each other parameter; or one for each
        parameter. The same object where no group is in one piece.
    written : Written
        The memory that steps write.
    reader : Reader
        Reads gradients that are nested, or have names.
    """

    in_pieces: WorkList
    by_member: WorkList
    written: Written
    reader: Reader

    def __init__(
        self,
        groups: Groups,
        backends: Mapping[Device, Backend],
        threads: int | None,
        settings: GradientSettings,
        after: After,
    ) -> None:
        self.groups, self.settings, self.after = groups, settings, after
        self.version, self.builds = -1, 0
        self.backends = backends
        self._slots = None if groups.file is None else Slots(groups.file)
        self.threads = threads
        self.containers = Containers(groups)
        self._layout = -1
        self._flags: list[Any] = []  # those of the groups, what is wanted of the norm, and of averages
        self._patterns: Patterns[WorkList] = Patterns()
        self._n_made = 0  # work lists for patterns of members
        self._leaves_out = False
        self.reader = Reader([], {})

    def catch_up(self) -> None:
        """Take up what has changed in the groups; an interrupt on the way leaves it to be done again."""
        groups = self.groups
        version, layout = groups.version, groups.layout
        compiled = [(flags_of(group.hyper), group.hyper.rounding) for group in groups]
        flags = [*compiled, self.settings.norm.wanted, self.after.averages]
        if layout == self._layout and flags == self._flags:
            for work in (self.in_pieces, self.by_member, *self._patterns):
                work.write_options()
        else:
            self._layout = -1
            self._build()
            self._layout, self._flags = layout, flags
        self.version = version

    def start_over_calls(self) -> list[Call]:
        """Return native calls that have everything built anew, as another backend or limit of threads needs it."""
        return [functools.partial(setattr, self, name, -1) for name in ("_layout", "version")]

    def let_go_calls(self) -> list[Call]:
        """Return native calls that do what `start_over_calls` does, and let go of what was built before."""
        built = ("in_pieces", "by_member", "written")
        return [
            *self.start_over_calls(),
            *(functools.partial(self.__dict__.pop, name, None) for name in built),
            functools.partial(setattr, self, "_patterns", Patterns()),
        ]

    def _build(self) -> None:
        self.builds += 1
        self.groups.check_unchanged()  # before the memory that steps write is told from it
        self.written = self.groups.written()
        self._patterns.clear()
        if self.reader.trees is not self.groups.trees:
            self.reader = Reader(self.groups.trees, self.groups.positions)
        self._leaves_out &= self._can_leave_out() and all(group.is_parted for group in self.groups)
        self.in_pieces = self.by_member = self._work_list(in_pieces=True, leaves_out=self._leaves_out)
        if any(group.one_piece for group in self.groups):
            self.by_member = self._work_list(in_pieces=False, leaves_out=self._leaves_out)

    def _work_list(
        self,
        in_pieces: bool,
        active: Array | None = None,
        leaves_out: bool = False,
        grad_dtypes: Dtypes | None = None,
    ) -> WorkList:
        backends = self.backends
        if self._slots is not None:
            backends = {device: Windowed(backend, self._slots) for device, backend in backends.items()}
        kind = ApartWork if any(group.own_steps for group in self.groups) else WorkList
        return kind(
            *(self.groups, self.written, backends, self.threads, self.settings.norm, self.after),
            in_pieces=in_pieces,
            active=active,
            leaves_out=leaves_out,
            grad_dtypes=grad_dtypes,
        )

    def for_gradients(self, work: WorkList, grads: Sequence[Any]) -> WorkList:
        """Return the work list of the same slots for gradients of the dtypes that these have.

        Parameters
        ----------
        work : WorkList
            `in_pieces` or `by_member`, or `pattern` has returned it for gradients of these dtypes.
        grads : sequence
            One for each of its slots, or None.
        """
        dtypes = work.dtypes_of(grads)
        if dtypes == work.grad_dtypes or work.active is not None:
            return work
        self._patterns.find(_key(work.in_pieces, None, work.grad_dtypes), lambda: work)
        return self._patterns.find(
            _key(work.in_pieces, None, dtypes),
            lambda: self._work_list(work.in_pieces, None, work.leaves_out, dtypes),
        )

    def kept_for(self, work: WorkList, slot: int, grad: Any) -> list[WorkList]:
        """Return work lists that are kept, of the same slots, and for gradients like `grad` at one of them."""
        if work.active is not None:
            return []
        return [
            each
            for each in self._patterns
            if each.active is None
            and each.in_pieces == work.in_pieces
            and each is not work
            and each.is_for(grad, slot)
        ]

    def put_first(self, found: WorkList, work: WorkList) -> None:
        """Let a work list for other gradients be tried first from now on, if `work` was."""
        if work is self.in_pieces:
            self.in_pieces = found
        if work is self.by_member:
            self.by_member = found

    def use_one_plan(self, work: WorkList) -> bool:
        """Have native code leave out what has no gradient from now on, if that pays, and it can.

        That is where there have been many patterns of missing gradients: to make a work list for each takes longer
        than many a step. Then each member has a row of its own, so that none has to be parted any more.

        Parameters
        ----------
        work : WorkList
            The one whose gradients are missing.

        Returns
        -------
        bool
            Whether `by_member` is such a work list now; it may be another one than before.
        """
        if (
            self._leaves_out
            or work is not self.by_member
            or self._n_made <= MOST_PATTERNS
            or not self._can_leave_out()
        ):
            return False
        self.groups.renew()
        for group in self.groups:
            group.part_rows()
        self._leaves_out = True
        self.catch_up()
        return True

    def _can_leave_out(self) -> bool:
        if self._slots is not None:  # windows are cut once
            return False
        return array_offsets() is not None and all(backend.LEAVES_OUT for backend in self.backends.values())

    def part(self, in_pieces: bool, active: Array) -> None:
        """Let the slots that have a gradient, and those that have none, have rows of coefficients of their own.

        Parameters
        ----------
        in_pieces, active
            See `pattern`.
        """
        start = 0
        for group in self.groups:
            n = 1 if in_pieces and group.one_piece else len(group.members)
            if n == len(group.members) and group.must_split(active[start : start + n]):
                self.groups.renew()
                group.split_rows(active[start : start + n])
            start += n
        if self.version != self.groups.version:
            self.catch_up()

    def pattern(self, in_pieces: bool, active: Array, grad_dtypes: Dtypes) -> WorkList:
        """Return the work list of those slots that have a gradient.

        Parameters
        ----------
        in_pieces : bool
            Whether the slots are those of `in_pieces`, or else of `by_member`.
        active : ndarray of bool, shape (slots,)
            Which of them have one. Members that have stepped together, and are to be parted here, become rows of
            their own.
        grad_dtypes : tuple of dtype
            Those of the gradients, for each slot.
        """
        self.part(in_pieces, active)
        dtypes = tuple(compress(grad_dtypes, active.tolist()))
        return self._patterns.find(
            _key(in_pieces, active, dtypes), lambda: self._for_pattern(in_pieces, active, dtypes)
        )

    def _for_pattern(self, in_pieces: bool, active: Array, dtypes: Dtypes) -> WorkList:
        self._n_made += 1
        return self._work_list(in_pieces, active, grad_dtypes=dtypes)


def _key(in_pieces: bool, active: Array | None, dtypes: Dtypes) -> bytes:
    """Return what tells apart the work lists that are kept."""
    codes = bytes(ALL_DTYPES[dtype].format.code for dtype in dtypes)
    return bytes([in_pieces, active is None]) + (b"" if active is None else active.tobytes()) + codes
