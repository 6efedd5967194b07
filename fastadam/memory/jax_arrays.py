"""JAX arrays: no parameters, but gradients, where NumPy sees their memory. JAX itself is not imported.

Waiting for an array runs JAX's code, and that of other threads: all that a step checks is checked afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_jax_array(value: Any) -> bool:
    """Whether `value` is an array of JAX, or a tracer that stands for one."""
    return type(value).__module__.partition(".")[0] in ("jax", "jaxlib") and hasattr(value, "aval")


def has_cuda_interface(value: Any) -> bool:
    """Whether a JAX array is one on a CUDA device, which says where it lies."""
    try:
        return hasattr(value, "__cuda_array_interface__")
    except Exception:  # of one that was deleted, or lies on several devices
        return False


def refuse_parameter(value: Any, label: str) -> None:
    """Refuse a JAX array as a parameter, wherever it is: JAX supposes that nobody writes to it.

    Raises
    ------
    TypeError
        If it is one.
    """
    if not is_jax_array(value):
        return
    _devices_of(value, label)  # has to be no tracer, for what is advised
    raise TypeError(
        f"{label} is a JAX array, not a NumPy array, and cannot be updated in place; make NumPy arrays of all "
        f"of them, params = jax.tree.map(np.array, params), and go on with these; JAX, which reads arrays later, "
        f"gets copies, jax.tree.map(jax.numpy.array, params)"
    )


def _devices_of(value: Any, label: str) -> set[Any]:
    """Return the devices that a JAX array is on; refuse a tracer, which has none."""
    try:
        found: set[Any] = value.devices()
    except (TypeError, AttributeError) as error:  # what tracers raise in one version of JAX or another
        raise TypeError(
            f"{label} is a JAX tracer, which has no numbers yet; call step outside of jax.jit, jax.grad and "
            f"jax.vmap"
        ) from error
    return found


def with_views(grads: Sequence[Any], params: Sequence[Any], labels: Sequence[str]) -> Sequence[Any]:
    """Return gradients with a view in the place of each JAX array that belongs to a parameter on the host.

    Parameters
    ----------
    grads, params, labels : sequence
        What was given, the parameters, and what error messages call these.

    Returns
    -------
    sequence
        `grads` itself where there is none.

    Raises
    ------
    TypeError, RuntimeError
        As by `view_on_host`.
    """
    found = [i for i, grad in enumerate(grads) if is_jax_array(grad) and isinstance(params[i], np.ndarray)]
    if not found:
        return grads
    views = list(grads)
    for i in found:
        views[i] = view_on_host(views[i], f"the gradient of {labels[i]}")
    return views


def view_on_host(value: Any, label: str) -> NDArray[Any]:
    """Return a JAX array as an ndarray over its own memory, which is read-only; wait for it where it is computed.

    Raises
    ------
    TypeError
        If it is a tracer, without numbers, or not on the CPU alone.
    RuntimeError
        If JAX has deleted it.
    """
    devices = _devices_of(value, label)
    if len(devices) != 1 or any(device.platform != "cpu" for device in devices):
        where = ", ".join(sorted(map(str, devices)))
        raise TypeError(
            f"{label} is a JAX array on {where}, not on the CPU; copy it to the host with jax.device_get"
        )
    return np.asarray(value)
