"""A parameter of another number of rows: a group as it is with it, beside the one that there is.

Rows are slices along the first axis. What belongs to them in a parameter moves with them: values, moments,
averages, masters and the counters of rows. Nothing that the old group has is written to.
"""

from __future__ import annotations

import copy
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array
from fastadam.memory.devices import check_parameter, is_array, on_host
from fastadam.memory.formats import Format
from fastadam.memory.packed import Packed
from fastadam.memory.parameter import Parameter
from fastadam.memory.remedies import COPIED, lost_meaning
from fastadam.memory.structs import AVERAGE, MASTER, SCALE_BLOCK, SCALES
from fastadam.memory.words import a_name_of, counted, shown
from fastadam.step.compact_arrays import decode, encode
from fastadam.step.precision import CODES
from fastadam.step.quiet import Quiet

# What new rows have of their parents; the rest of their state is zero.
INHERITED = (AVERAGE, MASTER)


class Rows(NamedTuple):
    """Which rows a parameter has from now on: some of those that it had, and new ones behind them.

    Attributes
    ----------
    n : int
        How many it had.
    keep : ndarray of intp or None
        Those that stay, in their new order; None for all as they are.
    parents : ndarray of intp or None
        Of each new row; None where their values are zero.
    grown : int
        How many new ones there are.
    """

    n: int
    keep: Array | None
    parents: Array | None
    grown: int

    @property
    def kept(self) -> int:
        """How many of those that it has are old ones."""
        return self.n if self.keep is None else len(self.keep)

    @property
    def total(self) -> int:
        """How many it has."""
        return self.kept + self.grown

    def moved(self, old: Array, *, inherits: bool) -> Array:
        """Return what belongs to the rows from now on, on the host.

        Parameters
        ----------
        old : array, shape (n, ...)
        inherits : bool
            Whether new rows have it of their parents; else it is zero.
        """
        old = on_host(old)
        new = np.zeros((self.total, *old.shape[1:]), old.dtype)
        self.move(old, new, math.prod(old.shape[1:]), inherits=inherits)
        return new

    def move(self, old: Array, new: Array, width: int, *, inherits: bool) -> None:
        """Write what belongs to the rows from now on into zeros.

        Parameters
        ----------
        old, new : array
            C-contiguous, of `n` and `total` times `width` numbers.
        width : int
        inherits : bool
            As for `moved`.
        """
        if not width or not self.total:
            return
        source = on_host(old).reshape(-1).view(np.uint8).reshape(self.n, width * old.dtype.itemsize)
        ready = new if isinstance(new, np.ndarray) else np.zeros(new.shape, new.dtype)
        target = ready.reshape(-1).view(np.uint8).reshape(self.total, source.shape[1])
        if self.keep is None:
            target[: self.n] = source
        else:  # "clip", as others copy what they have taken once more; all numbers have been checked
            np.take(source, self.keep, axis=0, out=target[: self.kept], mode="clip")
        if inherits and self.parents is not None:
            np.take(source, self.parents, axis=0, out=target[self.kept :], mode="clip")
        if ready is not new:
            new[...] = ready


def read_numbers(value: Any, name: str) -> Any:
    """Return `keep` or `grow` of `fastadam.Adam.resize` as None, an int, or a copy in a 1-D array.

    Raises
    ------
    TypeError, ValueError
        If it cannot be any of these; whether there are such rows is looked at later.
    """
    if value is None:
        return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if not is_array(value):
        try:
            found = np.asarray(value)
        except Exception as error:
            raise TypeError(f"{name} must be {_WANTED[name]}, got {a_name_of(value)}") from error
    else:
        found = on_host(value)
    if isinstance(value, list | tuple) and not value:
        found = np.zeros(0, np.intp)
    lost = lost_meaning(value, COPIED) if isinstance(value, np.ndarray) else None
    if lost is not None:
        raise TypeError(f"{name} {lost}")
    if found.dtype.kind not in "iub":
        raise TypeError(
            f"{name} must be {_WANTED[name]}, got {_described(value, found)}; {_remedy_for_kind(name, found)}"
        )
    if found.ndim != 1:
        raise ValueError(
            f"{name} must be {_WANTED[name]}, got an array of shape {found.shape}; give it with one axis"
        )
    return np.array(found)


_WANTED = {
    "keep": "a 1-D array of row numbers (integers), a boolean for each row, or None for all rows",
    "grow": "how many rows to add (an int), or a 1-D array of their parents' row numbers (integers)",
}


def _described(value: Any, found: Array) -> str:
    return shown(value) if not found.ndim else f"{a_name_of(value)} of {found.dtype}"


def _remedy_for_kind(name: str, found: Array) -> str:
    if found.dtype.kind == "f":
        return f"convert it: np.asarray({name}, np.int64)"
    return "convert it to integers"


def rows_of(member: Member, keep: Any, grow: Any) -> Rows:
    """Return the rows that a parameter is to have.

    Parameters
    ----------
    member : Member
    keep, grow : None, int or ndarray
        What `read_numbers` has returned.

    Raises
    ------
    TypeError, ValueError
        If there are no such rows, or the parameter has none.
    """
    label = member.label
    if not member.shape:
        raise ValueError(
            f"{label} has no rows: it is a single number, of shape (); make an optimizer over an array of shape "
            f"(1,) for it"
        )
    n = member.shape[0]
    if isinstance(keep, int):
        raise TypeError(f"keep must be {_WANTED['keep']}, got {keep}; for the first rows, give range({keep})")
    if keep is not None:
        if keep.dtype.kind == "b":
            if len(keep) != n:
                raise ValueError(
                    f"keep has {counted(len(keep), 'boolean')}, and {label} has {counted(n, 'row')}; give one for "
                    f"each row"
                )
            keep = np.flatnonzero(keep)
        keep = _checked(keep, n, "keep", label)
    if grow is None:
        raise TypeError(f"grow must be {_WANTED['grow']}, got None; leave it out to add none")
    if isinstance(grow, int):
        if grow < 0:
            raise ValueError(
                f"grow must be at least 0, got {grow}; to take rows away, give the others in keep, such as "
                f"keep=range({max(0, n + grow)})"
            )
        return Rows(n, keep, None, grow)
    if grow.dtype.kind == "b":
        raise TypeError(
            f"grow must be {_WANTED['grow']}, got booleans; for those rows as parents, give np.flatnonzero(grow)"
        )
    return Rows(n, keep, _checked(grow, n, "grow", label), len(grow))


def _checked(numbers: Array, n: int, name: str, label: str) -> Array:
    if len(numbers):
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= n:
            remedy = "; count from the start, as negative ones are taken for a mistake" if low < 0 else ""
            there = f"the rows 0 to {n - 1}" if n else "no rows"
            raise ValueError(f"{name} has the row {low if low < 0 else high}, and {label} has {there}{remedy}")
    return numbers.astype(np.intp)


def resized(group: Group, index: int, rows: Rows, *, catches_up: bool = False) -> Group:
    """Return a group as another one is, in which a member has other rows.

    Parameters
    ----------
    group : Group
        With the same options and counters from now on.
    index : int
        Of the member.
    rows : Rows
    catches_up : bool, default False
        Whether rows take the steps that they miss, and have taken them by now: then all of them go on with the
        counter of the member, new ones included.

    Raises
    ------
    TypeError, ValueError
        If a parameter of it was changed in place.
    MemoryError, OSError
        If there is not enough room for both.
    """
    member = group.members[index]
    _check(group, member)
    shape = (rows.total, *member.shape[1:])
    if math.prod(shape) * member.dtype.itemsize > sys.maxsize // 2:
        raise MemoryError(f"{member.label} of shape {shape} is larger than any memory")
    twin = copy.copy(group)
    if group.packed is None:
        array: Any = member.device.zeros(math.prod(shape), member.dtype, "param").reshape(shape)
        twin.members = list(group.members)
        twin.members[index] = _over(member, array)
        twin.given = list(group.given)
        value = twin.members[index].given
        twin.given[index] = value if member.name is None else (member.name, value)
    else:
        _pack_anew(twin, group, index, shape)
        array = twin.members[index].array
    rows.move(member.array, array, math.prod(shape[1:]), inherits=True)
    twin.renew_params()
    _move_state(twin, group, index, rows)
    _move_counters(twin, group, index, rows, catches_up)
    return twin


def _check(group: Group, member: Member) -> None:
    group.check_unchanged()
    now = check_parameter(member.owner, member.label)
    if now.shape != member.shape:
        raise ValueError(
            f"{member.label} had the shape {member.shape} when the optimizer took it, and has {now.shape} now; "
            f"give it back its shape, as its rows are not known"
        )


def _over(member: Member, array: Any) -> Member:
    """Return a member as another one, over another array; a `Parameter` is to have that, too."""
    new = Member(array, member.name, member.label)
    if isinstance(member.given, Parameter):
        new.given = new.grad_source = member.given
    return new


def _pack_anew(twin: Group, group: Group, index: int, shape: tuple[int, ...]) -> None:
    """Give a group a packed buffer in which one array has another shape, and is zero."""
    old = group.packed
    assert old is not None
    assert group.whole is not None
    shapes = [*old.shapes[:index], shape, *old.shapes[index + 1 :]]
    packed = Packed(shapes, old.nesting, old.classes, group.whole.dtype, group.whole.device)
    for place, (view, member) in enumerate(zip(packed.param_views, group.members, strict=True)):
        if place != index:
            view[...] = member.array
    each = zip(packed.param_views, packed.grad_views, group.members, strict=True)
    twin.members = [Member(view, member.name, member.label, grad) for view, grad, member in each]
    twin.whole = Member(packed.param, None, group.whole.label, packed.grad)
    twin.packed = twin.given = packed


def _move_state(twin: Group, group: Group, index: int, rows: Rows) -> None:
    """Give a group state of its own, with the numbers of another one in their new places."""
    twin.lay_out()
    key = group.members[index].buffer_key
    twin.moments = {}
    for name, buffers in group.moments.items():
        twin.moments[name] = dict(buffers)
        if key not in buffers:
            continue
        (new,) = twin.zeros(name, key).values()
        old = twin.moments[name][key]
        twin.moments[name][key] = new
        start, n_old, n_new = group.place(name, index), group.length(name, index), twin.length(name, index)
        new[:start] = old[:start]
        new[start + n_new :] = old[start + n_old :]
    for name in twin.moments:
        if twin.has(name, index) and name not in SCALES.values():
            if SCALES.get(name, "") in twin.kept[key]:
                _move_codes(twin, group, index, name, rows)
            else:
                _move_numbers(twin, group, index, name, rows)


def _move_counters(twin: Group, group: Group, index: int, rows: Rows, catches_up: bool) -> None:
    own = dict(group.own_steps)
    counts = own.pop(index, None)
    if counts is not None and not catches_up:
        own[index] = rows.moved(counts, inherits=False)
    twin.own_steps = own


def _move_numbers(twin: Group, group: Group, index: int, name: str, rows: Rows) -> None:
    old, new = group.moment(name, index), twin.moment(name, index)
    rows.move(old, new, math.prod(old.shape[1:]), inherits=name in INHERITED)


def _move_codes(twin: Group, group: Group, index: int, name: str, rows: Rows) -> None:
    """Move what lies in blocks, which count from the start of the parameter.

    As it is where no block changes what it is for: all rows stay where they are, or each is of whole blocks.
    Otherwise it is decoded, moved and encoded, and its numbers are rounded to nearest.
    """
    codes, new_codes = group.moment(name, index), twin.moment(name, index)
    scales, new_scales = group.moment(SCALES[name], index), twin.moment(SCALES[name], index)
    width = math.prod(codes.shape[1:])
    if width % SCALE_BLOCK == 0:
        rows.move(codes, new_codes, width, inherits=False)
        rows.move(scales, new_scales, width // SCALE_BLOCK, inherits=False)
    elif rows.keep is None:
        rows.move(codes, new_codes, width, inherits=False)
        new_scales[: len(scales)] = scales
    else:
        made = Quiet().run(_encoded_anew, on_host(codes), on_host(scales), CODES[name], rows)
        new_codes[...], new_scales[...] = made


def _encoded_anew(codes: Array, scales: Array, number_format: Format, rows: Rows) -> tuple[Array, Array | None]:
    return encode(rows.moved(decode(codes, scales, number_format), inherits=False), number_format)
