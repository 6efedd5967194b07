"""Gradients that become zero in a step: which can, and how that is done where no kernel does it."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from fastadam.step.backend import Call
from fastadam.torch.tensors import overlaps_itself, raise_versions, view_of


def check(grads: Iterable[tuple[str, Tensor]]) -> None:
    """Check that gradients can be filled with zeros.

    Parameters
    ----------
    grads : iterable of (str, Tensor)
        With what each one's parameter is called.

    Raises
    ------
    RuntimeError
        If one cannot; the message says what to do.
    """
    for label, grad in grads:
        why = None if grad.layout == torch.strided else "is sparse"
        if grad.layout == torch.strided and overlaps_itself(grad):
            why = "has several elements in one place of memory"
        elif grad.is_inference() and not torch.is_inference_mode_enabled():
            why = "was made in inference mode"
        if why is not None:
            raise RuntimeError(
                f"zero_grad=True: the gradient of {label} {why}, so that it cannot be written; step with "
                f"zero_grad=False and call optimizer.zero_grad()"
            )


def zero_calls(grads: Iterable[Tensor | None]) -> list[Call]:
    """Return torch's operations that fill gradients with zeros; those that are None are left out."""
    return [functools.partial(Tensor.zero_, view_of(grad)) for grad in grads if grad is not None]


def note_zeroed(params: Iterable[Tensor]) -> None:
    """Tell autograd that the gradients of these parameters were written by native code."""
    grads = [grad for param in params if (grad := param.grad) is not None]
    raise_versions([grad for grad in grads if not grad.is_inference()])
