"""The attempt at a step through the tensors' methods, where there is no C extension or no function of DLPack's."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.structs import CHANGED, FLOAT32_END, OTHER_GRADIENTS, OTHER_STEPS
from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import Seen, TensorCache, fetch_gradients
from fastadam.torch.part import COUNTERS
from fastadam.torch.tensors import (
    Extents,
    extent,
    has_its_memory,
    has_own_dispatch,
    is_aligned,
    is_plain,
    same_layout,
    view_of,
)


def bind(cache: TensorCache, active: ActivePlan) -> Callable[..., int]:
    """Return the function that attempts a step (see `fastadam.torch.native_attempt.bind`)."""
    return functools.partial(_attempt, cache, active)


def _attempt(cache: TensorCache, active: ActivePlan, given: list[Any] | None = None) -> int:
    grads, plan = fetch_gradients(cache.tensors) if given is None else given, active.plan
    if not cache.holds_the_same() or not cache.state_is_same():
        return CHANGED
    cache.present[:] = [grad is not None for grad in grads]
    # (np.array_equal would take what a signal's handler raises for "not equal".)
    if not (cache.present == (active.span_of >= 0)).all():
        return OTHER_GRADIENTS
    views = []  # they keep the memory until the step is over
    for i in active.which:  # those that are idle, too
        views.append(unchanged(cache.tensors[i], cache.seen[i]))
        if views[-1] is None:
            return CHANGED
        counter = views[-1][0]
        cache.steps[i] = counter.item()
        if counter.element_size() == 4 and cache.steps[i] >= FLOAT32_END:
            return CHANGED
    places = np.maximum(active.span_of, active.idle_of)[active.which]
    rows = plan.spans["row"][places]
    if np.any(cache.steps[active.which] != active.steps_taken[rows]):
        return OTHER_STEPS
    written = Extents(zip(*(each.tolist() for each in active.written), strict=True))
    read = []
    for i in active.which[: active.n_active]:
        grad = readable(grads[i], cache.seen[i])
        if grad is None or written.meet(*extent(grad)):
            return i
        read.append(grad)
    plan.spans["grad"][places[: active.n_active]] = [grad.data_ptr() for grad in read]
    outcome: int = plan.take()
    return outcome


def unchanged(param: Tensor, seen: Seen) -> list[Tensor] | None:
    """Return views of counter, parameter and the rest if they are what and where they were, else None."""
    found = [seen.state.get(key) for key in seen.keys]
    if not all(map(operator.is_, found, seen.objects)):
        return None
    counter, stepped, *others = map(view_of, (seen.objects[0], param, *seen.objects[1:]))
    if counter.data_ptr() != seen.step or counter.numel() != 1 or counter.dtype not in COUNTERS:
        return None
    for view, address, like in zip((stepped, *others), seen.addresses, seen.likes, strict=True):
        if view.data_ptr() != address or not _is_like(view, like, seen.device):
            return None
    return [counter, stepped, *others]


def readable(grad: Any, seen: Seen) -> Tensor | None:
    """Return a view of a gradient that can be read as it lies, like its parameter, else None."""
    if not isinstance(grad, Tensor) or grad.layout != torch.strided or has_own_dispatch(grad):
        return None
    view = view_of(grad)
    return view if _is_like(view, seen.likes_grad, seen.device) and is_aligned(view) else None


def _is_like(view: Tensor, like: Tensor, device: torch.device) -> bool:
    return bool(
        view.dtype == like.dtype
        and view.shape == like.shape
        and view.device == device
        and same_layout(view, like)
        and is_plain(view)
        and has_its_memory(view)
    )
