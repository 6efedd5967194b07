"""The attempt at a step through the tensors' methods, where there is no C extension or no function of DLPack's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.structs import CHANGED, FLOAT32_END, OTHER_GRADIENTS, OTHER_STEPS, TAKEN
from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import STATE_NAMES, Seen, TensorCache
from fastadam.torch.staging import COUNTERS
from fastadam.torch.tensors import (
    Extents,
    extent,
    has_its_memory,
    is_aligned,
    is_plain,
    same_layout,
    wraps_numbers,
)


def bind(cache: TensorCache, active: ActivePlan) -> Callable[[], int]:
    """Return the function that attempts a step (see `fastadam.torch.native_attempt.bind`)."""
    return functools.partial(_attempt, cache, active)


def _attempt(cache: TensorCache, active: ActivePlan) -> int:
    state, plan = cache.state, active.plan
    if not cache.holds_the_same() or not cache.state_is_same():
        return CHANGED
    params = cache.tensors()
    grads = [param.grad for param in params]
    cache.present[:] = [grad is not None for grad in grads]
    if not np.array_equal(cache.present, active.span_of >= 0):
        return OTHER_GRADIENTS
    for i in active.which:
        counter = _unchanged(params[i], state[params[i]], cache.seen[i])
        if counter is None:
            return CHANGED
        cache.steps[i] = counter.item()
        if counter.element_size() == 4 and cache.steps[i] >= FLOAT32_END:
            return CHANGED
    rows = plan.spans["row"][active.span_of[active.which]]
    if np.any(cache.steps[active.which] != active.steps_taken[rows]):
        return OTHER_STEPS
    written = Extents(zip(*(each.tolist() for each in active.written), strict=True))
    addresses = np.zeros(len(active.which), np.int64)
    for j, i in enumerate(active.which):
        grad = grads[i]
        if not _can_be_read(grad, cache.seen[i].like, params[i]):
            return i
        if not has_its_memory(grad) or written.meet(*extent(grad)):
            return i
        addresses[j] = grad.data_ptr()
    plan.spans["grad"] = addresses[plan.order]
    plan.take()
    return TAKEN


def _unchanged(param: Tensor, state: Any, seen: Seen) -> Tensor | None:
    """Return the step counter if parameter, counter and moments are what and where they were, else None."""
    tensors = [state.get(name) for name in STATE_NAMES[: len(seen.objects) - 1]]
    if tuple(map(id, (state, *tensors))) != seen.objects:
        return None
    counter, *moments = tensors
    if counter.data_ptr() != seen.step or counter.dim() or counter.dtype not in COUNTERS:
        return None
    for tensor, address in zip((param, *moments), seen.addresses, strict=True):
        if (
            tensor.dtype != seen.like.dtype
            or tensor.shape != seen.like.shape
            or tensor.device != seen.device
            or tensor.data_ptr() != address
            or not same_layout(tensor, seen.like)
            or not is_plain(tensor)
        ):
            return None
    return counter


def _can_be_read(grad: Tensor, like: Tensor, param: Tensor) -> bool:
    """Whether a gradient has its parameter's dtype and layout and is what memory holds."""
    return bool(
        grad.dtype == like.dtype
        and grad.shape == like.shape
        and grad.device == param.device
        and grad.layout == torch.strided
        and not wraps_numbers(grad)
        and same_layout(grad, like)
        and is_plain(grad)
        and is_aligned(grad)
    )
