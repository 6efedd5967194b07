"""Parameters that change size between steps, states that begin anew, and groups that go."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.structs import MASTER, MOMENTS, SCALES
from fastadam.step.backend import Call
from fastadam.step.compact import count_blocks
from fastadam.step.interrupts import in_one_go
from fastadam.torch.cache import GRAD, get_grad
from fastadam.torch.compact import BLOCKS
from fastadam.torch.gathering import blocks, rows, sparse_rows
from fastadam.torch.memo import Memo
from fastadam.torch.modes import in_grad_mode, without_overrides, without_threads_in_children
from fastadam.torch.selection import Selection
from fastadam.torch.tensors import Extents, extent, has_own_dispatch, view_of
from fastadam.torch.visit import viewed


class Growth:
    """The methods; what is optimized is exchanged in one go, once all of the new is there."""

    param_groups: list[dict[str, Any]]
    state: Any
    _memo: Memo

    def resize(self, param: Tensor, keep: Any = None, grow: Any = 0) -> torch.nn.Parameter:
        """Prune, reorder, repeat and add rows of a parameter, with its state; return the new parameter.

        A row is a slice along the first axis. The new parameter takes the old one's place in `param_groups` and
        `state`; setting it in the module is left to you: ``module.weight = optimizer.resize(module.weight, ...)``.

        Parameters
        ----------
        param : Tensor
            One of the optimizer's: a leaf, of at least one dimension, that shares no memory with another one of
            them. It is not written, but loses its gradient.
        keep : 1-D tensor, array or sequence of int, or mask of bool, optional
            The rows that stay, in this order; one that comes several times is copied with all of its state. By
            default all stay.
        grow : int or 1-D tensor, array or sequence of int, default 0
            How many new rows come behind them, whose values, moments and averages are zero. Or a row of the old
            parameter for each new one, which gets that row's values, master weights and averages, and moments of
            zero.

        Returns
        -------
        torch.nn.Parameter
            Of the class of `param` if that is a subclass, with its dtype, device, `requires_grad` and attributes;
            hooks that were registered on it are not taken along. Its gradient is the old one's, with zeros in new
            rows, or None if there was none. Other memory than the old parameter's, which is yours to free.

        Raises
        ------
        TypeError, ValueError, IndexError
            If an argument is not what it must be, or `param` is not the optimizer's, or was resized before.
        RuntimeError
            If the parameter or its state is not what a step can write, or is of a type with a dispatch of its own
            (DTensors); while a step is under way, or within a block of `averaged`. Nothing has changed then.

        Notes
        -----
        The step counter stays, one for all rows. Rows of moments in 8 bits, whose blocks of 64 numbers go on
        from row to row, keep their bits where all numbers of a block come from one block, as those of rows of a
        multiple of 64 numbers do; others are rounded to nearest. What you have put into ``state[param]`` yourself
        is treated like a moment if it is a tensor of the parameter's shape, and stays as it is otherwise.

        Examples
        --------
        >>> import torch, fastadam.torch
        >>> points = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        >>> optimizer = fastadam.torch.Adam([points])
        >>> points = optimizer.resize(points, keep=[2, 0], grow=[0])
        >>> points.tolist()
        [[5.0, 6.0], [1.0, 2.0], [1.0, 2.0]]
        """
        memo = self._memo
        with memo.guard.lock:
            memo.guard.refuse_while_stepping("resize")
            index = _find(self.param_groups, memo, param)

            def prepare() -> tuple[torch.nn.Parameter, list[Call]]:
                return _prepare(self.param_groups, self.state, memo, param, f"parameter {index}", keep, grow)

            work: Callable[[], Any] = functools.partial(without_threads_in_children, prepare)
            try:
                memo.guard.stepping = True  # what runs on the way is refused where it steps or resizes
                with torch.inference_mode(False):
                    new, calls = in_grad_mode(False, functools.partial(without_overrides, work))
                in_one_go([*memo.changed_calls(), *calls])
            finally:
                memo.guard.stepping = False
        return new

    def reset(self, params: Tensor | Iterable[Tensor] | None = None) -> None:
        """Let parameters start anew, as if they had never been stepped.

        Their moments, step counters and all else in `state` go; averages begin anew as the parameters are, which
        stay what they are, as their gradients do.

        Parameters
        ----------
        params : Tensor or iterable of Tensor, optional
            Of the optimizer; by default all.

        Raises
        ------
        TypeError, ValueError
            If one is not a tensor, or not the optimizer's.
        RuntimeError
            While a step is under way, or within a block of `averaged`. Nothing has changed then.
        """
        given = None if params is None else [params] if isinstance(params, Tensor) else list(params)
        memo = self._memo
        with memo.guard.lock:
            memo.guard.refuse_while_stepping("reset")
            held = [param for group in self.param_groups for param in group["params"]]
            known = set(map(id, held))
            for i, param in enumerate(given or ()):
                if id(param) not in known:
                    _find(self.param_groups, memo, param, f"params[{i}]")  # says what is wrong
            in_one_go([*memo.changed_calls(), *_without_calls(self.state, held if given is None else given)])

    def remove_param_group(self, index: int) -> dict[str, Any]:
        """Take a group away, with the state and the averages of its parameters.

        Parameters
        ----------
        index : int
            Of the group in `param_groups`; negative ones count from the end.

        Returns
        -------
        dict
            The group. `add_param_group` takes it again, and its parameters start anew then.

        Raises
        ------
        TypeError, IndexError
            If there is no such group.
        ValueError
            If it is the only one: as in torch, an optimizer has parameters.
        RuntimeError
            While a step is under way, or within a block of `averaged`. Nothing has changed then.

        Notes
        -----
        Schedulers of torch count groups: they go on with the learning rates of the groups by their number. Make
        them anew, or remove the last group.
        """
        memo, groups = self._memo, self.param_groups
        with memo.guard.lock:
            memo.guard.refuse_while_stepping("remove_param_group")
            try:
                number = operator.index(index)
            except TypeError:
                raise TypeError(f"index must be the number of a group, got {type(index).__name__}") from None
            if not -len(groups) <= number < len(groups):
                raise IndexError(f"index must be the number of one of {len(groups)} groups, got {number}")
            if len(groups) == 1:
                raise ValueError(
                    "the only group cannot be removed, since an optimizer has parameters; add another one "
                    "before, or make a new optimizer"
                )
            group = groups[number]
            left = {id(param) for each in groups if each is not group for param in each["params"]}
            gone = [param for param in group["params"] if id(param) not in left]
            in_one_go(
                [
                    *memo.changed_calls(),
                    functools.partial(list.pop, groups, number),
                    *_without_calls(self.state, gone),
                    *memo.averages.without_calls(gone),
                ]
            )
        return group


def _find(groups: Sequence[Mapping[str, Any]], memo: Memo, param: Any, name: str = "param") -> int:
    """Return the number of a parameter of an optimizer.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    for i, each in enumerate(each for group in groups for each in group["params"]):
        if each is param:
            return i
    if not isinstance(param, Tensor):
        raise TypeError(f"{name} must be one of the optimizer's parameters, got {type(param).__name__}")
    memo.replaced.refuse(param, name)
    raise ValueError(
        f"{name} of shape {tuple(param.shape)} is not one of the optimizer's parameters; give the tensor itself "
        f"that is in param_groups, which a copy or a view of it is not"
    )


def _prepare(
    groups: Sequence[dict[str, Any]], state: Any, memo: Memo, param: Tensor, label: str, keep: Any, grow: Any
) -> tuple[torch.nn.Parameter, list[Call]]:
    """Return the parameter of other rows, and native calls that put it and its state in the old one's place."""
    _check_kind(param, label)
    # What may run anyone's code comes before the rest is looked at.
    n, grad = len(param), get_grad(param)
    selection = Selection(keep, grow, n)
    _find(groups, memo, param)
    params = [each for group in groups for each in group["params"]]
    view = _view_of_checked(param, params, label)
    if len(view) != n:
        raise RuntimeError(f"{label} got another size while the arguments of resize were read")
    selection.to(view.device)
    new = _parameter_like(param, rows(view, selection, copies_parents=True))
    if grad is not None:
        new.grad = _grad_of(grad, view, selection, label)
    calls: list[Call] = []
    if param in state:
        calls += _exchange_calls(state, param, new, _entry_of(state[param], view, selection, label))
    if memo.averages.are_kept:
        memo.averages.begin(params, state)
        calls += memo.averages.resize_calls(param, new, selection)
    for group in groups:
        places = [i for i, each in enumerate(group["params"]) if each is param]
        if not isinstance(group["params"], list):  # somebody has put something else there
            held = [new if each is param else each for each in group["params"]]
            calls += [functools.partial(dict.update, group, {"params": held})] if places else []
        else:
            calls += [functools.partial(list.__setitem__, group["params"], i, new) for i in places]
    calls += memo.replaced.note_calls(param, new)
    if grad is not None:
        calls.append(functools.partial(setattr, param, GRAD, None))
    return new, calls


def _check_kind(param: Tensor, label: str) -> None:
    """Check that a parameter is one that can have other rows.

    Raises
    ------
    ValueError, RuntimeError
        If it is none.
    """
    if has_own_dispatch(param):
        raise RuntimeError(f"{label} is a {type(param).__name__}; only plain tensors can be resized")
    if not param.is_leaf:
        raise ValueError(f"{label} is not a leaf, but computed from others; resize those")
    if not param.dim():
        raise ValueError(f"{label} has no dimensions, and so no rows; resize those that have")


def _view_of_checked(param: Tensor, params: Iterable[Tensor], label: str) -> Tensor:
    """Return a view of a parameter, if it can be written, and shares no memory with others.

    Raises
    ------
    ValueError, RuntimeError
        If it cannot, or does.
    """
    view = viewed(param, label)
    others = [each for each in params if each is not param and not has_own_dispatch(each)]
    own = Extents([extent(view)])
    if not view.is_meta and any(
        each.layout == torch.strided and each.device.type != "meta" and own.meet(*extent(view_of(each)))
        for each in others
    ):
        raise ValueError(
            f"{label} shares its memory with another one of the optimizer's parameters, and would not any more; "
            f"give the optimizer one of them, or the whole that they are parts of"
        )
    return view


def _parameter_like(param: Tensor, data: Tensor) -> torch.nn.Parameter:
    kind = type(param) if isinstance(param, torch.nn.Parameter) else torch.nn.Parameter
    new: torch.nn.Parameter = Tensor._make_subclass(kind, data, param.requires_grad)
    new.__dict__.update(param.__dict__)
    new.grad_dtype = param.grad_dtype
    return new


def _grad_of(grad: Tensor, view: Tensor, selection: Selection, label: str) -> Tensor:
    if has_own_dispatch(grad) or grad.shape != view.shape or grad.device != view.device:
        raise RuntimeError(
            f"the gradient of {label} is a {type(grad).__name__} of shape {tuple(grad.shape)} on {grad.device}, "
            f"and cannot be resized; set it to None before"
        )
    if grad.layout == torch.sparse_coo:
        return sparse_rows(view_of(grad), selection)
    return rows(viewed(grad, f"the gradient of {label}"), selection, copies_parents=False)


def _entry_of(entry: Any, view: Tensor, selection: Selection, label: str) -> Any:
    """Return what a parameter's state is for other rows, with new tensors.

    Raises
    ------
    RuntimeError
        If it does not fit the parameter.
    """
    if not isinstance(entry, dict):
        raise RuntimeError(f"the state of {label} is a {type(entry).__name__}; it must be a dict")
    made = dict(entry)
    for name, value in entry.items():
        where = f"the state {name!r} of {label}"
        if name in SCALES.values():
            continue  # with its moment
        if name not in (*MOMENTS, MASTER):
            if isinstance(value, Tensor) and value.shape == view.shape:
                made[name] = _rows_of(value, selection, where, copies_parents=False)
            continue
        shape = tuple(view.shape)
        if not isinstance(value, Tensor) or tuple(value.shape) not in (shape, (*shape, 2)):
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise RuntimeError(
                f"{where} is {what}, its parameter of shape {shape}; clear the state to start anew, or load one "
                f"of parameters of this shape"
            )
        if value.device != view.device:
            raise RuntimeError(
                f"{where} is on {value.device}, its parameter is on {view.device}; load_state_dict(state_dict()) "
                f"takes it there"
            )
        if value.dtype not in BLOCKS:
            made[name] = _rows_of(value, selection, where, copies_parents=name == MASTER)
            continue
        scale = entry.get(SCALES[name])
        if not isinstance(scale, Tensor) or scale.numel() != count_blocks(value.numel()):
            raise RuntimeError(
                f"the state of {label} has no {SCALES[name]!r} that goes with its {name!r}; load it again"
            )
        codes = view_of(value).contiguous()
        made[name], made[SCALES[name]] = blocks(codes, view_of(scale).float(), BLOCKS[value.dtype], selection)
    return made


def _rows_of(tensor: Tensor, selection: Selection, label: str, *, copies_parents: bool) -> Tensor:
    if has_own_dispatch(tensor):
        raise RuntimeError(f"{label} is a {type(tensor).__name__}; only plain tensors can be resized")
    return rows(viewed(tensor, label, is_compact=True), selection, copies_parents=copies_parents)


def _exchange_calls(state: Any, old: Tensor, new: Tensor, entry: Any) -> list[Call]:
    """Return native calls that put an entry under another parameter, in its place in the order."""
    if not isinstance(state, dict):
        return [functools.partial(state.pop, old), functools.partial(state.update, {new: entry})]
    # (Their hashes are known then: asking a tensor for one is a method in Python.)
    made = {(new if key is old else key): (entry if key is old else value) for key, value in state.items()}
    return [functools.partial(dict.clear, state), functools.partial(dict.update, state, made)]


def _without_calls(state: Any, params: Sequence[Tensor]) -> list[Call]:
    """Return native calls that take entries out of a state."""
    if not isinstance(state, dict):
        return [functools.partial(state.pop, param, None) for param in params]
    gone = set(map(id, params))
    left = {key: value for key, value in state.items() if id(key) not in gone}
    return [functools.partial(dict.clear, state), functools.partial(dict.update, state, left)]
