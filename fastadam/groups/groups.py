"""The groups of an optimizer: which parameters there are, and what the user has edited."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastadam.groups.edits import Edits
from fastadam.groups.given import read_group
from fastadam.groups.group import Group, ShareOut
from fastadam.groups.members import Member
from fastadam.groups.removing import moved
from fastadam.groups.shares import Share, loads_of
from fastadam.memory.nesting import Nesting
from fastadam.memory.state_file import StateFile
from fastadam.memory.words import counted
from fastadam.memory.written import Written
from fastadam.step import hyperparameters
from fastadam.step.backend import Call
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go

MOST_SHAPES = 8  # that are known of a parameter from before it was resized


class Tree(NamedTuple):
    """The parameters that were given together, in the order in which they were.

    Attributes
    ----------
    nesting : Nesting
    positions : tuple of int
        In the optimizer, of each leaf.
    """

    nesting: Nesting
    positions: tuple[int, ...]

    def without(self, first: int, count: int) -> Tree:
        """Return it without the parameters at so many positions from one on, which those behind move down by."""
        leaves = [place for place, each in enumerate(self.positions) if not first <= each < first + count]
        left = [self.positions[place] for place in leaves]
        nesting = self.nesting if len(left) == len(self.positions) else self.nesting.with_only(leaves)
        return Tree(nesting, tuple(each if each < first else each - count for each in left))


class Groups(Sequence[Group]):
    """The groups of one optimizer, in order.

    Parameters
    ----------
    file : StateFile, optional
        Where their state is to lie.
    share : Share, optional
        Which of several processes this is, where each keeps the state of a part of each parameter.

    Attributes
    ----------
    file : StateFile or None
    share : Share or None
        As given.
    edits : Edits
        Notices what differs in ``optimizer.param_groups`` from the options in use.
    where : list of (Group, int)
        Of each parameter: its group, and its index in there.
    positions : dict of str to int
        Of the parameters, by name; empty where they have none.
    trees : list of Tree
        How the parameters were given: one for each group dict, of which options by name make several groups.
    version : int
        Grows with each change of options, groups or rows: who has built something from them compares it.
    catches_up : bool
        Whether rows take the steps that they have missed before anybody reads them.
    layout : int
        Grows with each change of groups or rows, before which `renew` is called.
    """

    def __init__(self, file: StateFile | None = None, share: Share | None = None) -> None:
        self.file, self.share = file, share
        self._groups: list[Group] = []
        self._position_of: dict[int, int] = {}  # by the identity of what the user gave, which members keep alive
        self._written: Written
        self._written_for: list[Any] = []  # what buffers each group had then
        self.where: list[tuple[Group, int]] = []
        self.edits: Edits = Edits()
        self.positions: dict[str, int] = {}
        self.trees: list[Tree] = []
        self.catches_up = False
        self.version = self.layout = 0
        # What `resize` has put others in the place of, by identity, with the label of the parameter.
        self._resized: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._shapes_before: dict[int, tuple[tuple[int, ...], ...]] = {}  # by the identities of parameters' arrays

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

    def check_unchanged(self) -> None:
        """Refuse a parameter that was changed in place (see `Member.check_unchanged`)."""
        for group in self:
            group.check_unchanged()

    def written(self) -> Written:
        """Return the memory that steps write."""
        # All that can have changed since the last time.
        found: list[Any] = [buffers for group in self for buffers in (group, *group.moments.values())]
        known = self._written_for
        more = found[len(known) :]
        same = known and len(known) <= len(found) and all(map(operator.is_, found, known))
        if not same or (more and not isinstance(more[0], Group)):
            self._written = Written(owned for group in self for owned in group.owned())
        elif more:  # groups have joined those that were there, which have no other buffers
            added = [group for group in more if isinstance(group, Group)]
            self._written = self._written.joined(owned for group in added for owned in group.owned())
        self._written_for = found
        self._written.shapes_before = {
            member.address: self._shapes_before[id(member.owner)]
            for member in (self.members if self._shapes_before else ())
            if id(member.owner) in self._shapes_before
        }
        return self._written

    def make(
        self, given: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]
    ) -> tuple[list[Group], list[Tree]]:
        """Return new groups, and how their parameters were given, which `add_calls` enters.

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
        trees: list[Tree] = []
        start = len(self.where)
        for i, one in enumerate(given, len(self)):
            where = f"param_groups[{i}]: " if i or len(one) > 1 else ""
            read, shares = read_group(one, defaults, where)
            positions = [0] * len(read.values)
            for hyper, places in shares:
                where = f"param_groups[{len(self) + len(new)}]: " if where else ""
                own = read if len(shares) == 1 else read.at(places)
                new.append(Group(own, hyper, start, where, self.file, self._share_out([*self, *new])))
                for position, place in enumerate(places, start):
                    positions[place] = position
                start += len(places)
            trees.append(Tree(read.nesting, tuple(positions)))
        groups = [*self, *new]
        for group in groups:  # reading what was given can have run foreign code
            group.check_unchanged()
        members = [member for group in new for member in group.members]
        self._check_names(members)
        self.written().joined(owned for group in new for owned in group.owned())  # refuses shared memory
        seen: dict[int, str] = {}
        for member in members:
            known = self._position_of.get(id(member.owner))
            same = seen.get(id(member.owner)) if known is None else self._member(known).label
            if same is not None:  # not noticed above where the array is empty
                raise ValueError(f"{member.label} is the same array as {same}; give it once")
            seen[id(member.owner)] = member.label
        return new, trees

    def _share_out(self, others: Sequence[Group]) -> ShareOut | None:
        """Return what cuts the members of a new group, by what processes have of the others; None without cuts."""
        if self.share is None:
            return None
        loads = loads_of(((each.members, each.hyper) for each in others), self.share.size)
        return functools.partial(self.share.pieces, loads=loads)

    def _member(self, position: int) -> Member:
        group, index = self.where[position]
        return group.members[index]

    def _check_names(self, members: Sequence[Member]) -> None:
        """Refuse names of new members that some parameters lack, or two have."""
        names = [member.name for member in members]
        start = len(self.where)
        nameless = 0 if start and not self.positions else start + names.index(None) if None in names else None
        if nameless is not None and (self.positions or any(name is not None for name in names)):
            raise ValueError(f"parameter {nameless} has no name, others have; name all of them or none")
        found: dict[str, int] = {}
        for position, name in enumerate(names, start):
            if name is None:
                continue
            first = found.get(name, self.positions.get(name))
            if first is not None:
                raise ValueError(
                    f"the name {name!r} is given to parameters {first} and {position}; give them names that "
                    f"differ, such as by a key around one group's: {{'params': {{'more': ...}}}}"
                )
            found[name] = position

    def add_calls(self, new: Sequence[Group], trees: Sequence[Tree], param_groups: Any) -> list[Call]:
        """Return native calls that enter what `make` has returned, here and in the optimizer's `param_groups`.

        Raises
        ------
        TypeError
            If these are no list.
        """
        _check_list(param_groups)
        return [
            *self._enter_calls(list(self), new, trees=[*self.trees, *trees]),
            functools.partial(list.extend, param_groups, [group.options for group in new]),
        ]

    def _enter_calls(self, known: Sequence[Group], new: Sequence[Group], **changed: Any) -> list[Call]:
        """Return native calls by which these are the groups: some that are known, or none, and new ones behind."""
        position_of: dict[int, int] = dict(self._position_of) if known else {}
        positions: dict[str, int] = dict(self.positions) if known else {}
        where: list[tuple[Group, int]] = list(self.where) if known else []
        for group in new:
            for index, member in enumerate(group.members):
                position_of[id(member.given)] = position_of[id(member.owner)] = len(where)
                if member.name is not None:
                    positions[member.name] = len(where)
                where.append((group, index))
        groups = [*known, *new]
        changed |= {"_position_of": position_of, "positions": positions, "where": where, "_groups": groups}
        return [
            *self.renew_calls(),
            *(functools.partial(setattr, self, name, value) for name, value in changed.items()),
            *self.edits.note_calls([group.accepted() for group in groups], [group.params for group in groups]),
        ]

    def resize_calls(self, old: Group, new: Group) -> list[Call]:
        """Return native calls that put a group, with other arrays, in the place of the one that it is made of."""
        before = {key: each for key, each in self._resized.items() if each[0]() is not None}
        shapes = dict(self._shapes_before)
        for was, now in zip(old.members, new.members, strict=True):
            if now.owner is not was.owner:
                before[id(was.owner)] = weakref.ref(was.owner), was.label
                shapes[id(now.owner)] = (*shapes.pop(id(was.owner), ()), was.shape)[-MOST_SHAPES:]
        if old.packed is not None and old.whole is not None:
            for each in (old.packed, old.packed.param):
                before[id(each)] = weakref.ref(each), old.whole.label
        groups = [new if group is old else group for group in self]
        return [
            *self._enter_calls((), groups, _resized=before, _shapes_before=shapes, _written_for=[]),
            functools.partial(new.options.__setitem__, "params", new.params),
            functools.partial(self.__dict__.pop, "_written", None),
        ]

    def was_resized(self, key: Any) -> str | None:
        """Return the label of the parameter that had an array, or buffer, before it was resized; else None."""
        ref, label = self._resized.get(id(key), (None, None))
        return label if ref is not None and ref() is key else None

    def remove_calls(self, number: int, param_groups: Any) -> list[Call]:
        """Return native calls that take a group away, here and in the optimizer's `param_groups`.

        Positions of the parameters behind it move down. Those groups are other ones from then on, with the same
        state, as what was made of them knows their positions.

        Raises
        ------
        TypeError
            If `param_groups` is no list.
        """
        _check_list(param_groups)
        gone = self[number]
        first, count = gone.start, len(gone.members)
        behind = [moved(group, group.start - count, i) for i, group in enumerate(self[number + 1 :], number)]
        groups = [*self[:number], *behind]
        trees = [tree.without(first, count) for tree in self.trees]
        gone_arrays = {id(member.owner) for member in gone.members}
        shapes = {key: found for key, found in self._shapes_before.items() if key not in gone_arrays}
        left = [tree for tree in trees if tree.positions]
        return [
            *self._enter_calls((), groups, trees=left, _shapes_before=shapes, _written_for=[]),
            functools.partial(list.__delitem__, param_groups, number),
            functools.partial(self.__dict__.pop, "_written", None),
        ]

    def listed(self) -> str:
        """Return lines that tell the options of each group."""
        lines = []
        for i, group in enumerate(self):
            lines.append(f"    Parameter Group {i}: {counted(len(group.members), 'parameter')}")
            lines += [f"        {key}: {group.options.get(key)}" for key in hyperparameters.KEYS]
        return "\n".join(lines)

    def described(self) -> dict[str, Any]:
        """Return what the groups can be made of again: ``"groups"`` and, where it is nested, ``"trees"``."""
        groups = [{**group.options, "params": group.given} for group in self]
        if len(self.trees) == len(self) and not any(tree.nesting.is_nested for tree in self.trees):
            return {"groups": groups}
        return {"groups": groups, "trees": [(tree.nesting.plain(), tree.positions) for tree in self.trees]}

    def set_trees(self, trees: Sequence[Any] | None) -> None:
        """Have parameters given as it was `described`, where that was in ``"trees"``."""
        if trees is not None:
            self.trees = [Tree(Nesting(*nesting), positions) for nesting, positions in trees]
            self.renew()

    def renew(self) -> None:
        """Have everything built anew that was built from the groups: their number or rows are about to change."""
        in_one_go(self.renew_calls())

    def renew_calls(self) -> list[Call]:
        """Return native calls that do what `renew` does."""
        return [
            functools.partial(setattr, self, "layout", self.layout + 1),
            functools.partial(setattr, self, "version", self.version + 1),
        ]

    def accept_calls(self, hypers: Sequence[Hyperparameters]) -> list[Call]:
        """Return native calls that take over checked options of each group; edits are noticed by them.

        With amsgrad, its moment has been reserved.
        """
        calls = [call for group, hyper in zip(self, hypers, strict=True) for call in group.accept_calls(hyper)]
        accepted = [group.accepted(hyper) for group, hyper in zip(self, hypers, strict=True)]
        return [*calls, *self.edits.note_calls(accepted, [group.params for group in self])]

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
                f"param_groups has {counted(len(param_groups), 'entry', 'entries')}, the optimizer made "
                f"{len(self)}; put back the list with the dicts that it had (add_param_group adds a group, "
                f"remove_param_group takes one away)"
            )
        for i, (group, options) in enumerate(zip(self, param_groups, strict=True)):
            if options is not group.options:
                raise ValueError(f"param_groups[{i}] was replaced; edit the values of the dict instead")
        checked = [group.check_options() for group in self]
        Group.reserve_max(group for group, hyper in zip(self, checked, strict=True) if hyper.amsgrad)
        in_one_go([*self.accept_calls(checked), functools.partial(setattr, self, "version", self.version + 1)])


def _check_list(param_groups: Any) -> None:
    if not isinstance(param_groups, list):
        raise TypeError(f"param_groups must be the list that the optimizer made, got {param_groups!r}")
