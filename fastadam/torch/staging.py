"""One step over torch tensors of any layout, taken with care: nothing is remembered, everything is looked at.

Numbers that lie in memory as the kernels want them are stepped where they are; the others are copied, stepped and
copied back. The arithmetic is the backend's, and the bits do not depend on the layout.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE, COUNTER, SPAN
from fastadam.step.after import After
from fastadam.step.backend import Backend, Call, Prepared
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.step.row_plan import RowPlan
from fastadam.step.variants import flags_of, number_of
from fastadam.torch.averages import Averages
from fastadam.torch.part import COUNTERS, Part
from fastadam.torch.pieces import prepared_over_rows
from fastadam.torch.tensors import (
    Extents,
    count_reals,
    extent,
    is_aligned,
    is_plain,
    same_layout,
)


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
        Each span's position in that list.
    """
    used = sorted(set(ordinals), key=lambda ordinal: -1 if ordinal is None else ordinal)
    position_of = {ordinal: position for position, ordinal in enumerate(used)}
    return [backends[ordinal] for ordinal in used], np.array([position_of[ordinal] for ordinal in ordinals])


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
    norm : Norm
        What the gradients are multiplied by; nothing is wanted of it.
    averages : Averages
        Those of the parameters, if they are kept.
    counted : mapping of int to int, optional
        By the addresses of counters: how many steps will be counted before this one that are not yet.

    Raises
    ------
    RuntimeError
        If a tensor cannot be written.

    Notes
    -----
    Making it reads and writes no numbers of the user's but the counters; the calls do, and none of them fails.
    Those copy what cannot be stepped where it lies, in torch's current stream on a CUDA device, in which the step
    has to run, too: then nothing has to be waited for.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        hypers: Sequence[Hyperparameters],
        backends: Mapping[int | None, Backend],
        limit: int,
        norm: Norm,
        averages: Averages,
        counted: Mapping[int, int] | None = None,
    ) -> None:
        self._before: list[Call] = []
        self._after: list[Call] = []
        self._ready = Prepared([], None)
        self._kept: list[Any] = [parts]  # what native code has the addresses of
        stepped = [part for part in parts if part.has_memory]
        writes = Extents(each for part in stepped for each in part.extents)
        spans = np.zeros(len(stepped), SPAN.dtype)
        for span, part in zip(spans, stepped, strict=True):
            like = self._lay_out(span, part, writes)
            if averages.are_kept:
                span[AVERAGE] = self._average_like(averages.of(part.param), like).data_ptr()
        native = [part for part in stepped if part.counts_plainly]
        counters = np.zeros(len(native), COUNTER.dtype)
        counters["address"] = [part.counter.data_ptr() for part in native]
        counters["type"] = [COUNTERS[part.counter.dtype] for part in native]
        for part in parts:
            if not (part.has_memory and part.counts_plainly):
                self._after.append(functools.partial(Tensor.add_, part.counter, 1))
        if not stepped:
            return
        ahead = counted or {}
        keys = [(part.group, part.counter.item() + ahead.get(part.counter.data_ptr(), 0)) for part in stepped]
        rows = sorted(set(keys))
        row_of = {key: row for row, key in enumerate(rows)}
        spans["row"] = [row_of[key] for key in keys]
        steps = np.array([step for _, step in rows], np.float64)
        flags = [*map(flags_of, hypers)]
        variants: Array = np.array([number_of(part.formats, flags[part.group]) for part in stepped], np.int64)
        used, backend_of = shares([part.ordinal for part in stepped], backends)
        after = After(averages.choices)
        coefficients = [Coefficients(hypers[group]) for group, _ in rows]
        plan: Plan | RowPlan
        if all(part.rows is None for part in stepped):
            each = spans, variants, counters_in(steps), counters
            plan = Plan(*each, used, limit, False, backend_of, norm, after)
            plan.write_options(coefficients)
            self._ready = plan.prepare()
        else:
            plan, self._ready = prepared_over_rows(
                *(stepped, spans, variants, backend_of),
                coefficients=coefficients,
                step_counters=counters_in(steps),
                counters=counters,
                backends=used,
                limit=limit,
                norm=norm,
                after=after,
            )
        self._kept += [steps, plan]

    def _lay_out(self, span: Any, part: Part, writes: Extents) -> Tensor:
        """Find or make the memory that a part is stepped in; return the parameter there."""
        stepped = []
        for tensor in part.written:
            ready = tensor
            if not part.lies_plainly and not (is_plain(tensor) and is_aligned(tensor) and tensor.is_contiguous()):
                if tensor.is_inference() and not torch.is_inference_mode_enabled():
                    raise RuntimeError(
                        f"{part.label} or a tensor of its state was made in inference mode and lies in an order "
                        f"of its own: step in torch.inference_mode() too, or put a .clone() of it there"
                    )
                ready = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
                self._before.append(functools.partial(Tensor.copy_, ready, tensor))
                self._after.append(functools.partial(Tensor.copy_, tensor, ready))
            stepped.append(ready)
        grad, like = part.read, stepped[0]
        plainly = is_plain(grad) and is_aligned(grad) and (part.rows is not None or same_layout(grad, like))
        if not plainly or writes.meet(*extent(grad)):
            as_stepped = like if part.rows is None else grad
            grad = like.new_empty_strided(as_stepped.shape, as_stepped.stride(), dtype=part.read.dtype)
            self._before.append(functools.partial(Tensor.copy_, grad, part.read))
        self._kept += [stepped, grad]
        for name, tensor in zip(("param", *part.names), stepped, strict=True):
            span[name] = tensor.data_ptr()
        span["position"] = part.position
        span["grad"], span["size"] = grad.data_ptr(), count_reals(like)
        return like

    def _average_like(self, average: Tensor, like: Tensor) -> Tensor:
        """Find or make memory in which the numbers of an average lie as those of the parameter that is stepped."""
        if same_layout(average, like):
            return average
        copy = average.new_empty_strided(like.shape, like.stride())
        self._before.append(functools.partial(Tensor.copy_, copy, average))
        self._after.append(functools.partial(Tensor.copy_, average, copy))
        self._kept.append(copy)
        return copy

    def calls(self) -> list[Call]:
        """Return what takes the step and counts it, for `fastadam.step.interrupts.in_one_go`.

        They use memory that this object keeps alive.
        """
        return [*self._before, *self._ready.calls, *self._after]

    def check(self) -> None:
        """Raise what has failed on a device; called after the calls."""
        if self._ready.check is not None:
            self._ready.check()


def stage(
    parts: Sequence[Part],
    hypers: Sequence[Hyperparameters],
    backends: Mapping[int | None, Backend],
    limit: int,
    norm: Norm,
    averages: Averages,
    *,
    together: bool,
) -> list[Staged]:
    """Make parts ready, `together` or one after the other: see `Staged`."""
    if together:
        return [Staged(parts, hypers, backends, limit, norm, averages)]
    staged, counted = [], Counter[int]()
    for part in parts:
        staged.append(Staged([part], hypers, backends, limit, norm, averages, counted))
        counted[part.counter.data_ptr()] += 1
    return staged
