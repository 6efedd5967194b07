"""Which backend steps what, where a step is taken on several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.device import Device
from fastadam.memory.host import HOST
from fastadam.step.backend import Backend


def share_out(devices: Sequence[Device], backends: Mapping[Device, Backend]) -> tuple[list[Backend], Array]:
    """Say which backend steps each span, as `fastadam.step.plan.Plan` takes it.

    Parameters
    ----------
    devices : sequence of Device
        Of each span.
    backends : mapping of Device to Backend

    Returns
    -------
    backends : list of Backend
        The host's comes first, where it takes part: it runs last, while the devices are at work.
    backend_of : ndarray of int64
        Each span's position in that list.
    """
    distinct = sorted(dict.fromkeys(devices), key=lambda device: device is not HOST)
    position_of = {device: position for position, device in enumerate(distinct)}
    return [backends[device] for device in distinct], np.array(
        [position_of[device] for device in devices], np.int64
    )
