"""Steps over DTensors: what this process has of them is stepped as plain tensors are.

Under FSDP2, tensor parallelism and their like, a parameter, its gradient and its moments are DTensors, each around
a plain tensor with the numbers that this process has. A twin of the optimizer holds these plain tensors and takes
the steps; what it makes (moments, counters) is entered into the optimizer's state in the same go, as DTensors.
Only a norm of all gradients needs the other processes.

The twin keeps the plain tensors until a later step finds others in their place, and native plans have their
addresses no longer than that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import REFUSED, SKIPPED, TAKEN
from fastadam.step.backend import Call
from fastadam.step.gradient_settings import GradientSettings, not_finite
from fastadam.step.interrupts import in_one_go
from fastadam.torch import handover, options
from fastadam.torch.cache import GRAD, are_same, fetch_gradients
from fastadam.torch.careful import CarefulStep, refuse_compact
from fastadam.torch.dtensors import are_among, is_placed_like, like, locals_of
from fastadam.torch.memo import FOUND_INF, NOT_FINITE, OURS, Memo
from fastadam.torch.modes import without_overrides
from fastadam.torch.quick import attempt
from fastadam.torch.shared_norm import NotSharedError, Sharing
from fastadam.torch.tensors import raise_versions
from fastadam.torch.visit import Visit
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
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if are_among(params):
        refuse_compact(optimizer.param_groups, "a parameter is a DTensor, whose state is cut into shards")
        if memo.averages.are_kept:
            memo.averages.begin(params, optimizer.state)  # refuses DTensors
        if memo.shards is None or memo.shards.version is not memo.version:
            memo.shards = Shards(memo)
        step = functools.partial(memo.shards.step, optimizer, memo, skips=skips)
        went: str | None = without_overrides(step)
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
        self._are_apart = True  # no two parameters have the same local tensor
        self._sharing: Sharing | None = None
        self._placed: list[Any] = []  # what says how gradients are placed, as it was accepted
        self._noted: list[Any] = []  # of the optimizer's state, as of which the twin's is

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
        self._follow(optimizer.state, groups, params)
        if not (self._are_apart and self._are_placed_alike(grads, params)):
            return None
        given = locals_of(grads)
        settings, zeroes = memo.gradients, memo.averages.after.zeroes
        settings.note_norm(None)
        if settings.norm.wanted:  # also where nothing is stepped: the other processes may wait for it
            try:
                outcome = self._measure(params, given, settings)
            except NotSharedError:
                return None
            if outcome == SKIPPED and not skips:
                settings.count_skipped(zero_calls(given) if zeroes else ())
                return NOT_FINITE
            if outcome == REFUSED and not skips:
                raise not_finite(_not_finite(given))
        inner = self._memo
        inner.gradients.norm.follow(settings.norm)
        if inner.averages.after.zeroes is not zeroes:
            inner.averages.after.zero(zeroes)
        stepped = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
        written = [*stepped, *(grad for grad in grads if grad is not None and zeroes)]
        pairs = zip(self._locals, params, given, strict=True)
        lent = [(each, grad) for each, param, grad in pairs if each is not param]
        try:
            in_one_go([functools.partial(setattr, each, GRAD, grad) for each, grad in lent])
            if not skips and self._attempt(written) == TAKEN:
                return OURS
            return self._step_with_care(optimizer.state, params, given, written, skips=skips)
        finally:
            in_one_go([functools.partial(setattr, each, GRAD, None) for each, _ in lent])

    def _measure(self, params: Sequence[Any], given: Sequence[Tensor | None], settings: GradientSettings) -> int:
        """Compute the norm over all processes, and what gradients are multiplied by."""
        if self._sharing is None:
            self._sharing = Sharing(params, self._locals)
        return settings.norm.reduce([self._sharing.total(given)])

    def _attempt(self, written: Sequence[Any]) -> int:
        """Take the step if nothing has changed but gradients and counters; tell autograd what it has written."""
        try:
            outcome = attempt(self, self._memo)
        except BaseException:  # an interrupt, perhaps after the step: autograd must not miss it
            raise_versions(written)
            raise
        if outcome == TAKEN:
            raise_versions(written)
        return outcome

    def _step_with_care(
        self,
        state: dict[Any, Any],
        params: Sequence[Any],
        given: Sequence[Tensor | None],
        written: Sequence[Any],
        *,
        skips: bool,
    ) -> str | None:
        """Take the step that looks at everything, unless it is for torch's own code."""
        try:
            options.check_groups(self.param_groups, self._memo.edits)
        except options.NotOurs:
            return None
        if handover.reason_in_tensors(self.param_groups, given, self.state) is not None:
            return None
        whole = {id(each): param for each, param in zip(self._locals, params, strict=True)}
        tell = [] if skips else [functools.partial(raise_versions, list(written))]

        def more(visit: Visit) -> list[Call]:
            return [*_enter_calls(visit, state, whole), *tell]

        went = CarefulStep(self, self._memo, skips=skips, remember=True, more=more).take()
        assert went in (OURS, FOUND_INF)
        return went

    def _are_placed_alike(self, grads: Sequence[Any], params: Sequence[Any]) -> bool:
        """Whether each gradient is shared out as its parameter is; mostly, as it was in the last step."""
        placed = [getattr(grad, "_spec", None) for grad in grads]
        if are_same(placed, self._placed):
            unknown = [i for i, each in enumerate(placed) if each is None]  # of plain gradients, and of none
            return all(is_placed_like(grads[i], params[i]) for i in unknown)
        if all(map(is_placed_like, grads, params)):
            self._placed = placed
            return True
        return False

    # -------------------- from the optimizer to the twin

    def _follow(self, state: dict[Any, Any], groups: Sequence[dict[str, Any]], params: list[Any]) -> None:
        """Bring the twin to what the optimizer has now; whatever interrupts, the next time does it again."""
        found = locals_of(params)
        if not (are_same(params, self._params) and are_same(found, self._locals)):
            self._noted, self._placed, self._sharing = [], [], None
            self._are_apart = len(set(map(id, found))) == len(set(map(id, params)))
            self._params, self._locals = params, found
        left = iter(found)
        lists = [[next(left) for _ in group["params"]] for group in groups]
        mine = self.param_groups
        if len(mine) != len(groups):
            mine = self.param_groups = [{"params": each} for each in lists]
        for own, group, each in zip(mine, groups, lists, strict=True):
            kept = own["params"]  # the same list, if it can be: what is known of it goes on
            new = {**group, "params": kept if are_same(kept, each) else each}
            in_one_go([own.clear, functools.partial(own.update, new)])
        noted = _everything_in(state)
        if not are_same(noted, self._noted):
            self._read_state(state)
            self._noted = noted

    def _read_state(self, state: dict[Any, Any]) -> None:
        """Take over the optimizer's state; an entry that says what it said stays the same dict."""
        mine: dict[Any, Any] = {}
        for param, each in zip(state, locals_of(list(state)), strict=True):
            entry = state[param]
            if each is not param and isinstance(entry, dict):
                new = dict(zip(entry, locals_of(list(entry.values())), strict=True))
                known = self.state.get(each)
                same = isinstance(known, dict) and are_same([*known, *known.values()], [*new, *new.values()])
                entry = known if same else new
            mine[each] = entry
        self._noted = []
        in_one_go([self.state.clear, functools.partial(self.state.update, mine)])


def _enter_calls(visit: Visit, state: dict[Any, Any], whole: dict[int, Any]) -> list[Call]:
    """Return native calls that enter into an optimizer's state what a visit of its twin's has found missing there.

    Parameters
    ----------
    visit : Visit
    state : dict
        The optimizer's.
    whole : dict
        From the ids of local tensors to the optimizer's parameters.
    """
    calls: list[Call] = []
    for each, missing in visit.missing():
        param = whole[id(each)]
        if not missing:
            continue
        entry = state.get(param)
        if each is param:  # a plain one: the dict that the twin has, which the visit fills
            calls.append(functools.partial(dict.update, state, {param: visit.state_of(each)}))
            continue
        made = {name: value if name == "step" else like(value, param) for name, value in missing.items()}
        if isinstance(entry, dict):
            calls.append(functools.partial(entry.update, made))
        else:
            calls.append(functools.partial(dict.update, state, {param: made}))
    return calls


def _everything_in(state: dict[Any, Any]) -> list[Any]:
    """Return all objects in a state, and what this process has of those that are DTensors."""
    found = list(state)
    for entry in state.values():
        if isinstance(entry, dict):
            found += entry.values()
        else:
            found.append(entry)
    return found + locals_of(found)


def _not_finite(grads: Sequence[Tensor | None]) -> list[str]:
    """Return what to call the gradients that are not finite."""
    found = [f"parameter {i}" for i, grad in enumerate(grads) if grad is not None and not grad.isfinite().all()]
    return found or ["parameters on other processes"]
