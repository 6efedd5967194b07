"""Steps over some rows of parameters: gradients that are `fastadam.Rows`, masks, and rows that have stepped apart.

Such a step is one native call, as every other is: of each parameter that is not stepped as a whole there is a span
for each run of rows (see `fastadam.step.row_plan`). Rows count their steps by themselves, in `Group.own_steps`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.patterns import Patterns
from fastadam.groups.state import find, missing
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.devices import check_parameter, device_of, is_array
from fastadam.memory.jax_arrays import with_views
from fastadam.memory.rows import Read, Rows, in_one_array, read_mask, read_numbers, read_rows
from fastadam.memory.state_file import in_memory
from fastadam.memory.structs import COUNTER, REFUSED, SCALE_BLOCK, SKIPPED, SPAN, TAKEN
from fastadam.memory.words import counted, shown
from fastadam.step import threads
from fastadam.step.backend import Call
from fastadam.step.counters import counters_in
from fastadam.step.gradient_settings import not_finite
from fastadam.step.interrupts import in_one_go
from fastadam.step.laziness import EXACT, SKIP, Lazy, check_lazy
from fastadam.step.locks import Guard
from fastadam.step.plan import Plan
from fastadam.step.quiet import Quiet
from fastadam.step.variants import variants_of
from fastadam.work.arrays import WorkList
from fastadam.work.devices import share_out
from fastadam.work.lazy import Missed
from fastadam.work.planner import Planner
from fastadam.work.row_work import Entry, RowWork

Masks = Mapping[int, Any]


class RowSteps:
    """Takes the steps of one optimizer that are not over whole parameters.

    Parameters
    ----------
    planner : Planner
    guard : Guard
        Both are the optimizer's.
    lazy : str, default "skip"
        What becomes of steps that rows miss: ``"skip"``, or ``"exact"`` (see `fastadam.work.lazy`).

    Attributes
    ----------
    lazy : str
        As given.

    Raises
    ------
    ValueError
        If `lazy` is neither.
    """

    def __init__(self, planner: Planner, guard: Guard, lazy: Lazy = SKIP) -> None:
        self.lazy: Lazy = check_lazy(lazy)
        planner.groups.catches_up = self.is_exact
        self._planner, self._guard = planner, guard
        self._missed = Missed(planner.backends)
        self._quiet = Quiet()
        self._plans: Patterns[RowWork] = Patterns()
        self._builds = self._version = -1  # those of the planner and the groups that the plans agree with

    @property
    def is_exact(self) -> bool:
        """Whether rows catch up the steps that they have missed."""
        return self.lazy == EXACT

    def catch_up(self, rows: Any = None) -> None:
        """Let rows take the steps that they have missed; the caller holds the lock, and takes no step.

        Parameters
        ----------
        rows : mapping, optional
            Which, as the user gave them (see `fastadam.Adam.catch_up`); by default all.
        """
        groups, guard = self._planner.groups, self._guard
        try:
            guard.stepping = True  # a signal's handler, or an index, that steps would find rows that are half way
            some = None if rows is None else self._numbers_of(rows)
            if not self.is_exact or not any(group.own_steps for group in groups):
                return
            with in_memory(groups.file):
                calls: list[Call] = []
                for position, (group, index) in enumerate(groups.where):
                    if index in group.own_steps and (some is None or position in some):
                        self._catch_up(group, index, None if some is None else some[position])
                        calls += group.own_steps_calls(index, None) if some is None else []
                if calls:
                    in_one_go([*groups.renew_calls(), *calls])
        finally:
            guard.stepping = False

    def _numbers_of(self, rows: Any) -> dict[int, Array]:
        """Return the numbers of the rows that a user names, by the positions of their parameters."""
        groups = self._planner.groups
        if not isinstance(rows, Mapping):
            raise TypeError(
                f"rows must be a mapping from names, positions or arrays of parameters to numbers of their rows, "
                f"such as {{{next(iter(groups.positions), 0)!r}: [3, 14]}}, got {shown(rows)}; None stands for all"
            )
        found: dict[int, Array] = {}
        for key, indices in rows.items():
            position = _position_of(groups, key, "rows")
            member = groups.members[position]
            param = _own_view(member.array)
            member.check_rows(param)
            numbers = np.unique(read_numbers(indices, param, member.label))
            found[position] = np.union1d(found[position], numbers) if position in found else numbers
        return found

    def _catch_up(self, group: Group, index: int, numbers: Array | None) -> None:
        member = group.members[index]
        member.check_unchanged()
        check_parameter(member.owner, member.label)
        self._missed.catch_up(group, index, numbers, threads.check_limit(self._planner.threads))

    def masks_of(self, mask: Any) -> Masks:
        """Return the masks of a step, by the positions of their parameters.

        Raises
        ------
        TypeError, ValueError
            If one is for no parameter. What each of them is, is looked at later.
        """
        groups = self._planner.groups
        if not isinstance(mask, Mapping):
            if len(groups.where) == 1 and is_array(mask):
                return {0: mask}
            raise TypeError(
                f"mask must be a mapping from names, positions or arrays of parameters to arrays of bool, such as "
                f"{{{next(iter(groups.positions), 0)!r}: visible}}, got {shown(mask)}"
            )
        masks: dict[int, Any] = {}
        for key, each in mask.items():
            position = _position_of(groups, key, "mask")
            if position in masks:
                raise ValueError(f"mask has two entries for {groups.members[position].label}; give one")
            if each is not None:
                masks[position] = each
        return masks

    def are_for(self, grads: Sequence[Any], mask: Any) -> bool:
        """Whether a step with these gradients has to be taken here."""
        apart = any(group.own_steps for group in self._planner.groups)
        return apart or mask is not None or any(issubclass(kind, Rows) for kind in set(map(type, grads)))

    def take(self, work: WorkList, grads: Sequence[Any], mask: Any) -> int:
        """Take and count a step.

        Parameters
        ----------
        work : WorkList
            One of the planner's.
        grads : sequence
            For each of its slots: an array, `Rows`, or None.
        mask : object
            What the user gave.

        Returns
        -------
        int
            TAKEN, or SKIPPED where gradients are not finite and that was asked for.

        Raises
        ------
        TypeError, ValueError
            If something is not what it must be; nothing has been written then.
        RuntimeError
            If gradients are not finite, and that is to be an error.
        """
        planner = self._planner
        settings, groups = planner.settings, planner.groups
        masks = {} if mask is None else self.masks_of(mask)
        entries = self._read(_by_member(groups, work, grads), masks)
        active: Array = np.array([entry is not None for entry in entries], bool)
        if not active.any() and not planner.after.averages:
            settings.note_no_gradient()
            return TAKEN
        given = [entry for entry in entries if entry is not None]
        clears = [(device_of(each.given), each.given) for each in given if planner.after.zeroes]
        calls = [call for device, array in clears for call in device.clear_calls(array)]
        outcome = self._measure(given) if settings.norm.wanted else TAKEN
        if outcome == SKIPPED:
            returned = settings.count_skipped(calls)
        elif outcome == REFUSED:
            raise not_finite(self._not_finite(entries))
        else:
            with in_memory(groups.file):
                returned = self._step(entries, active, calls)
        for device in dict.fromkeys(device for device, _ in clears):
            device.check_returned(returned)
        return outcome

    def _read(self, grads: Sequence[Any], masks: Masks) -> list[Entry | None]:
        """Check all gradients and parameters."""
        groups = self._planner.groups
        members = groups.members
        dense = [None if isinstance(grad, Rows) else grad for grad in grads]
        views = with_views(dense, [each.array for each in members], [each.label for each in members])
        found: list[Entry | None] = []
        for position, ((group, index), grad) in enumerate(zip(groups.where, grads, strict=True)):
            member = members[position]
            mask, param = masks.get(position), _own_view(member.array)
            if grad is None:
                if mask is not None:
                    read_mask(mask, param, member.label)
                found.append(None)
                continue
            label = f"the gradient of {member.label}"
            if mask is not None or isinstance(grad, Rows) or index in group.own_steps:
                member.check_rows(param)
            if isinstance(grad, Rows):
                if mask is not None:
                    raise ValueError(f"{label} is fastadam.Rows, which says which rows; give no mask for it")
                read = read_rows(grad, param, member.label, self._check, self._quiet.run)
                found.append(Entry(None, read, read.given, _hold(read.given)))
            else:
                checked = self._check(views[position], param, label)
                numbers = None
                if mask is not None:
                    numbers = read_mask(mask, param, member.label)
                elif group.is_apart(index) and not self.is_exact:
                    numbers = np.arange(member.n_rows)
                if numbers is None:
                    found.append(Entry(checked, None, grad, _hold(grad)))
                else:
                    found.append(Entry(None, Read(numbers, checked, numbers, grad), grad, _hold(grad)))
            if found[-1] is not None and found[-1].read is not None:
                _check_blocks(group, index)
        for member in members:  # the last look, after all foreign code
            member.check_unchanged()
            check_parameter(member.owner, member.label)
        return found

    def _check(self, grad: Any, like: Array, label: str) -> Any:
        """Check a gradient, and return an array of our own over its memory.

        Foreign code can run until the step is taken: that of other indices, and schedules. What it does to the
        shape and dtype of the user's array does not matter then.
        """
        return _own_view(self._planner.by_member.check_gradient(grad, like, label))

    def _measure(self, given: Sequence[Entry]) -> int:
        """Compute the norm of gradients, rows laid one after the other; return TAKEN, or what is in the way."""
        planner = self._planner
        norm = planner.settings.norm
        arrays = [in_one_array(each.read) if each.grad is None and each.read else each.grad for each in given]
        some = [array for array in arrays if array is not None and array.size]
        if not some:
            norm.clear()
            return norm.reduce([norm.totals])
        elements = [ALL_DTYPES[array.dtype] for array in some]
        spans = np.zeros(len(some), SPAN.dtype)
        spans["grad"] = [device_of(array).address(array) for array in some]
        spans["size"] = [array.size * each.reals for array, each in zip(some, elements, strict=True)]
        variants = variants_of(np.array([each.format.code for each in elements], np.int64), 0)
        used, backend_of = share_out([device_of(array) for array in some], planner.backends)
        steps, nothing = np.zeros(1), np.zeros(0, COUNTER.dtype)
        limit = threads.check_limit(planner.threads)
        return Plan(spans, variants, counters_in(steps), nothing, used, limit, False, backend_of, norm).measure()

    def _not_finite(self, entries: Sequence[Entry | None]) -> list[str]:
        found = []
        for member, entry in zip(self._planner.groups.members, entries, strict=True):
            if entry is not None:
                array: Any = entry.grad
                if array is None and entry.read is not None:
                    array = in_one_array(entry.read)
                if not np.isfinite(device_of(array).on_host(array)).all():
                    found.append(member.label)
        return found

    def _step(self, entries: Sequence[Entry | None], active: Array, calls: Sequence[Call]) -> list[Any]:
        planner = self._planner
        groups = planner.groups
        self._let_apart(entries)
        if self.is_exact:
            for entry, (group, index) in zip(entries, groups.where, strict=True):
                if entry is not None and entry.read is not None:
                    self._catch_up(group, index, entry.read.numbers)
        planner.part(False, active)
        if self._builds != planner.builds:
            self._plans.clear()
        elif self._version != groups.version:
            for each in self._plans:
                each.write_options()
        self._builds, self._version = planner.builds, groups.version
        given = [entry for entry in entries if entry is not None]
        arrays = [each.read.values if each.read is not None else each.grad for each in given]
        dtypes = tuple(array.dtype for array in arrays if array is not None)
        apart: Array = np.array([entry is not None and entry.read is not None for entry in entries], bool)
        codes = bytes(ALL_DTYPES[dtype].format.code for dtype in dtypes)
        key = active.tobytes() + apart.tobytes() + codes
        work = self._plans.find(key, lambda: RowWork(planner, active, apart, dtypes, self.is_exact))
        work.make_ready(planner.settings.norm)
        more = self._notes(entries, work) if self.is_exact else []
        return work.take(given, [*more, *calls])[len(more) :]

    def _notes(self, entries: Sequence[Entry | None], work: RowWork) -> list[Call]:
        """Return native calls that note the step which rows that it does not touch will have missed."""
        calls: list[Call] = []
        rates = iter(work.rates)
        for entry, (group, index) in zip(entries, self._planner.groups.where, strict=True):
            if entry is not None and entry.read is not None:
                averaging, lr = self._planner.after.choices, next(rates)
                calls += self._missed.note_calls(group, index, averaging, work.scale, lr)
        return calls

    def _let_apart(self, entries: Sequence[Entry | None]) -> None:
        """Let rows count their steps by themselves where some are stepped, and no more where all are alike."""
        groups = self._planner.groups
        calls: list[Call] = []
        for entry, (group, index) in zip(entries, groups.where, strict=True):
            if entry is None:
                if self.is_exact and self._planner.after.averages and index in group.own_steps:
                    self._catch_up(group, index, None)  # its averages move, towards what it is by now
            elif entry.read is None and index in group.own_steps:
                if self.is_exact:
                    self._catch_up(group, index, None)
                calls += group.own_steps_calls(index, None)
            elif entry.read is not None and index not in group.own_steps:
                n = group.members[index].n_rows
                calls += group.own_steps_calls(index, np.full(n, group.step_of(index)))
        if calls:
            in_one_go([*groups.renew_calls(), *calls])
            self._planner.catch_up()


def _position_of(groups: Groups, key: Any, name: str) -> int:
    """Return the position of the parameter that a key of a mapping, an argument called so, stands for."""
    position = find(groups, key)
    if position is None:
        raise ValueError(f"{name} has a key for no parameter, {missing(groups, key)}")
    return position


def _by_member(groups: Sequence[Group], work: WorkList, grads: Sequence[Any]) -> list[Any]:
    """Return a gradient for each parameter, where some stand for a whole packed buffer."""
    if not work.in_pieces:
        return list(grads)
    found: list[Any] = []
    rest = iter(grads)
    for group in groups:
        if group.one_piece and group.packed is not None:
            whole = next(rest)
            if whole is None:
                found += [None] * len(group.members)
            else:
                device = device_of(group.packed.param)
                checked = work.check_gradient(
                    whole, group.packed.param, f"the gradient of {group.members[0].label}"
                )
                found += group.packed.views_of(device.own_view(checked))
        else:
            found += [next(rest) for _ in group.members]
    return found


def _own_view(array: Any) -> Any:
    """Return an array over the memory of another one, whose shape and dtype nobody else changes."""
    return np.ndarray.view(array, np.ndarray) if isinstance(array, np.ndarray) else array


def _hold(grad: Any) -> Any:
    """Return what keeps the memory of a user's array where it is."""
    return weakref.ref(grad) if isinstance(grad, np.ndarray) else None


def _check_blocks(group: Group, index: int) -> None:
    """Refuse rows that share blocks of 8-bit state with others."""
    member = group.members[index]
    kept = group.kept[member.buffer_key]
    if not any(each.block > 1 for name, each in kept.items() if name in group.moments):
        return
    width = member.size // max(member.n_rows, 1) * ALL_DTYPES[member.dtype].reals
    if width % SCALE_BLOCK:
        raise ValueError(
            f"{member.label} has rows of {counted(width, 'number')}, and its 8-bit state lies in blocks of "
            f"{SCALE_BLOCK}, which rows would share; make the optimizer with state_dtype='bfloat16', or hold the "
            f"parameter in rows of a multiple of {SCALE_BLOCK}"
        )
