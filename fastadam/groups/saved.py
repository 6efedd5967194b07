"""The state dict: options, moments and step counters in torch's layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam.groups.groups import Groups
from fastadam.groups.state import decoded
from fastadam.memory.devices import on_host


def state_dict(groups: Groups, *, copy: bool, decode: bool = False) -> dict[str, Any]:
    """Return the groups' state in torch's layout (see `fastadam.Adam.state_dict`).

    Parameters
    ----------
    groups : Groups
    copy : bool
        Whether to copy the moments; without it, those in the dict are the live ones.
    decode : bool, default False
        Whether numbers are to take the place of compact state (see `decoded`).
    """
    state = {}
    saved_groups = []
    for group in groups:
        for index in np.flatnonzero(group.steps).tolist():
            entry = decoded(group, index) if decode else group.entry(index)
            if copy:
                entry = {key: on_host(value, copy=True) for key, value in entry.items()}
            state[group.start + index] = entry
        saved = {**group.accepted(), "params": list(range(group.start, group.start + len(group.members)))}
        if "param_names" in saved:
            saved["param_names"] = list(saved["param_names"])
        saved_groups.append(saved)
    return {"state": state, "param_groups": saved_groups}
