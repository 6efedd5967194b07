"""What all conversions share: the state of an optimizer taken from elsewhere, or described for elsewhere."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.adam import Adam
from fastadam.groups.contents import Contents
from fastadam.groups.converting import Incoming, copy_calls
from fastadam.groups.matching import Described, match
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array
from fastadam.memory.devices import on_host
from fastadam.memory.structs import ROW_STEP
from fastadam.memory.words import counted
from fastadam.step.backend import Call
from fastadam.step.hyperparameters import KEYS, STAYING

# dtype -> those whose every number it holds exactly.
EXACT = {
    "float32": ("float32", "bfloat16", "float16"),
    "float64": ("float64", "float32", "bfloat16", "float16"),
    "complex64": ("complex64",),
    "complex128": ("complex128", "complex64"),
}


def holds(wide: str, narrow: str) -> bool:
    """Whether one dtype, given by its name, holds every number of another."""
    return narrow in EXACT.get(wide, (wide,))


class Source(NamedTuple):
    """What another library holds of one parameter.

    Attributes
    ----------
    name : str or None
        The parameter's name, where there are names.
    label : str
        How messages call it.
    step : object
        The step counter, not yet checked.
    moments : mapping
        Under our names; anything with ``shape`` and ``dtype``.
    """

    name: str | None
    label: str
    step: Any
    moments: Mapping[str, Any]

    def described(self) -> Described:
        """Return what there is to match."""
        return Described(self.name, self.label, [describe(moment) for moment in self.moments.values()])


def describe(array: Any) -> tuple[tuple[int, ...], str]:
    """Return shape and name of the dtype of an array of any library."""
    name = getattr(array.dtype, "name", None) or str(array.dtype).removeprefix("torch.")
    return tuple(map(int, array.shape)), str(name)


def check_optimizer(opt: Any) -> None:
    """Refuse what is no optimizer of this library."""
    if not isinstance(opt, Adam):
        raise TypeError(f"opt must be a fastadam.Adam, got {type(opt).__name__}")


def copy_numpy(target: Array, moment: Any, name: str, options: Mapping[str, Any]) -> None:
    """Copy a moment that NumPy can read."""
    target[...] = np.asarray(moment)


Copy = Callable[[Array, Any, str, Mapping[str, Any]], None]


def take_over(
    what: str,
    contents: Contents,
    groups: Sequence[tuple[Mapping[str, Any], Sequence[Source]]],
    copy: Copy = copy_numpy,
) -> None:
    """Check what another library holds, then write it to an optimizer.

    Parameters
    ----------
    what : str
        The conversion's name, for messages.
    contents : Contents
        Of the optimizer.
    groups : sequence of (mapping, sequence of Source)
        One for each of its groups, or one for all: options that take the place of the optimizer's, and what
        there is of its parameters.
    copy : callable, optional
        Copies a source's moment, the second argument, into an array, the first, converting dtypes; it is told
        the moment's name and the options of its group. It must not fail.

    Raises
    ------
    TypeError, ValueError
        If something does not fit; the optimizer is as before then.
    """
    current = contents.saved(copy=False)
    parts = [contents.members] if len(groups) == 1 else [group.members for group in contents.groups]
    sources = [source for _, found in groups for source in found]
    described = [[source.described() for source in found] for _, found in groups]
    try:
        matched = match(
            zip(described, parts, strict=True), "in the source", lambda theirs, ours: holds(ours, theirs)
        )
    except ValueError as error:
        raise ValueError(
            f"{what}: {error}; make opt over parameters of the same names and shapes, in a dtype that holds "
            f"every number of the source's"
        ) from error
    of = {id(member): sources[number] for member, number in matched}
    state: dict[str, Any] = {"state": {}, "param_groups": []}
    for i, (group, saved) in enumerate(zip(contents.groups, current["param_groups"], strict=True)):
        kept = {key: value for key, value in saved.items() if key != "param_names"}  # matched already
        options = {**kept, **groups[0 if len(groups) == 1 else i][0]}
        state["param_groups"].append(options)
        for position, member in enumerate(group.members, group.start):
            source = of[id(member)]
            if source.moments:
                state["state"][position] = {"step": source.step} | {
                    name: Incoming(
                        member.shape, member.dtype, functools.partial(_fill, copy, moment, name, options)
                    )
                    for name, moment in source.moments.items()
                }
    contents.take_over(state)


def _fill(copy: Copy, moment: Any, name: str, options: Mapping[str, Any], target: Array) -> list[Call]:
    """Read a moment of another library; return native calls that copy it into an array, wherever that is."""
    numbers = np.empty(target.shape, target.dtype)
    copy(numbers, moment, name, options)
    return copy_calls(numbers, target)


def pair(what: str, members: Sequence[Member], targets: Sequence[Described]) -> list[int]:
    """Return, for each parameter elsewhere, the position of the one here that belongs to it.

    Raises
    ------
    ValueError
        If the parameters do not fit there.
    """
    try:
        matched = match([(targets, members)], "in the target", holds)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    position = {id(member): i for i, member in enumerate(members)}
    position_of = {number: position[id(member)] for member, number in matched}
    return [position_of[number] for number in range(len(targets))]


def common_options(what: str, current: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that all groups have, for libraries that have no groups.

    Raises
    ------
    ValueError
        If they differ.
    """
    first, *others = current["param_groups"]
    for i, group in enumerate(others, 1):
        for key in KEYS:
            # How the state is kept, and with which random bits, is nothing that the target could take up.
            if key not in (*STAYING, "seed") and group[key] != first[key]:
                raise ValueError(
                    f"{what}: {key} is {first[key]!r} in param_groups[0] and {group[key]!r} in "
                    f"param_groups[{i}], but there are no groups in the target; make them the same"
                )
    return dict(first)


def common_step(what: str, current: Mapping[str, Any], members: Sequence[Member], most: int) -> int:
    """Return the one step counter that all parameters have, for libraries that have only one.

    Raises
    ------
    ValueError
        If they differ, or there are more steps than the library can count.
    """
    steps = [int(current["state"].get(i, {"step": 0})["step"]) for i in range(len(members))]
    if min(steps) != max(steps):
        low, high = (members[steps.index(value)].label for value in (min(steps), max(steps)))
        raise ValueError(
            f"{what}: {low} has taken {counted(min(steps), 'step')} and {high} {max(steps)}, but there is one "
            f"counter for all; convert optimizers that have stepped all parameters alike"
        )
    if steps[0] > most:
        raise ValueError(f"{what}: {steps[0]} steps were taken, the counter there ends at {most}")
    return steps[0]


def moment_of(current: Mapping[str, Any], position: int, name: str, member: Member) -> Array:
    """Return a copy of a moment on the host; zeros where the parameter was never stepped."""
    entry = current["state"].get(position)
    if entry is None:
        return np.zeros(member.shape, member.dtype)
    found: Array = on_host(entry[name])
    # Compact state is decoded to float32, and goes to a parameter of float64 without a loss.
    is_wider = found.dtype.kind == member.dtype.kind and found.dtype.itemsize < member.dtype.itemsize
    return found.astype(member.dtype if is_wider else found.dtype)


def saved_for(contents: Contents, what: str) -> dict[str, Any]:
    """Return the state dict for another library, with numbers in place of compact state; warn of what is lost.

    Parameters
    ----------
    contents : Contents
    what : str
        The name of the conversion.
    """
    saved = contents.saved(copy=False, decode=True)
    for position, entry in saved["state"].items():
        steps = entry.pop(ROW_STEP, None)
        if steps is not None:
            warnings.warn(
                f"{what}: the step counters of the rows of {contents.members[position].label} are lost, which are "
                f"{steps.min()} to {steps.max()}: there all of it counts {entry['step']} steps from now on, and "
                f"bias correction of rows that have taken less is another one",
                UserWarning,
                stacklevel=3,
            )
    return saved
