"""The step that is taken with care: everything is looked at, and what is found is kept for the next ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import MASTER, REFUSED, SKIPPED
from fastadam.step.backend import Call
from fastadam.step.gradient_settings import not_finite
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import Norm
from fastadam.torch import handover, options, tables
from fastadam.torch.attempts import Attempts, can_be_kept
from fastadam.torch.cache import fetch_gradients, get_grad
from fastadam.torch.compact import decoded_master
from fastadam.torch.devices import follow_streams, thread_limit
from fastadam.torch.measuring import measure
from fastadam.torch.memo import FOUND_INF, NOT_FINITE, OURS, Memo
from fastadam.torch.modes import without_overrides, without_threads_in_children
from fastadam.torch.part import Part, all_apart
from fastadam.torch.staging import stage
from fastadam.torch.tensors import raise_versions
from fastadam.torch.visit import Visit
from fastadam.torch.zeroing import check as check_zero
from fastadam.torch.zeroing import zero_calls


class CarefulStep:
    """One step that is taken with care.

    Parameters
    ----------
    optimizer : torch.optim.Adam
        One of ours.
    memo : Memo
        Its own; what is to be done about all gradients is in it already.
    skips : bool
        Whether infinities were found before, so that nothing is stepped.
    remember : bool
        Whether what is found says something of the next steps.
    more : callable
        Returns native calls that are made in one go with the entering of state, given the `Visit`.
    """

    def __init__(
        self,
        optimizer: Any,
        memo: Memo,
        *,
        skips: bool,
        remember: bool,
        more: Callable[[Visit], list[Call]] = lambda visit: [],
    ) -> None:
        self._version = memo.version  # looked at first, see `Memo.remember`
        self._backend, self._threads = memo.backend, memo.threads
        self._optimizer, self._memo = optimizer, memo
        self._skips, self._remember, self._more = skips, remember, more
        self._groups = list(optimizer.param_groups)
        self._hypers: list[Hyperparameters] = []
        self._attempts: Attempts | None = None

    def take(self) -> str:
        """Take it; return which way it went."""
        memo, groups, state = self._memo, self._groups, self._optimizer.state
        memo.gradients.note_norm(None)
        # Whatever interrupts or fails on the way: what is noted of the groups never goes with what was known of
        # others.
        attempts, memo.attempts = memo.attempts, None
        grads: list[Tensor | None] = []
        params = [param for group in groups for param in group["params"]]
        memo.replaced.refuse_gradients(params)
        if memo.averages.are_kept:
            memo.averages.begin(params, state)
        try:
            self._hypers = hypers = options.check_groups(groups, memo.edits)
            grads = fetch_gradients(params)
            not_ours = handover.reason_in_tensors(groups, grads, state)
        except options.NotOurs as found:
            not_ours = str(found)
        if not_ours is not None:
            refuse_compact(groups, not_ours)
            return self._hand_over(not_ours, [*map(get_grad, params)])
        if (
            attempts is not None
            and attempts.cache.is_in(groups, state)
            and options.are_alike(hypers, attempts.hypers)
        ):
            self._attempts = attempts
            if attempts.hypers == hypers:
                memo.remember(attempts, self._version)
        step = functools.partial(self._step_over, grads)
        return without_overrides(functools.partial(without_threads_in_children, step))

    def _hand_over(self, reason: str, grads: list[Tensor | None]) -> str:
        memo = self._memo
        zero = []
        if memo.averages.after.zeroes:
            check_zero((f"parameter {i}", grad) for i, grad in enumerate(grads) if grad is not None)
            zero = zero_calls(grads)
        if self._skips:
            in_one_go(zero)
            return FOUND_INF
        scaling, memo.scaling = memo.scaling, {}  # taken care of here
        try:
            taken = handover.take(self._optimizer, memo.gradients)
        finally:
            memo.scaling = scaling
        if not taken:
            in_one_go(zero)
            return NOT_FINITE
        in_one_go([*self._average_calls([None] * len(grads), 0), *zero])
        return f"torch: {reason}"

    def _average_calls(self, grads: Sequence[Tensor | None], ahead: int) -> list[Call]:
        """Return what moves the averages of parameters that are not stepped, where they have been before.

        Parameters
        ----------
        grads : sequence of Tensor or None
            Of each parameter.
        ahead : int
            How many steps come before that are not counted yet.
        """
        state, averages = self._optimizer.state, self._memo.averages
        if not averages.are_kept:
            return []
        params = [param for group in self._groups for param in group["params"]]
        found = [
            (param, float(state[param]["step"]) + ahead)
            for param, grad in zip(params, grads, strict=True)
            if grad is None and state.get(param)
        ]
        calls = []
        for param, step in found:
            rest = state[param].get(MASTER)
            master = None if rest is None else decoded_master(param, rest)
            calls += averages.move_calls(param, step, master)
        return calls

    def _step_over(self, grads: list[Tensor | None]) -> str:
        memo, groups, hypers = self._memo, self._groups, self._hypers
        settings = memo.gradients
        visit = Visit(groups, grads, self._optimizer.state, hypers, memo.sparse)
        parts = visit.parts
        if not parts:
            settings.note_no_gradient()
            in_one_go(self._average_calls(grads, 1))
            return OURS
        chooser = memo.chooser(self._backend)
        chooser.choose_for(parts)
        chosen, limit = chooser.by_ordinal, thread_limit(self._threads)
        follow_streams([chosen[each] for each in {part.ordinal for part in parts} - {None}])
        zero = []
        if memo.averages.after.zeroes:
            check_zero((part.label, each) for part in parts if (each := grads[part.position]) is not None)
            zero = zero_calls(part.read for part in parts)
        if self._skips:
            in_one_go([*visit.enter_calls(), *self._more(visit), *zero])
            return FOUND_INF
        if settings.norm.wanted:
            outcome = measure(parts, chosen, limit, settings.norm)
            if outcome == SKIPPED:
                settings.count_skipped(zero)
                return NOT_FINITE
            if outcome == REFUSED:
                raise not_finite(part.label for part in parts if not torch.isfinite(part.read).all())
        # What is written overlaps: one after the other, as torch does.
        apart = all_apart(parts)
        staged = stage(parts, hypers, chosen, limit, _known(settings.norm), memo.averages, together=apart)
        calls = [call for each in staged for call in each.calls()] + self._average_calls(grads, 1) + zero
        count = functools.partial(
            raise_versions, [part.param for part in parts if not part.written[0].is_inference()]
        )
        entering = [*visit.enter_calls(), *self._more(visit)]
        try:
            in_one_go([*entering, *calls, count])
            for each in staged:
                each.check()
        except BaseException:  # of a device, or an interrupt after the step: autograd must not miss it
            count()
            raise
        if apart and (self._remember or self._has_other_kinds(parts)):
            self._learn(parts, visit.n)
        return OURS

    def _has_other_kinds(self, parts: Sequence[Part]) -> bool:
        """Whether gradients are of other kinds than the last ones, as the next ones will be then."""
        if self._attempts is None:
            return False
        seen, known = self._attempts.cache.seen, self._attempts.tables.known
        return any(
            part.position not in known
            if part.rows is not None
            else part.position in seen and seen[part.position].likes_grad.dtype != part.read.dtype
            for part in parts
        )

    def _learn(self, parts: list[Part], n: int) -> None:
        """Let the next step be attempted with what was found, if it is plain enough."""
        memo, groups, state, attempts = self._memo, self._groups, self._optimizer.state, self._attempts
        if not can_be_kept(groups, state, parts, memo.averages):
            return
        chooser = memo.chooser(self._backend)
        has_rows = any(part.rows is not None for part in parts)
        if has_rows and not tables.can_be_kept(parts, chooser, memo.averages):
            return
        if attempts is None or not attempts.cache.holds_the_same():
            attempts = Attempts(groups, state, chooser, self._threads, memo.gradients.norm, memo.averages)
        memo.attempts = None  # an interrupt on the way leaves nothing that is half known
        memo.remember(attempts if attempts.learn(parts, self._hypers, n) else None, self._version)


def refuse_compact(groups: Sequence[Mapping[str, Any]], why: str) -> None:
    """Refuse a step that is not for our kernels, where there are formats that only those know.

    Parameters
    ----------
    groups : sequence of mapping
        The optimizer's `param_groups`.
    why : str
        What the kernels do not serve.

    Raises
    ------
    RuntimeError
    """
    found = options.compact_in(groups)
    if found is not None:
        raise RuntimeError(
            f"{found} is for steps of our own kernels, and torch's code would take this one ({why}); undo that, "
            f"or make an optimizer without {found.partition('=')[0]}, and load the state into it: "
            f"new.load_state_dict(old.state_dict())"
        )


def _known(norm: Norm) -> Norm:
    """Return one of which nothing is wanted any more, with the same coefficient."""
    known = Norm()
    known.follow(norm)
    return known
