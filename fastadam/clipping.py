"""`clip_grad_norm` for arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastadam.memory import remedies
from fastadam.memory.arrays import ALL_DTYPES, base_view, check_array
from fastadam.memory.packed import Packed
from fastadam.memory.remedies import CLIPPED
from fastadam.memory.structs import MEASURES, REFUSED, REFUSES
from fastadam.memory.words import shown
from fastadam.step.gradient_settings import as_limit
from fastadam.step.hyperparameters import Real, as_flag
from fastadam.step.norm import Norm
from fastadam.work.norms import measure


def clip_grad_norm(grads: Any, max_norm: Real, *, error_if_nonfinite: bool = False) -> float:
    """Clip the norm of all gradients together, in place.

    They are multiplied by ``max_norm / (norm + 1e-6)``, if that is less than 1, as in torch.

    Parameters
    ----------
    grads : ndarray, Packed, iterable or mapping of ndarray
        Gradients of any shapes and strides, of any dtype that parameters have; None among them is left out. Of a
        packed buffer, its ``grads``. Written to in place, where they have to be clipped.
    max_norm : float
        What the norm is to be at most; ``math.inf`` leaves all as it is.
    error_if_nonfinite : bool, default False
        Refuse gradients that are not finite. Otherwise a norm that is NaN makes all of them NaN, and an infinite
        one makes the finite ones zero and the others NaN.

    Returns
    -------
    float
        The norm before clipping: within 2 ulp of exact, and with the same bits on any machine and any number of
        threads (see `fastadam.step.norm`).

    Raises
    ------
    TypeError, ValueError
        If a gradient is not what it must be, `max_norm` is no number from 0 on, or `error_if_nonfinite` is neither
        True nor False; nothing has been written then.
    RuntimeError
        If gradients are not finite, and `error_if_nonfinite` was given; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> grads = [np.array([3.0, 0.0]), np.array([4.0])]
    >>> fastadam.clip_grad_norm(grads, 1.0)
    5.0
    >>> grads[1].round(3)
    array([0.8])
    """
    limit = as_limit("max_norm", max_norm)
    refuses = as_flag("error_if_nonfinite", error_if_nonfinite)
    named = _named(grads)
    for label, grad in named:
        check_array(grad, label, use=CLIPPED)
        if not base_view(grad).flags.writeable:
            raise ValueError(
                f"{label} is read-only, so that it cannot be clipped in place; go on with a copy: g = g.copy()"
            )
    arrays = [base_view(grad) for _, grad in named]
    first: dict[int, str] = {}
    for label, grad in named:
        if first.setdefault(id(grad), label) != label:
            raise ValueError(
                f"{label} is the same array as {first[id(grad)]}, and would be clipped twice; give it once"
            )
    norm = Norm()
    norm.block["wanted"] = MEASURES | REFUSES if refuses else MEASURES
    norm.block["max_norm"] = limit
    if measure(arrays, norm) == REFUSED:
        which = ", ".join(label for label, grad in named if not np.isfinite(grad).all())
        raise RuntimeError(
            f"not finite: {which}; with error_if_nonfinite=False all gradients would be clipped by a norm of "
            f"{float(norm.block['norm'])}"
        )
    factor = float(norm.block["scale"])
    if factor != 1.0:
        with np.errstate(all="ignore"):
            for grad in arrays:
                compute = ALL_DTYPES[grad.dtype].format.compute  # what has 16 bits is rounded once, from float32
                dtype = grad.dtype if grad.dtype.kind == "c" else compute
                np.multiply(grad, compute.type(factor), out=grad, dtype=dtype, casting="unsafe")
    return float(norm.block["norm"])


def _named(grads: Any) -> list[tuple[str, Any]]:
    """Return all gradients that there are, and what messages call them."""
    if isinstance(grads, Packed):
        return _named(grads.grads)
    if isinstance(grads, np.ndarray):
        return [("grads", grads)]
    if isinstance(grads, Mapping):
        return [(f"grads[{name!r}]", grad) for name, grad in grads.items() if grad is not None]
    if remedies.looks_like_an_array(grads):
        raise TypeError(f"grads {remedies.not_an_array(grads, CLIPPED)}")
    if isinstance(grads, str | bytes | set | frozenset) or not isinstance(grads, Iterable):
        raise TypeError(
            f"grads must be arrays in a list or mapping, a packed buffer or one array, got {shown(grads)} of type "
            f"{type(grads).__name__}; clip arrays, in place: fastadam.clip_grad_norm([g], max_norm)"
        )
    return [(f"grads[{i}]", grad) for i, grad in enumerate(grads) if grad is not None]
