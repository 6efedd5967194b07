"""The groups of an optimizer: which parameters there are, and what the user has edited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastadam.groups.edits import Edits
from fastadam.groups.group import Group
from fastadam.groups.members import Member
from fastadam.memory.written import Written


class Groups(Sequence[Group]):
    """The groups of one optimizer, in order.

    Attributes
    ----------
    edits : Edits
        Notices what differs in ``optimizer.param_groups`` from the options in use.
    where : list of (Group, int)
        Of each parameter: its group, and its index in there.
    positions : dict of str to int
        Of the parameters, by name; empty where they have none.
    version : int
        Grows with each change of options, groups or rows: who has built something from them compares it.
    layout : int
        Grows with each change of groups or rows, before which `renew` is called.
    """

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._position_of: dict[int, int] = {}  # by the identity of what the user gave, which members keep alive
        self._written: Written
        self._written_for: list[int] = []  # how many moments each group had then
        self.where: list[tuple[Group, int]] = []
        self.edits = Edits()
        self.positions: dict[str, int] = {}
        self.version = self.layout = 0

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: Any) -> Any:
        return self._groups[index]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    @property
    def members(self) -> list[Member]:
        """All parameters, in order."""
        return [group.members[index] for group, index in self.where]

    def position_of(self, given: Any) -> int | None:
        """Return the position of an array or `Parameter` that the user gave, or None."""
        return self._position_of.get(id(given))

    def written(self) -> Written:
        """Return the memory that steps write."""
        n_moments = [len(group.moments) for group in self]  # all that can have been added since the last time
        if n_moments != self._written_for:
            self._written = Written(owned for group in self for owned in group.owned())
            self._written_for = n_moments
        return self._written

    def make(self, given: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[Group]:
        """Return new groups, which `add` enters.

        Parameters
        ----------
        given : iterable of mapping
            Group dicts.
        defaults : mapping
            Values of the options that they leave out.

        Raises
        ------
        TypeError, ValueError
            If something in them is wrong, or does not go together with the groups that are there: names that are
            missing or appear twice, or shared memory.
        """
        new: list[Group] = []
        start = len(self.where)
        for i, one in enumerate(given, len(self)):
            where = f"param_groups[{i}]: " if i or "lr" in one or len(one) > 1 else ""
            new.append(Group(one, defaults, start, where))
            start += len(new[-1].members)
        groups = [*self, *new]
        members = [member for group in groups for member in group.members]
        _check_names(members)
        Written(owned for group in groups for owned in group.owned())  # refuses shared memory
        seen: dict[int, str] = {}
        for member in members:
            if id(member.owner) in seen:  # not noticed above where the array is empty
                raise ValueError(f"{member.label} is the same array as {seen[id(member.owner)]}; give it once")
            seen[id(member.owner)] = member.label
        return new

    def add(self, new: Sequence[Group]) -> None:
        """Enter groups that `make` has returned; several operations, to be guarded by an `uninterrupted`."""
        self.renew()
        for group in new:
            for index, member in enumerate(group.members):
                position = len(self.where)
                self._position_of[id(member.given)] = self._position_of[id(member.owner)] = position
                if member.name is not None:
                    self.positions[member.name] = position
                self.where.append((group, index))
        self._groups += new
        self.note()

    def renew(self) -> None:
        """Have everything built anew that was built from the groups: their number or rows are about to change."""
        self.layout += 1
        self.version += 1

    def note(self) -> None:
        """Remember the options as they were last accepted, by which edits are noticed."""
        self.edits.note([group.accepted() for group in self], [group.params for group in self])

    def take_up(self, param_groups: Sequence[Mapping[str, Any]]) -> None:
        """Check what the user has edited, and accept it.

        Parameters
        ----------
        param_groups : sequence of dict
            The optimizer's.

        Raises
        ------
        TypeError, ValueError
            If it cannot be accepted; nothing has been changed then.
        MemoryError
            If there is not enough memory for what amsgrad needs; nothing has been changed then.
        """
        if len(param_groups) != len(self):
            raise ValueError(
                f"param_groups has {len(param_groups)} entries, the optimizer made {len(self)}; use "
                f"add_param_group to add one"
            )
        for i, (group, options) in enumerate(zip(self, param_groups, strict=True)):
            if options is not group.options:
                raise ValueError(f"param_groups[{i}] was replaced; edit the values of the dict instead")
        checked = [group.check_options() for group in self]
        Group.reserve_max(group for group, hyper in zip(self, checked, strict=True) if hyper.amsgrad)
        self.edits.forget()  # an interrupt on the way leaves them to be taken up again
        for group, hyper in zip(self, checked, strict=True):
            group.accept(hyper)
        self.version += 1
        self.note()


def _check_names(members: Sequence[Member]) -> None:
    """Refuse names that some parameters lack, or two have."""
    names = [member.name for member in members]
    if None in names and any(name is not None for name in names):
        raise ValueError(f"parameter {names.index(None)} has no name, others have; name all of them or none")
    positions: dict[str | None, int] = {}
    for position, name in enumerate(names):
        if name is not None and name in positions:
            raise ValueError(f"the name {name!r} is given to parameters {positions[name]} and {position}")
        positions[name] = position
