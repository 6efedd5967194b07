"""What becomes of the groups behind one that is taken away, and of the nesting of its parameters."""

from __future__ import annotations

import copy

from fastadam.groups.group import Group
from fastadam.groups.members import whole_label


def moved(group: Group, start: int, number: int) -> Group:
    """Return a group at another place of the optimizer, with the same memory; the other one is not used any more.

    Parameters
    ----------
    group : Group
    start : int
        Position of its first member.
    number : int
        Of the group.
    """
    twin = copy.copy(group)  # another object, as what is made of a group knows the positions of its members
    twin.start, twin.where = start, group.where and f"param_groups[{number}]: "
    twin.members = [copy.copy(member) for member in group.members]
    for position, member in enumerate(twin.members, start):
        if member.name is None:
            member.label = f"parameter {position}"
    if group.whole is not None:
        twin.whole = copy.copy(group.whole)
        twin.whole.label = whole_label(twin.members[0])
    return twin
