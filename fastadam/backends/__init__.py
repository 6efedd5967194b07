"""The backends by name, imported when first asked for."""

from __future__ import annotations

import importlib

from fastadam.step.backend import Backend

# name -> module, in the order in which "auto" tries them. C comes first: it needs no compilation at run
# time and has the shortest call; the bits are the same.
MODULES = {
    "c": "fastadam.backends.c",
    "numba": "fastadam.backends.numba",
    "numpy": "fastadam.backends.numpy",
    "cuda": "fastadam.backends.cuda",
}
# Those that step arrays in the host's memory; the other ones step arrays on CUDA devices.
HOST = ("c", "numba", "numpy")


class BackendUnavailableError(RuntimeError):
    """The backend asked for by name cannot be used here; the message says why and what to do."""


def available_backends() -> dict[str, str]:
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
    return {name: load(name).why_missing() or "available" for name in MODULES}


def on_device(ordinal: int) -> Backend:
    """Return the backend that steps arrays on a CUDA device.

    Raises
    ------
    BackendUnavailableError
        If CUDA is not available here.
    """
    module = choose("cuda")[1]
    return module.On(ordinal)  # type: ignore[attr-defined,no-any-return]


def load(name: str) -> Backend:
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
            reason = load(each).why_missing()
            if reason is None:
                return each, load(each)
            if reason.startswith("FASTADAM_"):  # a wrong setting is not passed over in silence
                raise BackendUnavailableError(f"backend {each!r} is not available: {reason}")
    if name not in MODULES:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, MODULES))}, got {name!r}")
    backend = load(name)
    reason = backend.why_missing()
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} is not available: {reason}")
    return name, backend
