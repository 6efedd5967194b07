"""Which device an array is on: the only place that knows which kinds of memory there are.

``kind_of(value)`` is for what users give, and returns the class that can check it. ``device_of(array)`` is for
arrays that were checked. Other kinds of memory than the host's are found by name, once something turns up that is
no NumPy array; an installation can do without them.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.device import Device
from fastadam.memory.errors import BackendUnavailableError
from fastadam.memory.host import HOST, Host
from fastadam.memory.jax_arrays import refuse_parameter

# The module of each other kind of memory, by the name that `fastadam.pack` takes; its class is KIND.
MODULES = {"cuda": "fastadam.memory.cuda.device"}
NOT_INSTALLED = "this installation of fastadam was made without it"


_kinds: dict[str, type[Device] | None] = {}


def _kind(name: str) -> type[Device] | None:
    """Return the class of a kind of memory other than the host's, or None where its module is not installed."""
    if name not in _kinds:
        module = import_if_there(MODULES[name])
        # A signal's handler may ask in the middle of the import: nothing of that kind is in use yet.
        if module is not None and not hasattr(module, "KIND"):
            return None
        _kinds[name] = None if module is None else module.KIND
    return _kinds[name]


def import_if_there(name: str) -> Any:
    """Import a module of this package; return None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something else
        return None


def kind_of(value: Any) -> type[Device]:
    """Return the kind of memory that `value` is in if it is an array; the host's refuses all that is none."""
    # No library's arrays are of a built-in type: a list, say, needs no other kind of memory to be imported.
    if not isinstance(value, np.ndarray | np.generic) and type(value).__module__ != "builtins":
        for name in MODULES:
            kind = _kind(name)
            if kind is not None and kind.holds(value):
                return kind
    return Host


def device_of(array: Any) -> Device:
    """Return the device of an array that was checked."""
    return HOST if isinstance(array, np.ndarray) else kind_of(array).of(array)


def is_array(value: Any) -> bool:
    """Whether `value` is an array on any device."""
    return kind_of(value).holds(value)


def check_parameter(value: Any, label: str) -> Array:
    """Return `value` as an array that a kernel may update in place (see `fastadam.memory.arrays`)."""
    refuse_parameter(value, label)
    return kind_of(value).check_parameter(value, label)


def on_host(value: Any, *, copy: bool = False) -> Array:
    """Return numbers as a NumPy array: with `copy` False, `value` itself where it is one."""
    return kind_of(value).on_host(value, copy=copy)


def named(name: Any) -> Device:
    """Return the device that a string names: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    ValueError
        If it names none.
    BackendUnavailableError
        If its kind is not installed.
    """
    if name == HOST.NAME:
        return HOST
    match = re.fullmatch(rf"({'|'.join(MODULES)})(?::(\d+))?", name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    kind = _kind(match[1])
    if kind is None:
        raise BackendUnavailableError(f"backend {match[1]!r} is not available: {NOT_INSTALLED}")
    return kind.numbered(int(match[2] or 0))


def names_of(kind: str) -> tuple[list[str], str | None]:
    """Return what the devices of a kind are called, and why there are none, or None where there are some."""
    found = _kind(kind)
    return ([], NOT_INSTALLED) if found is None else found.names()
