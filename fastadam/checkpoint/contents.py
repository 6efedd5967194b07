"""What a checkpoint holds: an optimizer's tensors, as they are, and what the metadata say of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastadam.checkpoint.format import PARAM, check_unchanged, stored_shape
from fastadam.groups.contents import Contents
from fastadam.groups.group import Group
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.structs import KEPT, ROW_STEP
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import PRECISION

_KINDS = (PARAM, ROW_STEP, *KEPT)
NOTE = "lr is null where it was a function, which a file cannot hold"


def definition_of(lr: Any) -> dict[str, Any] | None:
    """Return the definition of a schedule that has one; None of numbers and other functions."""
    if not callable(lr):
        return None
    from fastadam.schedules import Schedule  # not imported where there is none

    try:
        return lr.to_dict() if isinstance(lr, Schedule) else None
    except TypeError:  # of a class of the user's own
        return None


def encode_extra(extra: Any) -> str:
    """Return what the user wants to save along as JSON.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, or would not come back as it is.
    """
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra must be a mapping, got {extra!r} of type {type(extra).__name__}")
    plain = dict(extra)
    try:
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"extra cannot be saved as JSON: {error}; use finite numbers, strings, lists, dicts") from error
    # Without this, numbers as keys and tuples would silently come back as strings and lists.
    if json.loads(text) != plain:
        raise ValueError(
            f"extra would be another one after loading, {text:.200}; use strings as keys, and lists for tuples"
        )
    return text


class Tensor(NamedTuple):
    """A tensor to be saved, or the part of one that this process has.

    Attributes
    ----------
    name : str
    reals : ndarray
        Live, 1-D.
    shape : list of int
        That of all of it.
    first : int
        Where the part begins in it, in bytes.
    nbytes : int
        How many all of it has.
    """

    name: str
    reals: Array
    shape: list[int]
    first: int
    nbytes: int


class Collected:
    """What is saved of an optimizer, looked up each time it is asked for: a list of all would take much memory.

    Parameters
    ----------
    contents : Contents
        Of the optimizer, which nobody else uses meanwhile.
    params : bool
        Whether the parameters are saved, too.

    Raises
    ------
    TypeError, ValueError
        If an option has been edited to something that it cannot be, a parameter was changed in place, or a name
        cannot be saved.
    """

    def __init__(self, contents: Contents, params: bool) -> None:
        contents.catch_up()
        self._groups, self._params = contents.groups, params
        self._keys: list[str] = []
        for member in contents.members:
            check_unchanged(member.whole)
            key = str(len(self._keys)) if member.name is None else member.name
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the name of {member.label} cannot be saved as UTF-8: {error}") from error
            self._keys.append(key)
        self._places = [(group, index) for group in self._groups for index in range(len(group.members))]
        self._by_key = sorted(range(len(self._keys)), key=self._keys.__getitem__)
        found = {self._reals(kind, place).itemsize for kind in _KINDS for place in self._having(kind)}
        self._sizes = sorted(found, reverse=True)

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors.

        In the library's own order: wide numbers first, so that all of them are aligned in the file, then by name.
        """
        for size in self._sizes:
            for kind in sorted(_KINDS, key=lambda kind: f"{kind}/"):
                for place in self._having(kind):
                    reals = self._reals(kind, place)
                    if reals.itemsize == size:
                        group, index = self._places[place]
                        member = group.members[index]
                        kept = group.kept[member.buffer_key][kind] if kind in KEPT else None
                        shape = stored_shape(member.whole.shape, ALL_DTYPES[member.dtype], kept)
                        if kind == ROW_STEP:
                            shape = [len(reals)]
                        first = self._first(kind, group, index) * reals.itemsize
                        nbytes = math.prod(shape) * reals.itemsize
                        yield Tensor(f"{kind}/{self._keys[place]}", reals, shape, first, nbytes)

    def _having(self, kind: str) -> Iterator[int]:
        """Yield the places of the parameters of which there is such a tensor, by name."""
        for place in self._by_key:
            group, index = self._places[place]
            if kind == PARAM:
                is_there = self._params
            elif kind == ROW_STEP:
                is_there = group.is_apart(index)
            else:
                is_there = bool(group.has(kind, index) and group.step_of(index))
            if is_there:
                yield place

    def _reals(self, kind: str, place: int) -> Array:
        group, index = self._places[place]
        member = group.members[index]
        if kind == ROW_STEP:
            return group.own_steps[index]
        return member.device.as_reals(member.array if kind == PARAM else group.moment(kind, index))

    def _first(self, kind: str, group: Group, index: int) -> int:
        """Return the number of the first real number that is kept here, of all that are in the tensor."""
        member = group.members[index]
        reals = ALL_DTYPES[member.dtype].reals
        if kind in (PARAM, ROW_STEP):  # of the latter there are none where members are pieces
            return member.first * reals
        (first,) = group.first_of(kind, index) or (0,)
        return first if group.is_compact(kind, index) else first * reals

    def groups(self) -> str:
        """Return what the metadata say of groups, as JSON."""
        return f"[{', '.join(map(_group, self._groups))}]"


def _group(group: Group) -> str:
    options = group.accepted()
    # Left out where they are not used: older versions do not know them.
    is_plain = all(options[name] == default for name, default in PRECISION.items())
    kept = {name: options[name] for name in hyperparameters.KEYS if not (is_plain and name in PRECISION)}
    kept["lr"] = None if callable(kept["lr"]) else kept["lr"]
    members = (
        json.dumps(
            {
                "name": member.name,
                "shape": list(member.whole.shape),
                "dtype": member.dtype.name,
                "step": int(group.step_of(index)),
            }
        )
        for index, member in enumerate(group.members)
    )
    return f'{json.dumps(kept, allow_nan=False)[:-1]}, "params": [{", ".join(members)}]}}'
