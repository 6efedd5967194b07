"""What changes the parameters of an optimizer: their rows, their state, and whether they are in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastadam.groups.groups import Groups
from fastadam.groups.resizing import read_numbers, resized, rows_of
from fastadam.groups.starting import start_anew_calls
from fastadam.groups.state import find, missing
from fastadam.memory.devices import is_array
from fastadam.memory.packed import Packed, empty_calls
from fastadam.memory.parameter import Parameter, exchange_calls
from fastadam.memory.words import a_name_of, shown
from fastadam.step.interrupts import in_one_go
from fastadam.work.saving import Saving


class Growth(Saving):
    """The methods for it; see docs/guides/growth.md."""

    __slots__ = ()

    def resize(self, key: Any, keep: Any = None, grow: Any = 0) -> Any:
        """Give a parameter other rows, slices along its first axis: prune, reorder, duplicate or extend it.

        Its moments, averages, masters and the counters of its rows move with it. The arrays from before stay as
        they are, and are not stepped any more: put what is returned where the model holds them. So do views of
        the moments that ``optimizer.state`` has given.

        Parameters
        ----------
        key : int, str, ndarray or Parameter
            The parameter: its position, its name, or itself.
        keep : array_like, optional
            1-D: the numbers of the rows that stay, in their new order, in which one that is there twice is copied
            with all of its state; or a boolean for each row. None keeps all of them.
        grow : int or array_like, default 0
            How many rows to add behind those, of zeros, with a state of zeros. Or the numbers, 1-D, of their
            parents, counted before anything is taken away: one row for each, with its values, average and master,
            and moments and counter of zero. The step counter of the parameter stays.

        Returns
        -------
        ndarray, Parameter or Packed
            The new array, of the same dtype on the same device; for a `Parameter` itself, which has new ``data``,
            and None as ``grad``; for one in a packed buffer the new buffer, with gradients of zero.

        Raises
        ------
        KeyError
            If there is no such parameter.
        TypeError, ValueError
            If there are no such rows, or a parameter was changed in place; over MPI.
        MemoryError, OSError
            If there is not enough room for both the old and the new arrays of its group.
        RuntimeError
            If a step is under way. In all these cases everything is as before.

        Notes
        -----
        ``state_dtype="int8"`` has a scale for each 64 numbers. Where rows are not of so many, or of a multiple,
        and `keep` is given, the moments are rounded anew, to nearest.

        Examples
        --------
        >>> import numpy as np, fastadam
        >>> points = np.arange(6.0).reshape(3, 2)
        >>> optimizer = fastadam.Adam({"points": points})
        >>> optimizer.resize("points", keep=[2, 0], grow=1)
        array([[4., 5.],
               [0., 1.],
               [0., 0.]])
        """
        keep, grow = read_numbers(keep, "keep"), read_numbers(grow, "grow")
        with self._exclusive("resize") as contents:
            contents.catch_up()
            groups, planner = self._groups, self._planner
            group, index = groups.where[_position(groups, key)]
            rows = rows_of(group.members[index], keep, grow)
            new = resized(group, index, rows, catches_up=groups.catches_up)
            exchanged = {
                id(was.owner): now.owner
                for was, now in zip(group.members, new.members, strict=True)
                if was.owner is not now.owner
            }
            returned = new.members[index].given if new.packed is None else new.packed
            calls = [
                *groups.resize_calls(group, new),
                *planner.containers.resize_calls(exchanged),
                *planner.let_go_calls(),
            ]
            if isinstance(returned, Parameter):
                calls += exchange_calls(returned, new.members[index].owner)
            if group.packed is not None:
                calls += empty_calls(group.packed)
            in_one_go(calls)
        return returned

    def reset(self, keys: Any = None) -> None:
        """Let parameters start anew, as a new optimizer would step them: with moments and step counters of zero.

        Averages begin as the parameters are by now, and so do the masters of 16-bit parameters.

        Parameters
        ----------
        keys : int, str, ndarray, Parameter or Packed, or iterable of these, optional
            The parameters: their positions, names, or themselves; or all in a packed buffer. None stands for all.

        Raises
        ------
        KeyError
            If there is no such parameter.
        TypeError, ValueError
            If `keys` is none of that, or a parameter was changed in place; over MPI.
        RuntimeError
            If a step is under way. In all these cases everything is as before.
        """
        if isinstance(keys, Mapping):
            raise TypeError(
                f"keys must be parameters, their names or positions, got {a_name_of(keys)}; give list(keys)"
            )
        if keys is not None and (_is_one(keys) or not isinstance(keys, Iterable)):
            keys = [keys]
        keys = None if keys is None else list(keys)
        with self._exclusive("reset"):
            groups = self._groups
            positions: list[int] = list(range(len(groups.where)))
            if keys is not None:
                positions = [position for key in keys for position in _positions(groups, key)]
            returned = in_one_go(start_anew_calls(groups, positions))
            for device in dict.fromkeys(member.device for member in groups.members):
                device.check_returned(returned)

    def remove_param_group(self, index: int) -> dict[str, Any]:
        """Take a group of parameters away, with its state and its names.

        The parameters behind it move down in position: those of ``optimizer.state``, state dicts and gradients in
        a list. What is rounded at random (`state_dtype`, `rounding`) depends on the position, so that their steps
        are rounded to other bits from then on.

        Parameters
        ----------
        index : int
            Of the group in ``optimizer.param_groups``.

        Returns
        -------
        dict
            The group, as it was in ``optimizer.param_groups``. Its parameters stay as they are.

        Raises
        ------
        TypeError, ValueError
            If there is no such group, or no other; over MPI.
        RuntimeError
            If a step is under way. In all these cases everything is as before.
        """
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"index must be the number of a group in param_groups, got {shown(index)}")
        number = index.__index__()
        with self._exclusive("remove_param_group") as contents:
            contents.catch_up()
            groups, planner = self._groups, self._planner
            if not 0 <= number < len(groups):
                raise ValueError(
                    f"index must be the number of a group in param_groups, 0 to {len(groups) - 1}, got {number}"
                )
            if len(groups) == 1:
                raise ValueError(
                    "the optimizer has one group, and needs one; add another before (add_param_group), or make a "
                    "new optimizer"
                )
            gone = groups[number]
            left = [member for group in groups if group is not gone for member in group.members]
            given = [each for member in gone.members for each in (member.given, member.owner)]
            options: dict[str, Any] = gone.options
            in_one_go(
                [
                    *groups.remove_calls(number, self.param_groups),
                    *planner.containers.remove_calls(given),
                    *planner.let_go_calls(),
                    *self._choice.drop_calls(left),
                ]
            )
        return options


def _is_one(key: Any) -> bool:
    """Whether a value is one key, and not several."""
    return isinstance(key, str | Parameter | Packed) or is_array(key)


def _position(groups: Groups, key: Any) -> int:
    position = find(groups, key)
    if position is None:
        raise KeyError(missing(groups, key))
    return position


def _positions(groups: Groups, key: Any) -> list[int]:
    """Return the positions that a key stands for: of a packed buffer, those of all that is in it."""
    for group in groups if isinstance(key, Packed) else ():
        if group.packed is key:
            return list(range(group.start, group.start + len(group.members)))
    return [_position(groups, key)]
