"""Parameters that start anew: their moments, counters and averages are as if they had never been stepped."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from fastadam.groups.converting import copy_calls
from fastadam.groups.groups import Groups
from fastadam.memory.devices import device_of
from fastadam.memory.structs import AVERAGE
from fastadam.step.backend import Call


def start_anew_calls(groups: Groups, positions: Iterable[int]) -> list[Call]:
    """Return native calls that let parameters start anew.

    Averages begin as the parameters are, and so do masters: zeros beside a weight stand for the weight itself.

    Parameters
    ----------
    groups : Groups
    positions : iterable of int
        Of the parameters.
    """
    indices: dict[int, list[int]] = {}
    for position in sorted(set(positions)):
        group, index = groups.where[position]
        indices.setdefault(group.start, []).append(index)
    calls = groups.renew_calls()
    for group in groups:
        chosen = indices.get(group.start, [])
        if not chosen:
            continue
        group.check_unchanged()
        for index in chosen:
            for name in group.moments:
                if not group.has(name, index):
                    continue
                target = group.moment(name, index)
                if name == AVERAGE:
                    calls += copy_calls(group.members[index].array, target)
                else:
                    calls += device_of(target).clear_calls(target)
        steps = group.steps.copy()
        steps[np.array(chosen)] = 0
        own = {index: counts for index, counts in group.own_steps.items() if index not in chosen}
        calls += [*group.steps_calls(steps), functools.partial(setattr, group, "own_steps", own)]
    return calls
