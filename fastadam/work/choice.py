"""Which backend steps what: the one that was asked for, and those of the devices that parameters are on."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from fastadam import backends
from fastadam.groups.members import Member
from fastadam.memory.device import Device
from fastadam.memory.host import HOST
from fastadam.step.backend import Backend, BackendName, Call


class Choice:
    """The backends of one optimizer.

    Parameters
    ----------
    asked_for : str
        Name of a backend, or ``"auto"``.

    Raises
    ------
    ValueError
        If there is no such backend.
    BackendUnavailableError
        If it cannot be used here.

    Attributes
    ----------
    asked_for : str
    in_use : dict of Device to Backend
        For each device that a parameter is on.
    """

    def __init__(self, asked_for: BackendName) -> None:
        backends.choose(asked_for)  # refuses what there is not
        self.asked_for = asked_for
        self.in_use: dict[Device, Backend] = {}
        self._names: dict[Device, str] = {}

    @property
    def name(self) -> str:
        """Name of what is in use, such as ``"c+cuda"``."""
        host_first = sorted(self._names, key=lambda device: device is not HOST)
        return "+".join(dict.fromkeys(self._names[device] for device in host_first))

    def exchange_calls(self, asked_for: BackendName, members: Iterable[Member]) -> list[Call]:
        """Return native calls that take another backend from now on.

        Raises
        ------
        ValueError, BackendUnavailableError
            As the constructor and `choose` do.
        """
        other = Choice(asked_for)
        chosen = other.choose(members)
        return [functools.partial(setattr, self, "asked_for", asked_for), *self.add_calls(chosen)]

    def choose(self, members: Iterable[Member]) -> dict[Device, tuple[str, Backend]]:
        """Return the backends, beyond those in use, of the devices that parameters are on, and their names.

        Raises
        ------
        ValueError
            If one is where the backend that was asked for steps nothing.
        """
        chosen: dict[Device, tuple[str, Backend]] = {}
        for member in members:
            if member.device not in self.in_use and member.device not in chosen:
                backends.check_serves(self.asked_for, member.device, member.label)
                chosen[member.device] = backends.on_device(member.device, self.asked_for)
        return chosen

    def add_calls(self, chosen: dict[Device, tuple[str, Backend]]) -> list[Call]:
        """Return native calls that enter backends which `choose` has returned."""
        backends_of = {device: backend for device, (_, backend) in chosen.items()}
        names = {device: name for device, (name, _) in chosen.items()}
        return [
            functools.partial(self.in_use.update, backends_of),
            functools.partial(self._names.update, names),
        ]

    def drop_calls(self, members: Iterable[Member]) -> list[Call]:
        """Return native calls that drop what none of these members is on."""
        used = {member.device for member in members}
        unused = [device for device in self.in_use if device not in used]
        return [
            functools.partial(each.pop, device, None) for device in unused for each in (self.in_use, self._names)
        ]
