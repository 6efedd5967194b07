"""A step of all ranks together: gradients are checked, averaged and stepped, and the parameters gathered."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.groups.members import Member
from fastadam.memory import arrays
from fastadam.memory.arrays import Array
from fastadam.memory.host import HOST
from fastadam.memory.jax_arrays import with_views
from fastadam.memory.rows import Rows
from fastadam.memory.structs import REFUSED, SKIPPED, TAKEN
from fastadam.memory.written import Written
from fastadam.mpi import agreement
from fastadam.mpi.exchange import Means, Parameters
from fastadam.mpi.ranks import Operation, Ranks
from fastadam.step.gradient_settings import not_finite
from fastadam.step.hyperparameters import as_flag
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import take_total, total_of
from fastadam.work.arrays import WorkList
from fastadam.work.gradients import sort_gradients
from fastadam.work.inspecting import Inspector
from fastadam.work.planner import Planner

MOST_KEPT = 8  # of the choices of gradients that means are kept for


class Steps:
    """Takes the steps of one optimizer.

    Parameters
    ----------
    ranks : Ranks
    planner : Planner
        The optimizer's, whose work lists are over this rank's pieces.
    """

    def __init__(self, ranks: Ranks, planner: Planner) -> None:
        self._ranks, self._planner = ranks, planner
        self._members: list[Member] = []
        self._means: dict[Any, Means] = {}
        self._parameters = Parameters(ranks, ())
        self._written: Written | None = None
        self._inspector = Inspector((), planner.written)
        self._options: tuple[Any, str] = None, ""
        self._before = 0  # what those have received that are not kept any more

    @property
    def received(self) -> int:
        """How many bytes of gradients and parameters this rank has got from others so far."""
        return self._before + sum(each.received for each in self._means.values()) + self._parameters.received

    def take(self, operation: Operation, grads: Any, grad_scale: Any, zero_grad: Any) -> Exception | None:
        """Take a step (see `fastadam.mpi.Adam.step`).

        Returns
        -------
        RuntimeError or None
            What every rank is to raise, where gradients are not finite and that is to be an error.
        """
        planner = self._planner
        settings, groups = planner.settings, planner.groups
        zeroes = as_flag("zero_grad", zero_grad)
        if grad_scale != settings.divisor:
            settings.divide_by(grad_scale)
        if planner.version != groups.version:
            planner.catch_up()
        are_same = planner.containers.are_same
        if are_same is not None and not are_same():
            planner.containers.look()
        self._catch_up()
        found = planner.by_member.gather() if grads is None else sort_gradients(grads, planner)[1]
        ready = self._checked(found, zeroes)
        active = [grad is not None for grad in ready]
        given = [grad for grad in ready if grad is not None]
        nothing = not given and not planner.after.averages
        dtypes = tuple(grad.dtype for grad in given)
        key = bytes(active), dtypes
        means = self._means.get(key)
        if means is None:
            means = self._new_means(key, list(itertools.compress(self._members, active)))
        work = planner.by_member
        if not nothing:
            work = self._work(active, means.arrays)
        self._agree(operation, active, dtypes, [] if nothing else work.schedules, work)
        if nothing:
            settings.note_no_gradient()
            return None
        means.compute(given)
        outcome = self._step(work, means.arrays)
        error = None
        if outcome == TAKEN and given:
            self._parameters.gather()
        elif outcome == REFUSED:
            error = not_finite(self._not_finite(work, means.arrays))
        calls = [call for grad in given for call in HOST.clear_calls(grad)] if zeroes and error is None else []
        if outcome == SKIPPED:
            settings.count_skipped(calls)
        else:
            in_one_go(calls)
        return error

    def _catch_up(self) -> None:
        """Take up what has changed in the groups but for options."""
        groups = self._planner.groups
        members = [member for group in groups for member in group.members]
        if len(members) != len(self._members):
            if self._members:
                self._before = self.received
            self._parameters = Parameters(self._ranks, members)
            self._members, self._means = members, {}
            self._written = None
        if self._planner.written is not self._written:  # there are other averages, or moments of amsgrad, too
            self._written = self._planner.written
            self._inspector = Inspector([member.whole for member in members], self._written)

    def _new_means(self, key: Any, members: Sequence[Member]) -> Means:
        if len(self._means) >= MOST_KEPT:
            oldest = self._means.pop(next(iter(self._means)))
            self._before += oldest.received
        self._means[key] = made = Means(self._ranks, members, key[1])
        return made

    def _checked(self, found: Sequence[Any], zeroes: bool) -> list[Array | None]:
        """Return gradients as they are exchanged: contiguous, of the parameters' shapes.

        Raises
        ------
        TypeError, ValueError
            If one is not what it must be, or a parameter cannot be updated in place any more.
        """
        for grad, member in zip(found, self._members, strict=True):
            if isinstance(grad, Rows):
                raise TypeError(
                    f"the gradient of {member.label} is fastadam.Rows, and ranks share out whole parameters; give "
                    f"an array with zeros in the other rows, or step it in an optimizer of one process"
                )
        if self._inspector.are_plain(found := tuple(found), zeroes):
            return [arrays.base_view(grad) for grad in found]
        wholes = [member.whole for member in self._members]
        for whole in wholes:
            whole.check_unchanged()
            if not whole.owner.flags.writeable:
                arrays.check_parameter(whole.owner, whole.label, is_taken=True)
        views = with_views(found, [whole.array for whole in wholes], [whole.label for whole in wholes])
        check = self._planner.written.check_gradient
        ready: list[Array | None] = []
        for grad, whole in zip(views, wholes, strict=True):
            if grad is None:
                ready.append(None)
                continue
            label = f"the gradient of {whole.label}"
            ready.append(checked := check(grad, whole.array, label))
            if zeroes:
                HOST.check_zeroed(grad, checked, label)
        return ready

    def _work(self, active: Sequence[bool], means: tuple[Array, ...]) -> WorkList:
        """Return the work list for these means."""
        planner = self._planner
        if all(active):
            work = planner.for_gradients(planner.by_member, means)
            planner.put_first(work, planner.by_member)
        else:
            dtypes = iter(mean.dtype for mean in means)
            of_slots = [
                next(dtypes) if is_there else own
                for is_there, own in zip(active, planner.by_member.grad_dtypes, strict=True)
            ]
            work = planner.pattern(False, np.array(active, bool), tuple(of_slots))
        if work.schedules:
            work.call_schedules()
        return work

    def _agree(
        self,
        operation: Operation,
        active: Sequence[bool],
        dtypes: Sequence[np.dtype[Any]],
        schedules: Sequence[Any],
        work: WorkList,
    ) -> None:
        groups, settings, after = self._planner.groups, self._planner.settings, self._planner.after
        version = groups.version, settings.choices, after.choices, settings.divisor
        if self._options[0] != version:
            self._options = version, agreement.options(groups, settings, after)
        names = _names(tuple(dtypes))
        rates = work.plan.row_inputs["lr"].tobytes() if schedules else b""

        def describe(topic: str) -> str:
            if topic == agreement.OPTIONS:
                return self._options[1]
            if topic == agreement.MISSING:
                return agreement.missing([member.label for member in self._members], active)
            if topic == agreement.DTYPES:
                return names
            if topic == agreement.RATES:
                return "; ".join(map(repr, work.plan.row_inputs["lr"].tolist()))
            return agreement.told_steps(groups)

        topics = {
            agreement.OPTIONS: self._options[1].encode(),
            agreement.STEPS: agreement.steps(groups),
            agreement.MISSING: bytes(active),
            agreement.DTYPES: names.encode(),
            agreement.RATES: rates,
        }
        operation.agree(topics, describe)

    def _step(self, work: WorkList, means: tuple[Array, ...]) -> int:
        """Step this rank's pieces; return TAKEN or, as on every rank, what stood in the way."""
        work.look_at(means)
        norm = self._planner.settings.norm
        if norm.wanted:
            work.plan.add_up_squares()
            if self._ranks.size > 1:
                total = total_of(work.plan.totals)
                self._ranks.add_up(total, "step")
                take_total(norm.totals, total)
        return work.plan.finish()

    def _not_finite(self, work: WorkList, means: Sequence[Array]) -> list[str]:
        """Return the labels of parameters whose mean gradient is not finite, on any rank."""
        found: Array = np.array([not np.isfinite(mean).all() for mean in means], np.int64)
        self._ranks.add_up(found, "step")
        return [label for label, count in zip(work.labels, found.tolist(), strict=True) if count]


@functools.lru_cache(maxsize=64)
def _names(dtypes: tuple[np.dtype[Any], ...]) -> str:
    """Return the names of dtypes, each with its place."""
    return "; ".join(f"{dtype.name} {place}" for place, dtype in enumerate(dtypes))
