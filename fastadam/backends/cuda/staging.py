"""What kernels read that changes from step to step: copied from pinned host memory to memory of the device.

The host's memory is used again only after the launch that reads the copy is done, so that the host never has to
wait for the device.
"""

from __future__ import annotations

import collections
import contextlib
from typing import Any

from fastadam.memory.arrays import address

# Steps that may be under way at once before the host waits for the oldest.
MOST_UNDER_WAY = 64


class Staging:
    """Room for as many copies as there are steps under way.

    Parameters
    ----------
    device : Gpu
    nbytes : int
        Of each copy.
    """

    def __init__(self, device: Any, nbytes: int) -> None:
        self._device, self._nbytes = device, nbytes
        self._slots = collections.deque(Slot(device, nbytes) for _ in range(2))

    def take(self) -> Slot:
        """Return a slot that no step under way reads."""
        device, slot = self._device, self._slots[0]
        if not device.passed(slot.event):
            more = None
            if len(self._slots) < MOST_UNDER_WAY:
                with contextlib.suppress(MemoryError):
                    more = Slot(device, self._nbytes)
            if more is None:
                device.wait(slot.event)
            else:
                self._slots.appendleft(slot := more)
        self._slots.rotate(-1)
        return slot


class Slot:
    """Pinned memory of the host and as much memory of the device.

    Attributes
    ----------
    pinned : ndarray of uint8
    source, target : int
        Addresses of the host's memory and the device's.
    event : object
        To be recorded behind the launch that reads the copy.
    version : int
        Of what was copied last; 0 at the beginning.
    """

    def __init__(self, device: Any, nbytes: int) -> None:
        self._device = device
        self.pinned = device.reserve_pinned(nbytes)
        self.source = address(self.pinned)
        self._memory, self.target = device.reserve(nbytes)
        self.event = device.event()
        self.version = 0

    def __del__(self) -> None:
        # Pinned memory must not be given back while a copy from it is under way.
        with contextlib.suppress(Exception), self._device.active():
            self._device.wait(self.event)
