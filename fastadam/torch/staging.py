"""One step over torch tensors of any layout, taken with care: nothing is remembered, everything is looked at.

Numbers that lie in memory as the kernels want them are stepped where they are; the others are copied, stepped and
copied back. The arithmetic is the backend's, and the bits do not depend on the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.structs import COUNTER, SPAN
from fastadam.step.backend import Backend
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import MOMENTS, Plan
from fastadam.step.variants import variants_of
from fastadam.torch.devices import ordinal_of
from fastadam.torch.tensors import (
    Extents,
    apart,
    count_reals,
    extent,
    format_code,
    is_aligned,
    is_dense,
    is_plain,
    same_layout,
    wraps_numbers,
)

# dtypes of step counters that native code counts.
COUNTERS = (torch.float32, torch.float64)


class Part:
    """One parameter of a step, checked: its tensors have its shape and dtype.

    Parameters
    ----------
    position : int
        Among all parameters of the optimizer.
    group : int
    param, grad : Tensor
    state : dict
    step : Tensor
    moments : tuple of Tensor
        Two, or three with amsgrad.
    label : str
        How error messages call it.

    Attributes
    ----------
    written : tuple of Tensor
        Those that a step writes, but for the counter.
    extents : list of (int, int)
        The addresses between which they lie.
    has_memory : bool
        Whether there are numbers to step; meta tensors have none.
    ordinal : int or None
        The number of the CUDA device that the tensors are on, None for the host.
    lies_plainly : bool
        Whether parameter and moments can be stepped where they are.
    """

    def __init__(
        self,
        position: int,
        group: int,
        param: Tensor,
        grad: Tensor,
        state: dict[str, Any],
        step: Tensor,
        moments: tuple[Tensor, ...],
        label: str,
    ) -> None:
        self.position, self.group, self.label = position, group, label
        self.param, self.grad, self.state, self.step, self.moments = param, grad, state, step, moments
        self.written = (param, *moments)
        self.extents = [extent(tensor) for tensor in self.written]
        self.has_memory: bool = param.device.type != "meta"
        self.ordinal = ordinal_of(param)
        self.lies_plainly = is_dense(param) and all(
            is_plain(tensor) and is_aligned(tensor) and same_layout(tensor, param) for tensor in self.written
        )

    @property
    def counts_plainly(self) -> bool:
        """Whether the step counter is of the kind that torch makes."""
        step = self.step
        return step.dim() == 0 and step.device.type == "cpu" and step.dtype in COUNTERS and is_aligned(step)


def all_apart(parts: Sequence[Part]) -> bool:
    """Whether no two written tensors or counters of these parts lie in each other's range of memory."""
    written = [each for part in parts if part.has_memory for each in part.extents]
    counters = [extent(part.step) for part in parts if part.step.device.type == "cpu"]
    return apart([*written, *counters])


def shares(ordinals: Sequence[int | None], backends: Mapping[int | None, Backend]) -> tuple[list[Backend], Array]:
    """Say which backends step spans on these devices, as `fastadam.step.plan.Plan` takes them.

    Parameters
    ----------
    ordinals : sequence of int or None
        The number of each span's CUDA device, None for the host.
    backends : mapping
        From such numbers to backends.

    Returns
    -------
    backends : list of Backend
        The host's comes first, where it takes part.
    backend_of : ndarray of int64
        Each span's place in that list.
    """
    used = sorted(set(ordinals), key=lambda ordinal: -1 if ordinal is None else ordinal)
    places = {ordinal: place for place, ordinal in enumerate(used)}
    return [backends[ordinal] for ordinal in used], np.array([places[ordinal] for ordinal in ordinals])


class Staged:
    """Parts made ready to be stepped in one native call for each device.

    Parameters
    ----------
    parts : sequence of Part
    hypers : sequence of Hyperparameters
        Of each group.
    backends : mapping of int or None to Backend
        For each CUDA device, and for the host.
    limit : int
        Upper limit of threads.

    Notes
    -----
    Making it writes nothing that the user can see; `run` does. Copies of tensors on a CUDA device are made in
    torch's current stream there, in which the step has to run, too: then nothing has to be waited for.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        hypers: Sequence[Hyperparameters],
        backends: Mapping[int | None, Backend],
        limit: int,
    ) -> None:
        self._parts = parts
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._grads: list[Tensor] = []  # kept until the step is over
        stepped = [part for part in parts if part.has_memory]
        writes = Extents(each for part in stepped for each in part.extents)
        spans = np.zeros(len(stepped), SPAN.dtype)
        for span, part in zip(spans, stepped, strict=True):
            self._lay_out(span, part, writes)
        keys = [(part.group, part.step.item()) for part in stepped]
        rows = sorted(set(keys))
        row_of = {key: row for row, key in enumerate(rows)}
        spans["row"] = [row_of[key] for key in keys]
        self._plan: Plan | None = None
        if not stepped:
            return
        codes = np.array([format_code(part.param) for part in stepped], np.int64)
        l2_on = np.array([hypers[part.group].l2_on for part in stepped])
        amsgrad_on = np.array([hypers[part.group].amsgrad for part in stepped])
        counters = np.zeros(0, COUNTER.dtype)  # of any kind: counted in Python
        self._steps = np.array([step for _, step in rows], np.float64)
        of_rows = counters_in(self._steps)
        variants = variants_of(codes, l2_on, amsgrad_on)
        used, backend_of = shares([part.ordinal for part in stepped], backends)
        self._plan = Plan(spans, variants, of_rows, counters, used, limit, False, backend_of)
        self._plan.write_options([Coefficients(hypers[group]) for group, _ in rows])

    def _lay_out(self, span: Any, part: Part, writes: Extents) -> None:
        """Find or make the memory that a part is stepped in."""
        plainly = part.lies_plainly
        stepped = []
        for tensor in part.written:
            ready = tensor if plainly else tensor.resolve_neg().resolve_conj().contiguous()
            if not is_aligned(ready):
                ready = ready.clone()
            if ready is not tensor:
                self._copies.append((tensor, ready))
            stepped.append(ready)
        grad, like = part.grad, stepped[0]
        plainly = not wraps_numbers(grad) and is_plain(grad) and is_aligned(grad) and same_layout(grad, like)
        if not plainly or writes.meet(*extent(grad)):
            grad = like.new_empty_strided(like.shape, like.stride()).copy_(grad)
        self._grads.append(grad)
        for name, tensor in zip(("param", *MOMENTS), stepped, strict=False):
            span[name] = tensor.data_ptr()
        span["grad"], span["size"] = grad.data_ptr(), count_reals(like)

    def run(self) -> None:
        """Take the step, and count it; several operations, to be guarded by `fastadam.step.interrupts`."""
        if self._plan is not None:
            self._plan.take()
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        for part in self._parts:
            part.step.add_(1)
