"""The norm of the gradients of a step that is taken with care, whatever their layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.structs import COUNTER, SPAN
from fastadam.step.backend import Backend
from fastadam.step.counters import counters_in
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.step.variants import variants_of
from fastadam.torch.part import Part
from fastadam.torch.sparse import in_order_of_rows
from fastadam.torch.staging import shares
from fastadam.torch.tensors import count_reals, format_code, is_aligned, is_plain, same_layout


def measure(parts: Sequence[Part], backends: Mapping[int | None, Backend], limit: int, norm: Norm) -> int:
    """Compute the norm of the gradients of these parts, and what clips them.

    Nothing of the user's is written; the arguments are those of `fastadam.torch.staging.Staged`.

    Returns
    -------
    int
        TAKEN, or what `norm` says of numbers that are not finite.
    """
    stepped = [part for part in parts if part.has_memory]
    if not stepped:
        norm.clear()
        return norm.reduce([norm.totals])
    grads = [_as_stepped(part) for part in stepped]  # kept until they are measured
    spans = np.zeros(len(grads), SPAN.dtype)
    spans["grad"] = [grad.data_ptr() for grad in grads]
    spans["size"] = list(map(count_reals, grads))
    variants = variants_of(np.array(list(map(format_code, grads)), np.int64), 0)
    used, backend_of = shares([part.ordinal for part in stepped], backends)
    steps = np.zeros(1)  # that none of them has taken
    nothing = np.zeros(0, COUNTER.dtype)
    return Plan(spans, variants, counters_in(steps), nothing, used, limit, False, backend_of, norm).measure()


def _as_stepped(part: Part) -> Tensor:
    """Return the gradient with its numbers in the order in which those of the parameter are stepped."""
    grad, like = part.read, part.written[0]
    if part.rows is not None:
        like = grad = in_order_of_rows(grad, part.rows)
    if not part.lies_plainly and not like.is_contiguous():
        like = torch.empty(like.shape, dtype=grad.dtype, device=like.device)
    if is_plain(grad) and is_aligned(grad) and same_layout(grad, like):
        return grad
    return grad.new_empty_strided(like.shape, like.stride()).copy_(grad)
