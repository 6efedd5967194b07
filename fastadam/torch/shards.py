"""Steps over DTensors: what this process has of them is stepped as plain tensors are.

Under FSDP2, tensor parallelism and their like, a parameter, its gradient and its moments are DTensors, each around
a plain tensor with the numbers that this process has. A twin of the optimizer holds these plain tensors; it takes
the steps, and what it makes (moments, counters) goes into the optimizer's state, as DTensors. Only a norm of all
gradients needs the other processes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import REFUSED, SKIPPED, TAKEN
from fastadam.step.gradient_settings import GradientSettings, not_finite
from fastadam.torch import handover, options
from fastadam.torch.cache import GRAD, fetch_gradients
from fastadam.torch.careful import CarefulStep
from fastadam.torch.dtensors import are_among, is_placed_like, like, local, locals_of
from fastadam.torch.memo import FOUND_INF, NOT_FINITE, OURS, Memo
from fastadam.torch.quick import attempt
from fastadam.torch.shared_norm import NotSharedError, Sharing
from fastadam.torch.tensors import raise_versions
from fastadam.torch.zeroing import zero_calls


def take(optimizer: torch.optim.Adam, memo: Memo, *, skips: bool, remember: bool) -> str:
    """Take a step that cannot be taken in one call as the last one was; return which way it went.

    Parameters
    ----------
    optimizer : torch.optim.Adam
        One of ours.
    memo : Memo
        Its own.
    skips, remember : bool
        See `CarefulStep`.
    """
    if are_among(param for group in optimizer.param_groups for param in group["params"]):
        if memo.shards is None or memo.shards.version is not memo.version:
            memo.shards = Shards(memo)
        went: str | None = memo.shards.step(optimizer, memo, skips=skips)
        if went is not None:
            return went
    return CarefulStep(optimizer, memo, skips=skips, remember=remember).take()


class Shards:
    """The twin of an optimizer over what this process has of its parameters.

    Parameters
    ----------
    memo : Memo
        The optimizer's, whose settings the twin's steps have.

    Attributes
    ----------
    version : object
        That of `memo` when this was made; with another one, this is of no use any more.
    param_groups : list of dict
        As the optimizer's, with the local tensors.
    state : dict
        As the optimizer's, of the local tensors.
    """

    def __init__(self, memo: Memo) -> None:
        self.version = memo.version
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Any, Any] = {}
        self._memo = Memo(memo.backend, memo.threads)
        self._params: list[Any] = []  # the optimizer's, when they were last looked at,
        self._locals: list[Any] = []  # and what this process had of them
        self._sharing: Sharing | None = None
        self._placed: list[Any] = []  # what says how gradients are placed, as it was accepted
        self._noted: list[Any] = []  # of the optimizer's state, as of which the twin's is
        self._is_behind = False  # the optimizer's state, behind the twin's

    def step(self, optimizer: Any, memo: Memo, *, skips: bool) -> str | None:
        """Take a step over the local tensors.

        Returns
        -------
        str or None
            Which way it went; None where it is for torch's own code, and nothing was written.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If an option or a tensor is not what it must be, or gradients are not finite and that is an error.
        """
        groups = list(optimizer.param_groups)
        params = [param for group in groups for param in group["params"]]
        grads = fetch_gradients(params)
        if not isinstance(optimizer.state, dict):
            return None
        self._follow(optimizer, groups, params)
        mine = self._locals
        if not self._are_placed_alike(grads, params):
            return None
        given = locals_of(grads)
        settings, zeroes = memo.gradients, memo.averages.after.zeroes
        settings.note_norm(None)
        if settings.norm.wanted and not skips:
            try:
                outcome = self._measure(params, given, settings)
            except NotSharedError:
                return None
            if outcome == SKIPPED:
                settings.count_skipped(zero_calls(given) if zeroes else ())
                return NOT_FINITE
            if outcome == REFUSED:
                raise not_finite(_not_finite(given))
        inner = self._memo
        for name in ("coefficient", "divisor"):
            inner.gradients.norm.block[name] = settings.norm.block[name]
        if inner.averages.after.zeroes is not zeroes:
            inner.averages.after.zero(zeroes)
        shared = [(each, grad) for each, param, grad in zip(mine, params, given, strict=True) if each is not param]
        try:
            for each, grad in shared:
                setattr(each, GRAD, grad)
            went: str | None = OURS
            if skips or attempt(self, inner) != TAKEN:
                went = self._step_with_care(given, skips=skips)
        finally:
            for each, _ in shared:
                setattr(each, GRAD, None)
            if self._is_behind:
                self._give_back(optimizer, params)
        if went == OURS:
            raise_versions([param for param, grad in zip(params, grads, strict=True) if grad is not None])
        return went

    def _measure(self, params: Sequence[Any], given: Sequence[Tensor | None], settings: GradientSettings) -> int:
        """Compute the norm over all processes, and what gradients are multiplied by."""
        if self._sharing is None:
            self._sharing = Sharing(params)
        return settings.norm.reduce([self._sharing.total(given)])

    def _step_with_care(self, given: Sequence[Tensor | None], *, skips: bool) -> str | None:
        """Take the step that looks at everything, unless it is for torch's own code."""
        try:
            options.check_groups(self.param_groups, self._memo.edits)
        except options.NotOurs:
            return None
        if handover.reason_in_tensors(self.param_groups, given, self.state) is not None:
            return None
        self._is_behind = True
        went = CarefulStep(self, self._memo, skips=skips, remember=True).take()
        assert went in (OURS, FOUND_INF)
        return went

    # -------------------- the twin, and the optimizer

    def _are_placed_alike(self, grads: Sequence[Any], params: Sequence[Any]) -> bool:
        """Whether each gradient is shared out as its parameter is; mostly, as it was in the last step."""
        placed = [getattr(grad, "_spec", None) for grad in grads]
        if _are_same(placed, self._placed):
            unknown = [i for i, each in enumerate(placed) if each is None]  # of plain gradients, and of none
            return all(is_placed_like(grads[i], params[i]) for i in unknown)
        if all(map(is_placed_like, grads, params)):
            self._placed = placed
            return True
        return False

    def _follow(self, optimizer: Any, groups: Sequence[dict[str, Any]], params: list[Any]) -> None:
        """Bring the twin to what the optimizer has now."""
        found = locals_of(params)
        if not (_are_same(params, self._params) and _are_same(found, self._locals)):
            self._params, self._locals, self._sharing, self._placed = params, found, None, []
        left = iter(found)
        lists = [[next(left) for _ in group["params"]] for group in groups]
        if len(lists) != len(self.param_groups):
            self.param_groups = [{"params": each} for each in lists]
        for mine, group, each in zip(self.param_groups, groups, lists, strict=True):
            kept = mine["params"]  # the same list, if it can be: what is known of it goes on
            mine.clear()
            mine.update(group, params=kept if _are_same(kept, each) else each)
        if self._is_behind:
            self._give_back(optimizer, params)
        noted = list(_flat(optimizer.state))
        if not _are_same(noted, self._noted):
            self._read_state(optimizer.state, noted)

    def _read_state(self, state: dict[Any, Any], noted: list[Any]) -> None:
        """Take over the optimizer's state, of which `noted` is all that is in it."""
        self.state.clear()
        for param, entry in state.items():
            mine = entry
            if local(param) is not param and isinstance(entry, dict):
                mine = {name: local(value) for name, value in entry.items()}
            self.state[local(param)] = mine
        self._noted = noted

    def _give_back(self, optimizer: Any, params: Sequence[Any]) -> None:
        """Enter into the optimizer's state what the twin has made; whatever interrupts, it can be done again."""
        state = optimizer.state
        for param in params:
            mine = self.state.get(local(param))
            if not mine:
                continue
            entry = state.get(param)
            if local(param) is param:
                if entry is not mine:
                    state[param] = mine
                continue
            known = {} if entry is None else entry
            new = {
                name: like(value, param) if isinstance(value, Tensor) and name != "step" else value
                for name, value in mine.items()
                if local(known.get(name)) is not value
            }
            if new:
                dict.update(known, new)
            if entry is None:
                state[param] = known
        self._noted = list(_flat(state))
        self._is_behind = False


def _are_same(found: Sequence[object], noted: Sequence[object]) -> bool:
    """Whether these are the same objects, in the same order."""
    return len(found) == len(noted) and all(map(operator.is_, found, noted))


def _flat(state: dict[Any, Any]) -> Iterator[Any]:
    """Yield all objects in a state."""
    yield from state
    for entry in state.values():
        if isinstance(entry, dict):
            yield from entry.values()
        else:
            yield entry


def _not_finite(grads: Sequence[Tensor | None]) -> list[str]:
    """Return what to call the gradients that are not finite."""
    found = [f"parameter {i}" for i, grad in enumerate(grads) if grad is not None and not grad.isfinite().all()]
    return found or ["parameters on other processes"]
