"""Which backend steps what, where a step is taken on several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.device import Device
from fastadam.memory.host import HOST

if TYPE_CHECKING:
    from fastadam.backends import Backend


def share_out(
    devices: Sequence[Device], backends: Mapping[Device, Backend]
) -> tuple[Backend, list[tuple[Backend, Array]]]:
    """Say which backend steps each span, as `fastadam.step.plan.Plan` takes it.

    Parameters
    ----------
    devices : sequence of Device
        Of each span.
    backends : mapping of Device to Backend

    Returns
    -------
    backend : Backend
        The host's, where it takes part: it runs last, while the devices are at work.
    elsewhere : list of (Backend, ndarray of bool)
        The other ones, and their spans.
    """
    distinct = list(dict.fromkeys(devices))
    last = HOST if HOST in distinct else distinct[0]
    return backends[last], [
        (backends[each], np.array([device is each for device in devices])) for each in distinct if each is not last
    ]
