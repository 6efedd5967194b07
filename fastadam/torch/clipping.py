"""torch's functions that clip gradients by their norm, in one native call each."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import MEASURES, REFUSED, REFUSES
from fastadam.step.norm import Norm, scale_of
from fastadam.torch import gradients, originals
from fastadam.torch.cache import fetch_gradients
from fastadam.torch.dtensors import are_among, everywhere, is_placed_like, locals_of
from fastadam.torch.refused import refuse_to_clip
from fastadam.torch.shared_norm import NotSharedError, Sharing
from fastadam.torch.tensors import raise_versions


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Clip the norm of all gradients together, in place, as `torch.nn.utils.clip_grad_norm_` does.

    They are multiplied by ``max_norm / (norm + 1e-6)``, if that is less than 1.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those whose ``grad`` is clipped, where there is one.
    max_norm : float
        What the norm is to be at most.
    norm_type : float, default 2
        Other norms are left to torch's code, as are gradients that are sparse, on devices or with a dispatch of
        their own, other than DTensors in the host's memory.
    error_if_nonfinite : bool, default False
        Refuse gradients whose norm is NaN or infinite. Otherwise they all become NaN, or zero and NaN.
    foreach : bool, optional
        For torch's code, where that does the work.

    Returns
    -------
    Tensor
        The norm before clipping, of no dimensions. Within 2 ulp of exact (then rounded to the gradients' dtype),
        with the same bits on any number of threads (see `fastadam.step.norm`). Of DTensors it is a DTensor, which
        every process has (``norm.full_tensor()`` is plain), with the same bits for any number of processes.

    Raises
    ------
    RuntimeError
        If the norm is not finite, and `error_if_nonfinite` was given; nothing has been written then.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = _grads_of(parameters)
    found = None
    if _is_ours(max_norm):
        if are_among(parameters):
            found = _measure_shared(parameters, grads, max_norm, norm_type, error_if_nonfinite)
        else:
            found = _measure(_there(grads), max_norm, norm_type, error_if_nonfinite)
    if found is None:
        return originals.clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
    return found


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of all tensors together, as `torch.nn.utils.get_total_norm` does.

    Parameters
    ----------
    tensors : Tensor or iterable of Tensor
        Mostly gradients.
    norm_type, error_if_nonfinite, foreach
        See `clip_grad_norm_`.

    Returns
    -------
    Tensor
        See `clip_grad_norm_`.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    found = None
    if _is_ours(0):
        if are_among(tensors):
            found = _measure_shared(tensors, tensors, None, norm_type, error_if_nonfinite)
        else:
            found = _measure(tensors, None, norm_type, error_if_nonfinite)
    if found is None:
        return originals.get_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
    return found


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Clip gradients whose norm is known, in place, as `torch.nn.utils.clip_grads_with_norm_` does.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those whose ``grad`` is clipped, where there is one.
    max_norm : float
        What the norm is to be at most.
    total_norm : Tensor
        What it is.
    foreach : bool, optional
        See `clip_grad_norm_`.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = _there(_grads_of(parameters))
    if _is_ours(max_norm) and grads and type(total_norm) is Tensor and total_norm.device.type == "cpu":
        try:
            factor = scale_of(total_norm.item(), float(max_norm))
            gradients.scale(grads, factor)
        except gradients.NotNativeError:
            pass
        else:
            _count(grads, factor)
            return
    originals.clip_grads_with_norm_(parameters, max_norm, total_norm, foreach)


def _grads_of(parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient of each parameter."""
    try:
        return fetch_gradients(parameters)
    except AttributeError as error:
        refuse_to_clip(parameters, error)


def _there(grads: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the gradients that there are."""
    return [grad for grad in grads if grad is not None]


def _is_ours(max_norm: Any) -> bool:
    """Whether gradients are clipped as ours are, outside of what traces or intercepts torch's functions."""
    return (
        type(max_norm) in (int, float)
        and 0 <= max_norm < math.inf
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
    )


def _measure(
    grads: list[Tensor], max_norm: float | None, norm_type: Any, error_if_nonfinite: bool
) -> Tensor | None:
    """Return the norm, and clip; or return None where that is torch's work, and nothing was written."""
    if norm_type != 2 or not grads:
        return None
    try:
        norm, factor, dtype = gradients.total_norm(grads, max_norm=max_norm, error_if_nonfinite=error_if_nonfinite)
    except gradients.NotNativeError:
        return None
    except ArithmeticError:
        which = [i for i, grad in enumerate(grads) if not grad.isfinite().all()]
        raise RuntimeError(
            f"the norm of the gradients is not finite, as those at {which} of those that are there are not; with "
            f"error_if_nonfinite=False they would be clipped by such a norm"
        ) from None
    _count(grads, factor)
    return torch.scalar_tensor(norm, dtype=dtype, device="cpu")


def _measure_shared(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    max_norm: float | None,
    norm_type: Any,
    error_if_nonfinite: bool,
) -> Tensor | None:
    """Do the same for gradients of which some are DTensors; all processes have to be here."""
    if norm_type != 2 or not all(map(is_placed_like, grads, params)):
        return None
    given = locals_of(grads)
    norm = Norm()
    norm.block["wanted"] = MEASURES | REFUSES if error_if_nonfinite else MEASURES
    norm.block["max_norm"] = math.inf if max_norm is None else max_norm
    try:
        outcome = norm.reduce([Sharing(params, locals_of(params)).total(given)])
    except NotSharedError:
        return None
    if outcome == REFUSED:
        raise RuntimeError(
            "the norm of the gradients of all processes is not finite; with error_if_nonfinite=False they would "
            "be clipped by such a norm"
        )
    factor = float(norm.block["scale"])
    there = _there(given)
    if factor != 1.0 and max_norm is not None:
        try:
            gradients.scale(there, factor)
        except gradients.NotNativeError:
            with torch.no_grad():
                torch._foreach_mul_(there, factor)
        _count(_there(grads), factor)
    dtype = functools.reduce(torch.promote_types, (param.dtype.to_real() for param in params))
    first = next(param for param in params if are_among([param]))
    return everywhere(torch.scalar_tensor(float(norm.block["norm"]), dtype=dtype, device="cpu"), first)


def _count(grads: list[Tensor], factor: float) -> None:
    """Tell autograd that gradients were written."""
    if factor != 1.0:
        try:
            raise_versions(grads)
        except RuntimeError:  # some were made in inference mode, and have no version
            raise_versions([grad for grad in grads if not grad.is_inference()])
