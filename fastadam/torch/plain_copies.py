"""Copies of gradients that a step cannot read where they lie, for the attempt at it in one call.

Autograd's gradients lie like their parameters. Those that users assign may be views in another order, expanded, or
conjugated on reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import Seen, TensorCache, fetch_gradients
from fastadam.torch.python_attempt import readable
from fastadam.torch.tensors import extent, has_its_memory, has_own_dispatch, view_of

# Gradients of one step that are found by attempts, each of which names one; with more, all are looked at.
MOST_ODD = 16


def attempt_with_copies(
    cache: TensorCache, active: ActivePlan, attempt: Callable[..., int], position: int
) -> tuple[int, list[Any]]:
    """Attempt a step again, with copies of gradients that cannot be read where they lie.

    Parameters
    ----------
    cache : TensorCache
    active : ActivePlan
    attempt : callable
        The attempt at its step, as `fastadam.torch.native_attempt.bind` returns it.
    position : int
        What it has returned: the position of a parameter whose gradient needs care.

    Returns
    -------
    outcome : int
        What the last attempt has returned; a position again where copying does not help.
    kept : list
        The gradients and their copies.
    """
    grads = fetch_gradients(cache.tensors)
    for _ in range(MOST_ODD):
        grad = _copy_like_param(grads[position], cache, position, active)
        if grad is None:
            return position, grads
        grads[position] = grad
        outcome = attempt(grads)
        if outcome < 0 or outcome == position:
            return outcome, grads
        position = outcome
    for i, grad in enumerate(grads):
        if grad is not None and i in cache.seen and readable(grad, cache.seen[i]) is None:
            grads[i] = _copy_like_param(grad, cache, i, active)
            if grads[i] is None:
                return i, grads
    return attempt(grads), grads


def _copy_like_param(grad: Any, cache: TensorCache, position: int, active: ActivePlan) -> Tensor | None:
    """Return a copy of a gradient that lies like its parameter; None of one that is to be looked at with care.

    That is one that does not fit its parameter, or lies in memory that the step writes.
    """
    seen = cache.seen.get(position)
    if seen is None or seen.device.type != "cpu":
        return None
    if not isinstance(grad, Tensor) or grad.layout != torch.strided or has_own_dispatch(grad):
        return None
    view = view_of(grad)
    if not _is_for(view, seen) or _is_written(view, active):
        return None
    like = seen.likes_grad
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=seen.device).copy_(view)


def _is_for(view: Tensor, seen: Seen) -> bool:
    return bool(
        view.dtype == seen.likes_grad.dtype
        and view.shape == seen.likes_grad.shape
        and view.device == seen.device
        and has_its_memory(view)
    )


def _is_written(view: Tensor, active: ActivePlan) -> bool:
    """Whether a tensor meets memory that the step writes."""
    low, high = extent(view)
    starts, ends = active.written
    before = int(np.searchsorted(starts, high))
    return before > 0 and bool(ends[before - 1] > low)
