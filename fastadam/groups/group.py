"""A parameter group: its members, options, moments and step counters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fastadam.groups.given import Given
from fastadam.groups.members import BufferKey, Member, members_of, whole_label
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.host import HOST
from fastadam.memory.state_file import StateFile
from fastadam.memory.structs import AVERAGE, KEPT, MOMENTS, ROW_STEP
from fastadam.step import hyperparameters
from fastadam.step.backend import Call
from fastadam.step.coefficients import Coefficients
from fastadam.step.compact import count_blocks
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go
from fastadam.step.precision import OF_MAXIMUM, Kept, formats_of, is_for_one, kept_of

ShareOut = Callable[[list[Member], Hyperparameters], list[Member]]


class Group:
    """One parameter group.

    Parameters
    ----------
    given : Given
        Its parameters.
    hyper : Hyperparameters
        Its options.
    start : int
        Position of its first member in the optimizer.
    where : str
        Prefix of error messages.
    file : StateFile, optional
        Where its state is to lie; by default that is in memory, on its parameters' devices.
    share_out : callable, optional
        ``share_out(members, hyper)`` returns what this process keeps of its members, where it is not all of them.

    Attributes
    ----------
    members : list of Member
        Or of `Piece`, whose parameter is ``member.whole``.
    packed : Packed or None
    whole : Member or None
        All of the packed buffer.
    params : tuple
        What the user gave for them.
    options : dict
        The dict that users see and edit in ``optimizer.param_groups``.
    hyper : Hyperparameters
        Those options, as last checked.
    coefficients : Coefficients
        What follows from them for each step.
    moments : dict of dict
        ``moments[name][dtype, device]`` is one flat buffer for all members of a dtype on a device; the third
        moment is there once amsgrad has been switched on. So are the averages, under `AVERAGE`, in the dtype that
        a parameter is computed with, while they are kept; and, where the options ask for them, scales and masters
        (see `fastadam.step.precision`). No buffer is ever exchanged for another one, but for averages that are
        dropped and begin anew.
    kept : dict of dict
        ``kept[dtype, device][name]`` is how the arrays in there lie, of all that there can be.
    row_steps : ndarray of int64, shape (rows,)
        Steps taken, for each set of members that have always stepped together ("row"). A step counts in this
        memory; where rows change, another array takes its place.
    row_of : ndarray of int64, shape (members,)
        Row of each member.
    own_steps : dict of int to ndarray of int64
        By index, for members of which parts were stepped by themselves: the steps that each of its rows, slices
        along the first axis, has taken. Its counter in `row_steps` goes on as if all had been stepped.

    Raises
    ------
    TypeError, ValueError
        If a member is not what it must be, or an option does not go with it.
    """

    def __init__(
        self,
        given: Given,
        hyper: Hyperparameters,
        start: int,
        where: str,
        file: StateFile | None = None,
        share_out: ShareOut | None = None,
    ) -> None:
        self.where = where
        self.start = start
        self.hyper = hyper
        self.packed = given.packed
        self.members = members_of(given, start)
        self._file = file
        for member in self.members if file is not None else ():
            if member.device is not HOST:
                raise TypeError(
                    f"{member.label} is on {member.device}, and state_path is for NumPy arrays; leave "
                    f"state_path=None for it, in an optimizer of its own"
                )
        self._check_eps(self.hyper, where)
        # What an optimizer can be made of again.
        self.given: Any = self.packed or list(
            given.values if given.names is None else zip(given.names, given.values, strict=True)
        )
        # All of a packed buffer, which can be stepped as if it were one parameter.
        self.whole: Member | None = None
        if self.packed is not None:
            self.whole = Member(self.packed.param, None, whole_label(self.members[0]), self.packed.grad)
        if share_out is not None:
            self.members, self.whole = share_out(self.members, hyper), None
        self.params: tuple[Any, ...] = tuple(member.given for member in self.members)
        self.options: dict[str, Any] = {"params": self.params}
        if self.members[0].name is not None:
            self.options["param_names"] = tuple(member.name for member in self.members)
        self.options.update(self.hyper._asdict())
        self._fixed = {key: self.options[key] for key in self.options if key not in hyperparameters.KEYS}
        self.coefficients = Coefficients(self.hyper)
        self.moments: dict[str, dict[BufferKey, Array]] = {}
        self.row_steps: Array
        self.row_of: Array
        self.own_steps: dict[int, Array] = {}
        self.lay_out()
        later = () if self.hyper.amsgrad else OF_MAXIMUM
        for name in KEPT:
            if name != AVERAGE and name not in later and any(name in kept for kept in self.kept.values()):
                self.moments[name] = self.zeros(name)
        self.set_steps(np.zeros(len(self.members), np.int64))

    def lay_out(self) -> None:
        """Decide where in the flat moments each member lies: tightly, in order, one buffer for each key."""
        self.kept: dict[BufferKey, Mapping[str, Kept]] = {}
        self.totals: dict[BufferKey, int] = {}
        self._blocks: dict[BufferKey, int] = {}
        self.offsets, self._block_offsets = [], []
        for member in self.members:
            key = member.buffer_key
            if key not in self.kept:
                self.kept[key] = kept_of(self.hyper, ALL_DTYPES[member.dtype])
                self.totals[key] = self._blocks[key] = 0
            self.offsets.append(self.totals[key])
            self._block_offsets.append(self._blocks[key])
            self.totals[key] += member.size
            self._blocks[key] += count_blocks(member.size * ALL_DTYPES[member.dtype].reals)

    def zeros(self, name: str, only: BufferKey | None = None) -> dict[BufferKey, Array]:
        """Return buffers for what is kept under a name of every member that has it; or `only` one of them."""
        buffers = {}
        for (dtype, device), kept in self.kept.items():
            if name in kept and only in (None, (dtype, device)):
                total, stored = self.totals[dtype, device], kept[name].stored
                if kept[name].block > 1:
                    total = self._blocks[dtype, device]
                elif stored is not None:
                    total *= ALL_DTYPES[dtype].reals
                buffers[dtype, device] = (self._file or device).zeros(total, stored or dtype, name)
        return buffers

    def place(self, name: str, index: int) -> int:
        """Return where what is kept of a member under a name begins, in numbers of its buffer."""
        member = self.members[index]
        kept = self.kept[member.buffer_key][name]
        if kept.block > 1:
            return self._block_offsets[index]
        return self.offsets[index] * (1 if kept.stored is None else ALL_DTYPES[member.dtype].reals)

    def length(self, name: str, index: int) -> int:
        """Return how many numbers of its buffer are what is kept of a member under a name."""
        member = self.members[index]
        return self.kept[member.buffer_key][name].length(member.size, ALL_DTYPES[member.dtype].reals)

    def renew_params(self) -> None:
        """Take the members for what the user gave; `options` are to have these `params` when it is used."""
        self.params = tuple(member.given for member in self.members)
        self._fixed = {**self._fixed, "params": self.params}

    def first_of(self, name: str, index: int) -> tuple[int, ...]:
        """Return where what is kept here of a member begins in all of the same of its parameter; () for all."""
        member = self.members[index]
        if member.whole is member:
            return ()
        kept, reals = self.kept[member.buffer_key][name], ALL_DTYPES[member.dtype].reals
        return (member.first if kept.stored is None else member.first * reals // kept.block,)

    def new_averages(self) -> dict[BufferKey, Array]:
        """Return averages that begin as the parameters are; `average_calls` enter them.

        Raises
        ------
        TypeError
            If a parameter is of a dtype in which averages are not kept.
        MemoryError
            If there is not enough memory.
        ValueError
            If a parameter was changed in place.
        """
        for member in self.members:
            real, _, number_format, *_ = ALL_DTYPES[member.dtype]
            if real != number_format.compute:
                raise TypeError(
                    f"ema_decay keeps averages in the dtype that parameters are computed with, and "
                    f"{member.label} is {member.dtype}, which is computed with in {number_format.compute}; hold "
                    f"it in that, or leave ema_decay=None"
                )
        self.check_unchanged()
        if self._file is not None:
            self._file.make_ready()  # they are written here
        buffers = self.zeros(AVERAGE)
        for member, offset in zip(self.members, self.offsets, strict=True):
            buffers[member.buffer_key][offset : offset + member.size] = member.array.reshape(-1)
        return buffers

    def average_calls(self, buffers: dict[BufferKey, Array] | None) -> list[Call]:
        """Return native calls that keep averages in these buffers from now on, or with None, drop them."""
        if buffers is None:
            return [functools.partial(self.moments.pop, AVERAGE, None)]
        return [functools.partial(self.moments.__setitem__, AVERAGE, buffers)]

    @staticmethod
    def reserve_max(groups: Iterable[Group]) -> None:
        """Reserve the running maximum that amsgrad needs, in those groups that have none.

        Raises
        ------
        MemoryError
            If there is not enough memory for all of them; nothing has changed then.
        ValueError
            If a parameter of theirs was changed in place; nothing has changed then.
        """
        without = [group for group in groups if MOMENTS[2] not in group.moments]
        for group in without:
            group.check_unchanged()
        reserved = [(group, {name: group.zeros(name) for name in OF_MAXIMUM}) for group in without]
        for group, found in reserved:
            group.moments.update({name: buffers for name, buffers in found.items() if buffers})

    def check_unchanged(self) -> None:
        """Refuse a parameter that was changed in place (see `Member.check_unchanged`)."""
        for member in self.members if self.whole is None else [self.whole, *self.members]:
            member.check_unchanged()

    def has(self, name: str, index: int) -> bool:
        """Whether a member has an array under a name of `KEPT`."""
        return self.members[index].buffer_key in self.moments.get(name, ())

    def moment(self, name: str, index: int) -> Array:
        """Return a live view of a member's moment, in the member's shape; of what is kept beside it, too.

        In compact formats, complex numbers are pairs, in a dimension more, and scales are in one row.
        """
        member = self.members[index]
        key, offset = member.buffer_key, self.place(name, index)
        view = self.moments[name][key][offset : offset + self.length(name, index)]
        return view.reshape(self.kept[key][name].shape(member.shape, ALL_DTYPES[member.dtype].reals))

    def entry(self, index: int) -> dict[str, Any]:
        """Return a member's step counters and live views of its moments, what belongs to them, and its average."""
        moments = {name: self.moment(name, index) for name in KEPT if self.has(name, index)}
        rows = {ROW_STEP: self.own_steps[index].copy()} if self.is_apart(index) else {}
        return {"step": self.step_of(index), **rows, **moments}

    def is_apart(self, index: int) -> bool:
        """Whether some rows of a member have taken less steps than it has."""
        own = self.own_steps.get(index)
        return own is not None and bool((own != self.step_of(index)).any())

    def is_compact(self, name: str, index: int) -> bool:
        """Whether what a member has under a name lies in another dtype than its own."""
        return self.kept[self.members[index].buffer_key][name].stored is not None

    def accepted(self, hyper: Hyperparameters | None = None) -> dict[str, Any]:
        """Return `options` as they were last accepted, or with `hyper`, without what the user has edited."""
        return {**self._fixed, **(hyper or self.hyper)._asdict()}

    def check_options(self) -> Hyperparameters:
        """Check `options` after an edit and return them; nothing is changed.

        Raises
        ------
        TypeError, ValueError
            If a value is out of range, a key is unknown or missing, or ``"params"`` was replaced.
        """
        for key in self.options:
            if key not in self._fixed and key not in hyperparameters.KEYS:
                raise ValueError(
                    f"{self.where}unknown option {key!r}; known are {', '.join(hyperparameters.KEYS)}"
                )
        for key in (*self._fixed, *hyperparameters.KEYS):
            if key not in self.options:
                raise ValueError(f"{self.where}the option {key!r} was removed; assign it a value")
        for key, value in self._fixed.items():
            if self.options[key] is not value:
                raise ValueError(
                    f"{self.where}{key!r} was replaced; a group's parameters are fixed, so use "
                    f"add_param_group or make a new optimizer"
                )
        return self.checked(self.options)

    def checked(self, options: Mapping[str, Any], where: str | None = None) -> Hyperparameters:
        """Return options, checked for the members of this group (see `fastadam.step.hyperparameters`)."""
        where = self.where if where is None else where
        hyper = hyperparameters.check(options, where)
        self._check_eps(hyper, where)
        for name in hyperparameters.FIXED:
            if getattr(hyper, name) != getattr(self.hyper, name):
                raise ValueError(
                    f"{where}{name} was {getattr(self.hyper, name)!r} when the group was made, and its state lies "
                    f"in memory so; to go on with {name}={getattr(hyper, name)!r}, make a new optimizer with it, "
                    f"and load the state into that: new.load_state_dict(old.state_dict())"
                )
        return hyper

    def _check_eps(self, hyper: Hyperparameters, where: str) -> None:
        computed = ((each.label, ALL_DTYPES[each.dtype].format.compute) for each in self.members)
        hyperparameters.check_eps(hyper.eps, computed, where)

    def accept_calls(self, hyper: Hyperparameters) -> list[Call]:
        """Return native calls that take over checked options; with amsgrad, its moment has been reserved."""
        return [
            functools.partial(setattr, self, "hyper", hyper),
            functools.partial(setattr, self, "coefficients", Coefficients(hyper)),
            functools.partial(self.options.update, hyper._asdict()),
        ]

    @property
    def steps(self) -> Array:
        """Steps taken by each member, int64."""
        steps: Array = self.row_steps[self.row_of]
        return steps

    def step_of(self, index: int) -> np.int64:
        """Return the steps taken by one member."""
        step: np.int64 = self.row_steps[self.row_of[index]]
        return step

    def set_steps(self, steps: Array, labels: Array | None = None) -> None:
        """Set the members' step counters, giving each distinct pair of counter and label a row."""
        in_one_go(self.steps_calls(steps, labels))

    def steps_calls(self, steps: Array, labels: Array | None = None) -> list[Call]:
        """Return native calls that do what `set_steps` does."""
        keys = np.stack([steps, np.zeros_like(steps) if labels is None else labels])
        distinct, row_of = np.unique(keys, axis=1, return_inverse=True)
        return [
            functools.partial(setattr, self, "row_steps", distinct[0].copy()),
            functools.partial(setattr, self, "row_of", row_of.reshape(-1).astype(np.int64)),
        ]

    def own_steps_calls(self, index: int, steps: Array | None) -> list[Call]:
        """Return native calls that let a member's rows have taken these steps; None for all the member's own."""
        if steps is None:
            return [functools.partial(self.own_steps.pop, index, None)]
        return [functools.partial(self.own_steps.__setitem__, index, steps)]

    def must_split(self, active: Array) -> bool:
        """Whether some row has members that are active and members that are not."""
        shares = np.bincount(self.row_of, weights=active, minlength=len(self.row_steps))
        return bool(np.any((shares > 0) & (shares < np.bincount(self.row_of, minlength=len(self.row_steps)))))

    def split_rows(self, active: Array) -> None:
        """Make rows whose members are all active or all not."""
        self.set_steps(self.steps, active.astype(np.int64))

    def part_rows(self) -> None:
        """Give each member a row of its own."""
        self.set_steps(self.steps, np.arange(len(self.members)))

    @property
    def is_parted(self) -> bool:
        """Whether each member has a row of its own."""
        return len(self.row_steps) == len(self.members)

    @property
    def one_piece(self) -> bool:
        """Whether the group can be stepped as one contiguous array."""
        if self.whole is None or len(self.row_steps) > 1 or self.own_steps:
            return False
        return not any(is_for_one(formats_of(self.hyper, ALL_DTYPES[dtype])) for dtype, _ in self.kept)

    def owned(self) -> list[tuple[Array, str]]:
        """Return all memory that a step writes, with labels."""
        moments = [
            (buffer, f"{name} of {self.members[0].label} and its group")
            for name, buffers in self.moments.items()
            for buffer in buffers.values()
        ]
        return [(member.whole.array, member.label) for member in self.members] + moments
