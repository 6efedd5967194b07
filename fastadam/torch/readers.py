"""Attempts at a step over a roster of torch tensors, which compare everything with what it was.

`NativeReader` does it in one native call: cext/tensors.c reads the tensors through DLPack's exchange functions.
`PythonReader` does the same through the tensors' methods, where there is no C extension or no such function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.backends import c
from fastadam.memory.arrays import address
from fastadam.memory.structs import FLOAT32_END
from fastadam.step.plan import MOMENTS
from fastadam.torch.roster import (
    CHANGED,
    ENTRY,
    LINEUP,
    NEEDS_CARE,
    OTHER_GRADIENTS,
    OTHER_STEPS,
    ROSTER,
    TAKEN,
    Lineup,
    Roster,
    Seen,
)
from fastadam.torch.staging import COUNTERS
from fastadam.torch.tensor_offsets import TENSOR_HEADERS
from fastadam.torch.tensors import (
    Extents,
    Tensor,
    extent,
    has_its_memory,
    is_aligned,
    is_plain,
    same_layout,
    wraps_numbers,
)

# The structs of cext/tensors.h.
STRUCTS = {
    "fastadam_entry": ENTRY,
    "fastadam_tensor_headers": TENSOR_HEADERS,
    "fastadam_roster": ROSTER,
    "fastadam_lineup": LINEUP,
}
STATE_NAMES = ("step", *MOMENTS)


class NativeReader:
    """Attempts in one native call.

    Parameters
    ----------
    tensor_type, parameter_type : type
        ``torch.Tensor`` and ``torch.nn.Parameter``.
    read_tensor : int
        Address of DLPack's function (see `find`).
    """

    def __init__(self, tensor_type: Any, parameter_type: type, read_tensor: int) -> None:
        self._kept = (tensor_type, parameter_type, "grad", STATE_NAMES, tensor_type.is_neg, tensor_type.is_conj)
        self._fixed = dict(
            zip(
                ("tensor_type", "parameter_type", "grad_name", "state_names", "is_neg", "is_conj"),
                map(id, self._kept),
                strict=True,
            ),
            none_object=id(None),
            read_tensor=read_tensor,
        )

    @classmethod
    def find(cls, tensor_type: Any, parameter_type: type) -> NativeReader | None:
        """Return a reader, or None where the C extension or DLPack's exchange functions are missing."""
        capsule = getattr(tensor_type, "__dlpack_c_exchange_api__", None)
        if capsule is None or c.why_missing() is not None or c.other_struct(STRUCTS) is not None:
            return None
        read_tensor = c.lib.fastadam_tensor_reader(id(capsule))
        return cls(tensor_type, parameter_type, read_tensor) if read_tensor else None

    def attempt(self, roster: Roster, lineup: Lineup) -> int:
        """Take the step if nothing stands in its way (see `fastadam.torch.roster.TAKEN` and its neighbours)."""
        if lineup.native is None:
            lineup.native = self._bind(roster, lineup)
        attempt: Callable[[], int] = lineup.native
        return attempt()

    def _bind(self, roster: Roster, lineup: Lineup) -> Callable[[], int]:
        for name, value in self._fixed.items():
            roster.memory[name] = value
        places = (
            c.ffi.cast("fastadam_roster *", address(roster.memory)),
            c.ffi.cast("fastadam_lineup *", address(lineup.memory)),
        )
        if lineup.backend is c:  # else it is another one, or several
            return functools.partial(c.lib.fastadam_step_tensors, *places)

        plan, roster_place, lineup_place = lineup.plan, *places
        read, release = c.lib.fastadam_read_tensors, c.lib.fastadam_release_tensors

        def read_and_run() -> int:
            try:
                outcome: int = read(roster_place, lineup_place)
                if outcome == TAKEN:
                    plan.take()
            finally:
                release(roster_place)
            return outcome

        return read_and_run


class PythonReader:
    """Attempts through the tensors' methods."""

    def attempt(self, roster: Roster, lineup: Lineup) -> int:
        """Take the step if nothing stands in its way (see `fastadam.torch.roster.TAKEN` and its neighbours)."""
        params, state = roster.params(), roster.state
        if [id(param) for param in params] != roster.param_ids or not roster.state_is_same():
            return CHANGED
        grads = [param.grad for param in params]
        roster.present[:] = [grad is not None for grad in grads]
        if not np.array_equal(roster.present, lineup.span_of >= 0):
            return OTHER_GRADIENTS
        for i in lineup.which:
            counter = _unchanged(params[i], state[params[i]], roster.seen[i])
            if counter is None:
                return CHANGED
            roster.steps[i] = counter.item()
            if counter.element_size() == 4 and roster.steps[i] >= FLOAT32_END:
                return CHANGED
        rows = lineup.plan.spans["row"][lineup.span_of[lineup.which]]
        if np.any(roster.steps[lineup.which] != lineup.taken[rows]):
            return OTHER_STEPS
        writes = Extents(zip(*(each.tolist() for each in lineup.fences), strict=True))
        places = np.zeros(len(lineup.which), np.int64)
        for j, i in enumerate(lineup.which):
            grad, like = grads[i], roster.seen[i].like
            if not _can_be_read(grad, like, params[i]):
                return NEEDS_CARE
            if not has_its_memory(grad) or writes.meet(*extent(grad)):
                return NEEDS_CARE
            places[j] = grad.data_ptr()
        lineup.plan.spans["grad"] = places[lineup.plan.order]
        lineup.plan.take()
        return TAKEN


def _unchanged(param: Tensor, state: Any, seen: Seen) -> Tensor | None:
    """Return the step counter if parameter, counter and moments are what and where they were, else None."""
    tensors = [state.get(name) for name in STATE_NAMES[: len(seen.objects) - 1]]
    if tuple(map(id, (state, *tensors))) != seen.objects:
        return None
    counter, *moments = tensors
    if counter.data_ptr() != seen.step or counter.dim() or str(counter.dtype) not in COUNTERS:
        return None
    for tensor, place in zip((param, *moments), seen.places, strict=True):
        if (
            tensor.dtype != seen.like.dtype
            or tensor.shape != seen.like.shape
            or tensor.device != seen.device
            or tensor.data_ptr() != place
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
        and str(grad.layout) == "torch.strided"
        and not wraps_numbers(grad)
        and same_layout(grad, like)
        and is_plain(grad)
        and is_aligned(grad)
    )
