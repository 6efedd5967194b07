"""The averages of an optimizer's parameters: tensors of our own, which steps move and the state dict carries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.buffers import aligned_zeros
from fastadam.memory.structs import AVERAGE
from fastadam.step.after import DEFAULTS, After, Averaging, check, weight_at
from fastadam.step.backend import Call
from fastadam.step.interrupts import in_one_go
from fastadam.step.locks import Guard
from fastadam.torch.gathering import fill
from fastadam.torch.replaced import REMEDY, Replaced
from fastadam.torch.selection import Selection
from fastadam.torch.tensors import DTYPES, count_reals, has_own_dispatch, is_dense, view_of

ALIGNMENT = 64  # bytes, from one average to the next


class Averages:
    """What an optimizer has of averages; see `fastadam.step.after`.

    They lie in buffers of NumPy's, which no tensor that a user gets hold of can resize or free, and are kept here
    as long as a plan may have their addresses. Parameters in bfloat16 and float16 have averages in float32.

    Parameters
    ----------
    guard : Guard
        The optimizer's.
    choices : Averaging
    """

    def __init__(self, guard: Guard, choices: Averaging = DEFAULTS) -> None:
        self.after = After(choices)
        self._guard = guard
        self._of: dict[Tensor, Tensor] = {}
        self.places: dict[int, tuple[int, int]] = {}  # for the view: by identity, group and index

    def __contains__(self, param: Tensor) -> bool:
        return param in self._of

    def __len__(self) -> int:
        return len(self._of)

    @property
    def choices(self) -> Averaging:
        """What was asked for."""
        return self.after.choices

    @property
    def are_kept(self) -> bool:
        """Whether there are any."""
        return self.after.averages

    def choose(self, choices: Averaging) -> bool:
        """Take over other choices; return whether plans have to be bound anew.

        Raises
        ------
        TypeError, ValueError
            If one is not what it must be.
        RuntimeError
            If a step is under way, or a block of `fastadam.torch.Adam.averaged`.
        """
        with self._guard.lock:
            self._guard.refuse_while_stepping("setting ema_decay or ema_warmup")
            choices, kept = check(choices), self.are_kept
            keeps = choices.ema_decay is not None
            dropped = [] if keeps else [functools.partial(setattr, self, "_of", {})]
            in_one_go([*self.after.choose_calls(choices), *dropped])
        return kept != keeps

    def of(self, param: Tensor) -> Tensor:
        """Return the average of a parameter that `begin` has seen: of its shape, in the dtype of the step."""
        return self._of[param]

    def begin(self, params: Sequence[Tensor], state: Container[Tensor]) -> None:
        """Begin averages of parameters that have none, as the parameters are, and let others go.

        Parameters
        ----------
        params : sequence of Tensor
            All of the optimizer's.
        state : container of Tensor
            The parameters that the optimizer remembers, in its groups or not.

        Raises
        ------
        RuntimeError
            If none can be kept of one of them.
        """
        new = [
            (param, view_of_checked(param, f"parameter {i}"))
            for i, param in enumerate(params)
            if param not in self._of
        ]
        if new:
            self._of.update(zip((param for param, _ in new), _tensors([view for _, view in new]), strict=True))
        if len(self._of) > len(params):
            held = set(map(id, params))
            self._of = {param: each for param, each in self._of.items() if id(param) in held or param in state}

    def resize_calls(self, old: Tensor, new: Tensor, selection: Selection) -> list[Call]:
        """Return native calls that let a parameter of other rows, and its average, take the place of another one.

        Parameters
        ----------
        old, new : Tensor
        selection : Selection
            The rows of the old one that the new one has.
        """
        (made,) = _tensors([view_of(new)])
        fill(made, self._of[old], selection, copies_parents=True)
        of = {
            (new if param is old else param): (made if param is old else each) for param, each in self._of.items()
        }
        return [functools.partial(setattr, self, "_of", of)]

    def without_calls(self, params: Sequence[Tensor]) -> list[Call]:
        """Return native calls that let averages go."""
        gone = set(map(id, params))
        left = {param: each for param, each in self._of.items() if id(param) not in gone}
        return [functools.partial(setattr, self, "_of", left)]

    def move_calls(self, param: Tensor, step: float, master: Tensor | None = None) -> list[Call]:
        """Return torch's operations that move an average without a kernel: its bits are those of one.

        Parameters
        ----------
        param : Tensor
        step : float
            The 1-based step of the parameter.
        master : Tensor, optional
            What the average follows, if not the parameter itself.
        """
        weight = weight_at(step, float(self.after.block["decay"]), float(self.after.block["warms_up"]))
        value, average = _as_reals(view_of(param) if master is None else master), _as_reals(self._of[param])
        if weight == 1:
            return [functools.partial(Tensor.copy_, average, value)]
        difference = torch.empty_like(average)
        return [
            functools.partial(Tensor.copy_, difference, value),
            functools.partial(Tensor.sub_, difference, average),
            functools.partial(Tensor.mul_, difference, weight),
            functools.partial(Tensor.add_, average, difference),
        ]

    def all(self) -> dict[Tensor, Tensor]:
        """Return all averages there are, by parameter."""
        return dict(self._of)

    def take_over(self, params: Sequence[Tensor], averages: Sequence[Tensor | None]) -> None:
        """Take copies of other averages; where one is None, it begins anew with the next step.

        Raises
        ------
        ValueError
            If one is not of its parameter's shape.
        """
        self.check_fit(params, averages)
        given = [(param, each) for param, each in zip(params, averages, strict=True) if each is not None]
        made = _tensors([view_of(param) for param, _ in given])
        for average, (_, each) in zip(made, given, strict=True):
            average.copy_(view_of(each))
        self._of = dict(zip((param for param, _ in given), made, strict=True))

    @staticmethod
    def check_fit(params: Sequence[Tensor], averages: Sequence[Tensor | None]) -> None:
        """Check that averages have the parameters' shapes.

        Raises
        ------
        ValueError
            If one has not.
        """
        for i, (param, each) in enumerate(zip(params, averages, strict=True)):
            if each is not None and not (isinstance(each, Tensor) and each.shape == param.shape):
                shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
                raise ValueError(
                    f"the state {AVERAGE!r} of parameter {i} is {shape}, the parameter is {tuple(param.shape)}"
                )


def view_of_checked(param: Tensor, label: str) -> Tensor:
    """Return a view of a parameter of which an average can be kept.

    Raises
    ------
    RuntimeError
        If none can.
    """
    why = None
    if has_own_dispatch(param):
        why = f"is a {type(param).__name__}"
    elif param.device.type not in ("cpu", "meta"):
        why = f"is on the device {param.device}"
    elif param.dtype not in DTYPES or param.layout != torch.strided:
        why = f"is of dtype {param.dtype} and layout {param.layout}"
    if why is not None:
        raise RuntimeError(
            f"ema_decay: {label} {why}, and averages are kept of plain tensors on the CPU; set ema_decay=None, "
            f"and use torch.optim.swa_utils.AveragedModel"
        )
    return view_of(param)


def _tensors(views: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors with the numbers of these, in one buffer for each dtype that is computed in."""
    made: list[Tensor | None] = [None] * len(views)
    by_dtype: dict[Any, list[int]] = {}
    for i, view in enumerate(views):
        if view.is_meta:
            made[i] = torch.empty_like(view)
        else:
            by_dtype.setdefault(np.dtype(DTYPES[view.dtype].format.compute), []).append(i)
    for dtype, indices in by_dtype.items():
        each = ALIGNMENT // dtype.itemsize
        lengths = [-(-count_reals(views[i]) // each) * each for i in indices]
        flat = torch.from_numpy(aligned_zeros(sum(lengths), dtype, AVERAGE))
        for i, part in zip(indices, flat.split(lengths), strict=True):
            made[i] = _shaped(part, views[i])
    return [each for each in made if each is not None]


def _shaped(part: Tensor, view: Tensor) -> Tensor:
    """Return a tensor over a part of a buffer that lies like another one, if that is dense, with its numbers."""
    if view.is_complex():
        part = torch.view_as_complex(part.view(-1, 2))
    stride = view.stride() if is_dense(view) else torch.empty(view.shape, device="meta").stride()
    made = part.as_strided(view.shape, stride, part.storage_offset())
    return made.copy_(view)


def _as_reals(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


class AveragesView(Mapping[Tensor, Tensor]):
    """The averages of the parameters over the steps, by parameter.

    A value is a live view in the parameter's shape, in float32 for parameters in bfloat16 and float16. It is empty
    where ``ema_decay`` is None.

    Parameters
    ----------
    averages : Averages
    groups : list of dict
        The optimizer's.
    state : mapping
        The optimizer's.
    replaced : Replaced, optional
        What error messages know of parameters that were resized.

    Raises
    ------
    RuntimeError
        If a parameter has no average yet, and none can be kept of it.
    """

    def __init__(
        self, averages: Averages, groups: list[dict[str, Any]], state: Any, replaced: Replaced | None = None
    ) -> None:
        self._averages, self._groups, self._state, self._replaced = averages, groups, state, replaced
        if len(averages) < sum(len(group["params"]) for group in groups):
            self._begin()

    def _begin(self) -> list[Tensor]:
        """Begin the averages that are missing, if any are kept, and return the parameters that have one."""
        if not self._averages.are_kept:
            return []
        places = {
            id(param): (number, index)
            for number, group in enumerate(self._groups)
            for index, param in enumerate(group["params"])
        }
        params = [param for group in self._groups for param in group["params"]]
        self._averages.begin(params, self._state)
        self._averages.places = places
        return params

    def _is_at_its_place(self, param: Tensor) -> bool:
        """Whether a parameter is in the groups, at the place where it was last: no list has to be searched."""
        try:
            number, index = self._averages.places[id(param)]
            return self._groups[number]["params"][index] is param and param in self._averages
        except (KeyError, IndexError):
            return False

    def __getitem__(self, param: Tensor) -> Tensor:
        if not self._averages.are_kept:
            raise KeyError("the optimizer keeps no averages; set ema_decay, such as to 0.999")
        if not self._is_at_its_place(param):
            self._begin()
            if not self._is_at_its_place(param):
                if self._replaced is not None and param in self._replaced:
                    raise KeyError(f"the parameter was resized; {REMEDY}")
                raise KeyError(param)
        average = self._averages.of(param)
        if not self._state.get(param):  # before its first step it is the parameter
            average.copy_(view_of(param))
        return view_of(average)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._begin())

    def __len__(self) -> int:
        return len(self._begin())


class Swapped:
    """Has averages in the place of the parameters within a ``with`` block: their numbers, not the tensors.

    Whatever interrupts the way in or out, all are exchanged or none; and however the block is left, the parameters
    get their numbers back, at the latest when this object is dropped.

    Parameters
    ----------
    view : callable
        Returns the `AveragesView`.
    guard : Guard
        Of the optimizer: no step is taken within the block.
    """

    def __init__(self, view: Callable[[], AveragesView], guard: Guard) -> None:
        self._view, self._guard = view, guard
        self._calls: list[Call] | None = None  # what gives the numbers back

    def __enter__(self) -> None:
        try:
            with self._guard.lock:
                self._guard.refuse_while_stepping("averaged")
                averages = self._view()
                if not len(averages):
                    raise ValueError(
                        "averaged() needs averages; set ema_decay, such as to 0.999, before the steps"
                    )
                pairs = [(view_of(param), average) for param, average in averages.items()]
                kept = [param.clone() for param, _ in pairs]
                back = [
                    functools.partial(Tensor.copy_, param, each)
                    for (param, _), each in zip(pairs, kept, strict=True)
                ]
                calls = [functools.partial(Tensor.copy_, *pair) for pair in pairs]
                note = functools.partial(setattr, self, "_calls", back)
                in_one_go([note, *self._guard.swap_calls(True), *calls])
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *raised: object) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._guard.lock:
            if self._calls is not None:
                note = functools.partial(setattr, self, "_calls", None)
                in_one_go([*self._calls, *self._guard.swap_calls(False), note])
