"""The averages of an optimizer's parameters: which there are, and how they change places with the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.state import find, missing
from fastadam.memory.arrays import Array
from fastadam.memory.device import Device
from fastadam.memory.devices import check_parameter
from fastadam.memory.structs import AVERAGE
from fastadam.step.after import After, Averaging, check
from fastadam.step.backend import Call
from fastadam.step.interrupts import in_one_go
from fastadam.step.locks import Guard


class Averages(Mapping[Any, Array]):
    """The averages of the parameters over the steps, by parameter.

    Keys are the positions of all parameters; an array, a `Parameter` or a name finds its parameter too, and a
    packed buffer, ``flat`` or ``flat.param``, the flat array with the averages of all that is in it. A value is a
    live view in the parameter's shape: writing to it changes the average. It is empty where ``ema_decay`` is None.

    Parameters
    ----------
    groups : Groups
    guard : Guard
        The optimizer's.
    after : After
        What its steps do with numbers that they have stepped.
    catch_up : callable
        Lets all rows take the steps that they have missed.
    """

    def __init__(self, groups: Groups, guard: Guard, after: After, catch_up: Callable[[], None]) -> None:
        self._groups, self._guard, self._after, self._catch_up = groups, guard, after, catch_up

    def __getitem__(self, key: Any) -> Array:
        if not self._after.averages:
            raise KeyError(f"{key!r}: the optimizer keeps no averages; set ema_decay, such as to 0.999")
        for group in self._groups:
            if group.packed is not None and (key is group.packed or key is group.packed.param):
                (whole,) = group.moments[AVERAGE].values()
                return whole[...]
        position = find(self._groups, key)
        if position is None:
            raise KeyError(missing(self._groups, key))
        group, index = self._groups.where[position]
        return group.moment(AVERAGE, index)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._groups.where) if self._after.averages else 0

    def __repr__(self) -> str:
        return repr(dict(self))

    @property
    def choices(self) -> Averaging:
        """What was asked for."""
        return self._after.choices

    def choose(self, choices: Averaging) -> bool:
        """Take over other choices; return whether plans have to be bound anew, which is always so.

        Averages that are to be kept from now on begin as the parameters are.

        Raises
        ------
        TypeError, ValueError
            If one is not what it must be, or averages cannot be kept of a parameter.
        RuntimeError
            If a step is under way, or a block of `swapped`.
        MemoryError
            If there is not enough memory. All is as before then.
        """
        with self._guard.lock:
            self._guard.refuse_while_stepping("setting ema_decay or ema_warmup")
            choices = check(choices)
            keeps = choices.ema_decay is not None
            calls: list[Call] = []
            if keeps != self._after.averages:
                self._catch_up()
                groups = list(self._groups)
                buffers = [group.new_averages() if keeps else None for group in groups]
                for group, each in zip(groups, buffers, strict=True):
                    calls += group.average_calls(each)
                calls += self._groups.renew_calls()
            in_one_go([*calls, *self._after.choose_calls(choices)])
        return True

    def begin(self, groups: Iterable[Group]) -> None:
        """Begin the averages, if they are kept, of groups that the optimizer does not have yet."""
        if self._after.averages:
            for group in groups:
                in_one_go(group.average_calls(group.new_averages()))

    def swapped(self) -> Swapped:
        """Return the context manager in which averages and parameters have changed places.

        Raises
        ------
        ValueError
            If no averages are kept.
        """
        if not self._after.averages:
            raise ValueError("averaged() needs averages; set ema_decay, such as to 0.999, before the steps")
        return Swapped(self._groups, self._guard, self._catch_up)


class Swapped:
    """Has averages and parameters change places within a ``with`` block: their numbers, not the arrays.

    Whatever interrupts the way in or out, they have changed places or they have not; and however the block is
    left, they change back, at the latest when this object is dropped.

    Parameters
    ----------
    groups : Groups
    guard : Guard
        Of the optimizer: no step is taken within the block.
    catch_up : callable
        Lets all rows take the steps that they have missed, those after this was made included.
    """

    _calls: list[Call] | None = None  # what changes them back

    def __init__(self, groups: Groups, guard: Guard, catch_up: Callable[[], None]) -> None:
        self._groups, self._guard, self._catch_up = groups, guard, catch_up
        self._devices: list[Device] = []

    def __enter__(self) -> None:
        try:
            with self._guard.lock:
                self._guard.refuse_while_stepping("averaged")
                self._catch_up()
                for member in self._groups.members:
                    member.check_unchanged()
                    check_parameter(member.owner, member.label)
                # The views stay writable, and keep the memory alive, whatever becomes of the arrays meanwhile.
                pairs: dict[Device, list[tuple[Array, Array]]] = {}
                for group, index in self._groups.where:
                    pair = group.members[index].array, group.moment(AVERAGE, index)
                    pairs.setdefault(group.members[index].device, []).append(pair)
                self._devices = list(pairs)
                calls = [call for device in pairs for call in device.exchange_calls(pairs[device])]
                note = functools.partial(setattr, self, "_calls", calls)
                self._do([*calls, *self._guard.swap_calls(True), note])
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *raised: object) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise

    def __del__(self) -> None:
        if self._calls is not None:
            self._leave()

    def _leave(self) -> None:
        with self._guard.lock:
            if self._calls is not None:
                note = functools.partial(setattr, self, "_calls", None)
                self._do([*self._calls, *self._guard.swap_calls(False), note])

    def _do(self, calls: list[Call]) -> None:
        returned = in_one_go(calls)
        for device in self._devices:
            device.check_returned(returned)
