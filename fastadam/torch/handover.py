"""Steps that are handed over to torch's own code: when, and how they are taken."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from fastadam.memory.structs import MOMENTS
from fastadam.step.gradient_settings import GradientSettings, not_finite
from fastadam.torch import originals
from fastadam.torch.tensors import has_own_dispatch

# Where our kernels step tensors. (Those on the meta device have nothing to step.)
DEVICES = ("cpu", "cuda", "meta")


def reason_in_tensors(
    groups: Sequence[Mapping[str, Any]], grads: Iterable[Tensor | None], state: Any
) -> str | None:
    """Say why our kernels cannot step these tensors and torch may; None where they can.

    Parameters
    ----------
    groups : sequence of mapping
        The optimizer's `param_groups`.
    grads : iterable of Tensor or None
        The gradient of each parameter.
    state : mapping
        The optimizer's.

    Returns
    -------
    str or None
        Such as ``"a parameter is a DTensor"``.
    """
    params = [(param, group) for group in groups for param in group["params"]]
    for (param, group), grad in zip(params, grads, strict=False):
        if grad is None:
            continue
        if param.is_meta and group.get("fused"):
            return "a parameter with fused=True is on the meta device"
        if param.device.type not in DEVICES:
            return f"a parameter is on the device {param.device}"
        if param.dtype == torch.complex32:
            return "a parameter has dtype torch.complex32"
        known = state.get(param)
        moments = [known.get(name) for name in ("step", *MOMENTS)] if isinstance(known, dict) else []
        for what, tensor in (("parameter", param), ("gradient", grad), *(("state", each) for each in moments)):
            if isinstance(tensor, Tensor) and has_own_dispatch(tensor):
                return f"a {what} is a {type(tensor).__name__}"
    return None


def take(optimizer: torch.optim.Adam, settings: GradientSettings) -> bool:
    """Take a step with torch's own code, over the same groups and state, without hooks and closure.

    What torch's step raises is raised; as in torch, it may then be half taken.

    Parameters
    ----------
    optimizer : torch.optim.Adam
    settings : GradientSettings
        What is done about all gradients: torch's step gets others in their place, and the norm is noted here.

    Returns
    -------
    bool
        False if the step was left out, as gradients are not finite.

    Raises
    ------
    RuntimeError
        If they are not, and that is to be an error.
    """
    _suit(optimizer.param_groups, optimizer.state)
    step = functools.partial(_unhooked(originals.Adam.step), optimizer)
    if not settings.norm.wanted and settings.divisor == 1.0:
        step()
        return True
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [param.grad for param in params]
    scale = _scale([grad for grad in grads if grad is not None], settings)
    if scale is None:
        if settings.choices.error_if_nonfinite:
            raise not_finite(
                f"parameter {i}" for i, grad in enumerate(grads) if grad is not None and not grad.isfinite().all()
            )
        settings.count_skipped()
        return False
    try:
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = (grad * scale.to(grad.device)).to(grad.dtype)
        step()
    finally:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
    return True


def _scale(grads: list[Tensor], settings: GradientSettings) -> Tensor | None:
    """Return what gradients are multiplied by, of no dimensions; None where such a step is not taken.

    Nothing is waited for on a device unless it has to be known whether they are finite.
    """
    scale = torch.scalar_tensor(1.0 / settings.divisor, dtype=torch.float64)
    if not settings.norm.wanted:
        return scale
    norm = originals.get_total_norm(grads)
    norm = getattr(norm, "full_tensor", lambda: norm)().double() * scale.to(norm.device)
    settings.note_norm(norm.detach())
    choices = settings.choices
    if (choices.skip_nonfinite or choices.error_if_nonfinite) and not norm.isfinite():
        return None
    limit = choices.max_grad_norm
    if limit is not None and limit < math.inf:
        scale = scale.to(norm.device) * (limit / (norm + 1e-6)).clamp(max=1.0)
    return scale


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method without the wrapper that torch puts around it when it makes the first optimizer."""
    while getattr(step, "hooked", False):
        step = step.__wrapped__  # type: ignore[attr-defined]
    return step


def _suit(groups: Sequence[Mapping[str, Any]], state: Any) -> None:
    """Bring the state to what torch's step takes; ours takes counters that are numbers, or elsewhere, too."""
    for group in groups:
        there = bool(group["capturable"] or group["fused"])  # else the host counts
        dtype = torch_optimizer._get_scalar_dtype(is_fused=group["fused"])
        for param in group["params"]:
            known = state.get(param)
            if param.grad is None or not isinstance(known, dict) or "step" not in known:
                continue
            step = known["step"]
            if isinstance(step, int | float):
                known["step"] = torch.tensor(float(step), dtype=dtype, device=param.device if there else "cpu")
            elif (
                there
                and isinstance(step, Tensor)
                and (step.device != param.device or (group["fused"] and step.dtype != dtype))
            ):
                known["step"] = step.to(param.device, dtype if group["fused"] else step.dtype)
            if group["amsgrad"] and MOMENTS[2] not in known:  # switched on in mid-training
                known[MOMENTS[2]] = torch.zeros_like(param, memory_format=torch.preserve_format)
