"""Which backend steps what: the one that was asked for, and those of the devices that parameters are on."""

from __future__ import annotations

from collections.abc import Iterable

from fastadam import backends
from fastadam.groups.members import Member


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
    in_use : dict of int or None to Backend
        For each CUDA device, and for the host, None.
    """

    def __init__(self, asked_for: str) -> None:
        self.asked_for = asked_for
        self.in_use: dict[int | None, backends.Backend] = {}
        self._host_name, chosen = backends.choose(asked_for)
        if self._host_name in backends.HOST:
            self.in_use[None] = chosen

    def name(self, members: Iterable[Member]) -> str:
        """Return the name of what steps these parameters, such as ``"c+cuda"``."""
        devices = {member.device for member in members}
        names = [self._host_name] if None in devices else []
        return "+".join([*names, "cuda"] if devices - {None} else names)

    def choose(self, members: Iterable[Member]) -> dict[int | None, backends.Backend]:
        """Return the backends, beyond those in use, of the devices that parameters are on.

        Raises
        ------
        ValueError
            If one is where the backend that was asked for steps nothing.
        """
        chosen: dict[int | None, backends.Backend] = {}
        for member in members:
            if member.device is None and self.asked_for == "cuda":
                raise ValueError(
                    f"{member.label} is a NumPy array, but the backend 'cuda' steps arrays on CUDA devices; use "
                    f"backend='auto', or lay it out there with fastadam.pack(..., device='cuda')"
                )
            if member.device is not None and self.asked_for not in ("auto", "cuda"):
                raise ValueError(
                    f"{member.label} is on a CUDA device, but the backend {self.asked_for!r} steps NumPy arrays; "
                    f"use backend='auto' or 'cuda'"
                )
            if member.device is not None and member.device not in self.in_use:
                chosen[member.device] = backends.on_device(member.device)
        return chosen
