"""The norm of gradients of which each process has a part: exact, so that it does not depend on who has which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.backends import c
from fastadam.memory.arrays import Array
from fastadam.memory.structs import TOTAL_WORDS
from fastadam.step import exact
from fastadam.step.norm import carried
from fastadam.torch.dtensors import dtensor_type, sharing_groups
from fastadam.torch.tensors import has_its_memory, view_of

PLAIN = (Tensor, torch.nn.Parameter)


class NotSharedError(Exception):
    """These gradients are no DTensors in the host's memory whose numbers are shared out."""


class Sharing:
    """How the gradients of parameters are shared out.

    Parameters
    ----------
    params : sequence of Tensor
        Plain ones are the same on every process, and each process counts its own.
    locals_of_params : sequence of Tensor
        What this process has of them.

    Raises
    ------
    NotSharedError
        If one is a partial sum, nowhere on this process, or not in the host's memory. (Of parameters, so that all
        processes find the same.)
    """

    def __init__(self, params: Sequence[Any], locals_of_params: Sequence[Any]) -> None:
        if any(type(each) not in PLAIN or each.device.type != "cpu" for each in locals_of_params):
            raise NotSharedError
        kind = dtensor_type()
        found: dict[Any, tuple[Any, ...] | None] = {}
        self._groups: list[tuple[Any, ...]] = []
        for param in params:
            groups: tuple[Any, ...] | None = ()
            if kind is not None and isinstance(param, kind):
                key = param.device_mesh, param.placements
                if key not in found:
                    found[key] = sharing_groups(param)
                groups = found[key]
            if groups is None:
                raise NotSharedError
            self._groups.append(groups)

    def total(self, grads: Sequence[Tensor | None]) -> Array:
        """Return the sum of the squares of all gradients, on every process the same.

        All processes must call it, whatever gradients they have: each of them waits for the others.

        Parameters
        ----------
        grads : sequence of (Tensor or None)
            What this process has of them.

        Returns
        -------
        ndarray of TOTAL, shape (1,)

        Raises
        ------
        RuntimeError
            If one is not strided, or has a storage that was freed or shrunk.
        """
        totals = {groups: exact.new_total() for groups in self._groups}
        for groups, grad in zip(self._groups, grads, strict=True):
            if grad is not None:
                _add(totals[groups], grad)
        whole = exact.new_total()
        for groups, total in totals.items():
            total["words"][0] = carried(total["words"][0])
            for group in groups:
                _add_up(total, group)
            whole["words"] += total["words"]
            for special in ("is_nan", "is_infinite"):
                whole[special] |= total[special]
        whole["first"], whole["end"] = 0, TOTAL_WORDS
        return whole


def _add(total: Array, grad: Tensor) -> None:
    """Add the squares of one tensor."""
    if grad.device.type != "cpu" or grad.layout != torch.strided or not has_its_memory(view_of(grad)):
        raise RuntimeError(
            f"a gradient of shape {tuple(grad.shape)} is on {grad.device}, has the layout {grad.layout}, or has a "
            f"storage that was freed or shrunk; the norm is of strided gradients in the host's memory"
        )
    reals = grad
    if reals.is_complex():
        reals = torch.view_as_real(reals.resolve_conj())
    if reals.dtype not in (torch.float32, torch.float64):
        reals = reals.float()  # exactly, those of 16 bits
    reals = reals.detach().resolve_neg().contiguous()
    if c.why_missing() is not None:
        exact.add_squares(total, reals.numpy())
        return
    c.lib.fastadam_add_squares(
        c.ffi.cast("fastadam_total *", total.ctypes.data),
        c.ffi.cast("void *", reals.data_ptr()),
        reals.numel(),
        reals.dtype == torch.float64,
    )


def _add_up(total: Array, group: Any) -> None:
    """Add the totals of all processes of a group, in place; what is not finite anywhere is so everywhere."""
    numbers = torch.zeros(TOTAL_WORDS + 2, dtype=torch.int64, device="cpu")
    numbers[:TOTAL_WORDS] = torch.from_numpy(total["words"][0])
    numbers[TOTAL_WORDS], numbers[TOTAL_WORDS + 1] = int(total["is_nan"][0]), int(total["is_infinite"][0])
    torch.distributed.all_reduce(numbers, group=group)
    total["words"][0] = numbers[:TOTAL_WORDS].numpy()
    total["is_nan"], total["is_infinite"] = (numbers[TOTAL_WORDS:] > 0).tolist()
    total["words"][0] = carried(total["words"][0])
