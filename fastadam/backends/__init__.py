"""The backends by name, imported when first asked for, and the devices whose arrays they step.

`c`, `numpy`, `numba` and `cuda` take steps, as `fastadam.step.backend` says; they know plans, and neither
groups nor optimizers. `choose` and `on_device` are for the faces.
"""

from __future__ import annotations

import importlib

from fastadam.memory import devices, host
from fastadam.memory.device import Device
from fastadam.memory.errors import BackendUnavailableError as BackendUnavailableError
from fastadam.step.backend import Backend, BackendName

# name -> module, in the order in which "auto" tries them. C comes first: it needs no compilation at run
# time and has the shortest call; the bits are the same.
MODULES: dict[BackendName, str] = {
    "c": "fastadam.backends.c",
    "numba": "fastadam.backends.numba",
    "numpy": "fastadam.backends.numpy",
    "cuda": "fastadam.backends.cuda",
}
# Those that step arrays in the host's memory; the other ones step arrays on devices of the same name.
HOST: tuple[BackendName, ...] = ("c", "numba", "numpy")


def available_backends() -> dict[BackendName, str]:
    """Return, for each backend, ``"available"`` or the reason why it is not.

    Returns
    -------
    dict of str to str
        In the order in which ``backend="auto"`` tries them. Looking means importing Numba, where it is
        installed.

    Examples
    --------
    >>> import fastadam
    >>> fastadam.available_backends()["numpy"]
    'available'
    """
    return {name: why_missing(name) or "available" for name in MODULES}


def why_missing(name: BackendName) -> str | None:
    """Return why a backend cannot be used here, or None if it can."""
    backend = devices.import_if_there(MODULES[name])
    reason: str | None = devices.NOT_INSTALLED if backend is None else backend.why_missing()
    return reason


def load(name: BackendName) -> Backend:
    """Import a backend's module, whether or not it can be used here."""
    return importlib.import_module(MODULES[name])


def choose(name: str) -> tuple[str, Backend]:
    """Return the name and module of the backend to use.

    Parameters
    ----------
    name : str
        ``"auto"`` for the first one available, else exactly the one named.

    Raises
    ------
    TypeError, ValueError
        If there is no backend of that name.
    BackendUnavailableError
        If it is not available here.
    """
    if not isinstance(name, str):
        raise TypeError(f"backend must be a string, got {name!r}")
    if name == "auto":
        for each in HOST:  # the last one, NumPy, is always available
            reason = why_missing(each)
            if reason is None:
                return each, load(each)
            if reason.startswith("FASTADAM_"):  # a wrong setting is not passed over in silence
                raise BackendUnavailableError(f"backend {each!r} is not available: {reason}")
    known = next((each for each in MODULES if each == name), None)
    if known is None:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, MODULES))}, got {name!r}")
    reason = why_missing(known)
    if reason is not None:
        raise BackendUnavailableError(f"backend {known!r} is not available: {reason}")
    return known, load(known)


def serves(name: BackendName, device: Device) -> bool:
    """Whether the backend that was asked for, which may be ``"auto"``, steps arrays on a device."""
    return name == "auto" or (name in HOST if device is host.HOST else name == device.NAME)


def check_serves(name: BackendName, device: Device, label: str) -> None:
    """Refuse an array on a device where the backend that was asked for steps nothing.

    Raises
    ------
    ValueError
        It calls the array by its label.
    """
    if serves(name, device):
        return
    steps = (host.HOST if name in HOST else devices.named(name)).MANY
    remedy = f"use backend='auto' or {device.NAME!r}"
    if device is host.HOST:
        remedy = f"use backend='auto', or lay it out there with fastadam.pack(..., device={name!r})"
    raise ValueError(f"{label} is {device.ONE}, but the backend {name!r} steps {steps}; {remedy}")


def on_device(device: Device, asked_for: BackendName = "auto") -> tuple[str, Backend]:
    """Return the name of the backend that steps arrays on a device, and the backend.

    Parameters
    ----------
    device : Device
    asked_for : str, default "auto"
        Which of the host's backends to take there; other devices have one.

    Raises
    ------
    BackendUnavailableError
        If it is not available here.
    """
    if device is host.HOST:
        return choose(asked_for)
    name, module = choose(device.NAME)
    return name, module.on_device(device.number)  # type: ignore[attr-defined]
