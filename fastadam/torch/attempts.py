"""Attempts at a step with what is known from the last ones: one call, if nothing has changed that matters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.backends import c
from fastadam.groups.patterns import Patterns
from fastadam.memory.arrays import Array
from fastadam.memory.structs import CHANGED, OTHER_GRADIENTS, OTHER_STEPS, TAKEN
from fastadam.step.coefficients import Coefficients
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import Norm
from fastadam.step.variants import flags_of
from fastadam.torch import native_attempt, python_attempt
from fastadam.torch.active import ActivePlan
from fastadam.torch.averages import Averages
from fastadam.torch.cache import TensorCache, fetch_gradients
from fastadam.torch.devices import ChosenBackends, follow_streams, thread_limit
from fastadam.torch.modes import in_grad_mode, without_overrides, without_threads_in_children
from fastadam.torch.part import Part
from fastadam.torch.plain_copies import attempt_with_copies
from fastadam.torch.tables import Ready, Tables
from fastadam.torch.tensor_offsets import tensor_offsets
from fastadam.torch.tensors import raise_versions, same_layout
from fastadam.torch.zeroing import note_zeroed

# Other gradients, then other steps, then the step itself; once more where a hook of autograd changes them.
MOST_ATTEMPTS = 4


class Bound(NamedTuple):
    """A plan, and the attempt at its step."""

    active: ActivePlan
    attempt: Callable[..., int]


def can_be_kept(groups: Sequence[dict[str, Any]], state: Any, parts: Sequence[Part], averages: Averages) -> bool:
    """Whether steps like one over these parts can be taken in one call: of plain tensors in plain containers."""
    return (
        isinstance(state, dict)
        and all(type(each["params"]) is list for each in groups)
        and all(part.has_memory and part.lies_plainly and part.counts_plainly for part in parts)
        and not any(part.written[0].is_inference() for part in parts)
        and (not averages.are_kept or all(same_layout(averages.of(part.param), part.written[0]) for part in parts))
    )


@functools.cache
def binder() -> Callable[[TensorCache, ActivePlan], Callable[..., int]]:
    """Return what makes attempts of plans: native ones, where they can be."""
    return native_attempt.bind if native_attempt.tensor_reader() else python_attempt.bind


class Attempts:
    """What an optimizer's steps are attempted with: its tensors as they were, and plans for patterns of gradients.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's `param_groups`.
    state : dict
        Its `state`.
    backends : ChosenBackends
    threads : int or None
        Upper limit that the user asked for.
    norm : Norm
        What is wanted of the norm of the gradients.
    averages : Averages

    Attributes
    ----------
    cache : TensorCache
    hypers : list of Hyperparameters
        Of each group; see `accept`.
    current : Bound or None
        What the next step is attempted with.
    tables : Tables
        Parameters whose gradients are sparse, as far as such steps can be attempted.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        state: dict[Any, Any],
        backends: ChosenBackends,
        threads: int | None,
        norm: Norm,
        averages: Averages,
    ) -> None:
        self.cache = TensorCache(groups, state, tensor_offsets(), native_attempt.tensor_reader())
        self.hypers: list[Hyperparameters] = []
        self._coefficients: list[Coefficients] = []
        self._backends, self._threads, self._norm, self._averages = backends, threads, norm, averages
        self._patterns: Patterns[Bound] = Patterns()
        self._any_pattern: Bound | None = None
        self._are_many = False  # patterns, more than are kept
        self._can_leave_out = True
        self.current: Bound | None = None
        self.tables = Tables(self.cache, threads, norm)

    def note(self, parts: Sequence[Part], active: Array) -> None:
        """Take up parts that can be stepped where they lie, and expect those that are `active` next."""
        self.cache.note([part if part.rows is None else part.as_dense() for part in parts])
        self.tables.note(parts, [*map(flags_of, self.hypers)])
        self._patterns.clear()
        self.current = self._any_pattern = None
        self._can_leave_out = bool(native_attempt.tensor_reader())
        self._expect(active)

    def learn(self, parts: Sequence[Part], hypers: list[Hyperparameters], n: int) -> bool:
        """Take up a step that was taken with care: its parts, which `can_be_kept`, among `n` parameters.

        Returns
        -------
        bool
            False if another thread has added or removed some meanwhile, so that nothing is known.
        """
        if len(self.cache.params) != n or len(self.cache.lists) != len(hypers):
            return False
        self.accept(hypers)
        active = np.zeros(n, bool)
        active[[part.position for part in parts if part.rows is None]] = True
        self.note(parts, active)
        return True

    def accept(self, hypers: list[Hyperparameters]) -> None:
        """Take over checked options of all groups, which the same compiled variants serve."""
        self.hypers = hypers
        self._coefficients = [Coefficients(hyper) for hyper in hypers]
        for active, _ in (*self._patterns, *([self._any_pattern] if self._any_pattern else ())):
            active.write_options(self._coefficients)
        self.tables.write_options(self._coefficients)

    def take_rows(self) -> int:
        """Take the step, where some gradients may be sparse, if nothing has changed but gradients and counters.

        Returns
        -------
        int
            See `take`.

        Raises
        ------
        RuntimeError
            If a sparse gradient is not what it must be.
        """
        grads = fetch_gradients(self.cache.tensors)
        if not self.cache.holds_the_same():
            return CHANGED
        # What is found out about sparse gradients is found out by torch's operations.
        make = functools.partial(self.tables.make_ready, grads)
        make = functools.partial(without_overrides, functools.partial(without_threads_in_children, make))
        ready = in_grad_mode(False, make)
        if isinstance(ready, int):
            return ready
        if ready is None:
            return self.take(grads)
        # The sparse ones stay in the other list: what frees them may run anyone's code.
        others = [None if i in ready.positions else grad for i, grad in enumerate(grads)]
        if any(grad is not None for grad in others):
            return self.take(others, ready)
        if not (self.cache.holds_the_same() and self.cache.state_is_same()):
            return CHANGED
        outcome, prepared = self.tables.prepare(ready)
        if prepared is not None:
            note = functools.partial(raise_versions, ready.params)
            try:
                in_one_go([*prepared.calls, note])
            except BaseException:  # an interrupt, perhaps after the step: autograd must not miss it
                note()
                raise
        return outcome

    def take(self, given: list[Any] | None = None, rows: Ready | None = None) -> int:
        """Take the step if nothing has changed but gradients and counters.

        Parameters
        ----------
        given : list, optional
            The gradients, or None, of all parameters; by default they are fetched.
        rows : Ready, optional
            A step over rows of parameters that have none in this list, to be taken in the same call.

        Returns
        -------
        int
            `fastadam.memory.structs.TAKEN`; or what stands in the way, and nothing has been written.

        Raises
        ------
        RuntimeError
            While a CUDA graph is being captured.
        """
        for _ in range(MOST_ATTEMPTS):
            if self.current is None:
                return CHANGED
            active, attempt = self.current
            if not active.is_serial and active.limit != thread_limit(self._threads):
                return CHANGED
            if rows is not None and not (active.backend is c and rows.plan.is_apart_from(active)):
                return rows.positions[0]
            if active.devices:
                follow_streams(active.devices)
            try:
                outcome = attempt(given) if rows is None else attempt(given, rows.pointers)
                if outcome >= 0 and rows is None and not self._averages.after.zeroes:
                    outcome, kept = attempt_with_copies(self.cache, active, attempt, outcome)
                    del kept  # not before the step is over
                if outcome == TAKEN:
                    self._note_written(active, rows)
                    return TAKEN
            except BaseException:  # an interrupt, perhaps after the step: autograd must not miss it
                self._note_written(active, rows)
                raise
            if outcome == OTHER_GRADIENTS:
                if not self._expect(self.cache.present.astype(bool)):
                    return CHANGED
            elif outcome == OTHER_STEPS:
                if not active.group_rows(self.cache.steps, self._coefficients):
                    return CHANGED
            else:
                return outcome
        return CHANGED

    def _note_written(self, active: ActivePlan, rows: Ready | None = None) -> None:
        params = active.params
        if active.leaves_out:
            params = list(itertools.compress(self.cache.tensors, self.cache.present.tolist()))
        raise_versions(params if rows is None else [*params, *rows.params])
        if self._averages.after.zeroes:
            note_zeroed(params)

    def _expect(self, active: Array) -> bool:
        """Let the next attempt be over these parameters; return whether they can be stepped in one call."""
        needed = active | self._idle(active)
        if not active.any() or not self.cache.known[needed].all():
            return False
        pattern = active.tobytes()
        self._are_many |= self._patterns.is_full and pattern not in self._patterns
        try:
            found = (self._are_many and self._for_any_pattern()) or self._patterns.find(
                pattern, functools.partial(self._bind, active)
            )
        except MemoryError:  # of a device: no reason to fail before, or even after, a step
            return False
        if found.active.is_apart:
            self.current = found
        return found.active.is_apart

    def _idle(self, active: Array) -> Array:
        """Return which parameters have no gradient, and averages that move nevertheless."""
        return ~active & self.cache.has_state if self._averages.are_kept else np.zeros_like(active)

    def _for_any_pattern(self) -> Bound | None:
        """Return the attempt that leaves out what has no gradient; None where there can be none.

        There are more patterns than are kept, and to make a plan for each takes longer than many a step.
        """
        if self._any_pattern is None and self._can_leave_out:
            known = self.cache.known.copy()
            ordinals = {self.cache.ordinals[i] for i in np.flatnonzero(known)}
            self._can_leave_out = all(self._backends.by_ordinal[each].LEAVES_OUT for each in ordinals)
            if self._can_leave_out:
                idle = known if self._averages.are_kept else np.zeros_like(known)
                found = self._bind(known, idle, leaves_out=True)
                self._can_leave_out = found.active.is_apart
                if self._can_leave_out:
                    found.active.write_options(self._coefficients)
                    self._patterns.clear()
                    self._any_pattern = found
        return self._any_pattern

    def _bind(self, active: Array, idle: Array | None = None, *, leaves_out: bool = False) -> Bound:
        limit, given = thread_limit(self._threads), self._threads is not None
        backends = self._backends.by_ordinal
        if idle is None:
            idle = self._idle(active)
        plan = ActivePlan(
            *(self.cache, active, idle, self.hypers, backends, limit, given),
            *(self._norm, self._averages, leaves_out),
        )
        return Bound(plan, binder()(self.cache, plan))
