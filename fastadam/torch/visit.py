"""The visit of an optimizer's parameters by a step that is taken with care: what has a gradient, and its state."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from fastadam.memory.structs import MASTER, MOMENTS, SCALES
from fastadam.step.backend import Call
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.torch.compact import Layout, Stored, layout_of
from fastadam.torch.devices import counters_on_devices
from fastadam.torch.part import Part
from fastadam.torch.sparse import LAZY, REFUSED, rows_of
from fastadam.torch.tensors import DTYPES, check_grad, check_like, check_stepped, has_its_memory, view_of


class Visit:
    """The parameters that have a gradient, checked, and state for those that have none yet.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's `param_groups`.
    grads : sequence of (Tensor or None)
        The gradient of each parameter, fetched before: that may be anyone's code.
    state : dict
        The optimizer's `state`, which is not written here.
    hypers : sequence of Hyperparameters
        Of each group.
    sparse : str, optional
        What is done with sparse gradients (see `fastadam.torch.sparse`); by default they are refused.

    Attributes
    ----------
    parts : list of Part
    n : int
        How many parameters there are, with or without a gradient.

    Raises
    ------
    TypeError, RuntimeError
        If a parameter, its gradient or its state is not what it must be.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        grads: Sequence[Tensor | None],
        state: Any,
        hypers: Sequence[Hyperparameters],
        sparse: str | None = None,
    ) -> None:
        self.parts: list[Part] = []
        self._sparse = sparse
        self._state = state
        params = [param for group in groups for param in group["params"]]
        if len(params) != len(grads):
            raise RuntimeError("parameters were added or removed while the gradients were fetched; step again")
        self.n = len(params)
        with_grad = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
        self._counts = counters_on_devices(with_grad, state)
        # By the id of the parameter: its state, and what that lacks.
        self._states: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._params: list[Tensor] = []
        position = 0
        for i, group in enumerate(groups):
            names = group.get("param_names")
            for j, param in enumerate(group["params"]):
                label = f"parameter {position}" if names is None else f"parameter {names[j]!r}"
                grad = grads[position]
                if grad is not None:
                    self._look_at(param, grad, position, i, label, hypers[i])
                position += 1

    def _look_at(
        self, param: Tensor, grad: Tensor, position: int, group: int, label: str, hyper: Hyperparameters
    ) -> None:
        is_sparse = grad.layout != torch.strided and param.layout == torch.strided
        if is_sparse and not (self._sparse == LAZY and grad.layout == torch.sparse_coo):
            raise RuntimeError(REFUSED)
        written = [viewed(param, label)]
        layout = layout_of(hyper, written[0].dtype)
        rows, read = None, view_of(grad)
        if is_sparse:
            rows, read = rows_of(read, written[0], layout, label)
        else:
            check_grad(read, written[0], f"the gradient of {label}")
        names = layout.names(hyper.amsgrad)
        if id(param) not in self._states:
            known = self._state.get(param)
            known = {} if known is None else known
            if not isinstance(known, dict):
                raise RuntimeError(f"the state of {label} is a {type(known).__name__}; it must be a dict")
            missing = _missing_state(dict(known), written[0], label, names, layout, self._counts)
            self._states[id(param)] = known, missing
            self._params.append(param)
        known, missing = self._states[id(param)]
        entry = {**known, **missing}
        tensors = tuple(entry[name] for name in names)
        for name, tensor in zip(names, tensors, strict=True):
            if not isinstance(tensor, Tensor):
                raise RuntimeError(f"the state {name!r} of {label} is a {type(tensor).__name__}, not a tensor")
            written.append(_state_view(tensor, written[0], layout.stored[name], f"the state {name!r} of {label}"))
        step = entry["step"]
        views = (tuple(written), read, view_of(step))
        self.parts.append(Part(position, group, param, known, step, names, tensors, *views, layout, label, rows))

    def missing(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """Return the parameters that are stepped, each with what its state lacks."""
        return [(param, self._states[id(param)][1]) for param in self._params]

    def state_of(self, param: Tensor) -> dict[str, Any]:
        """Return the dict that a parameter's state is in, or will be."""
        return self._states[id(param)][0]

    def enter_calls(self) -> list[Call]:
        """Return the calls, to be made in one go, that write what was missing into the optimizer's state."""
        missing = [functools.partial(dict.update, *self._states[id(param)]) for param in self._params]
        new = {
            param: known
            for param, (known, _) in zip(self._params, self._states.values(), strict=True)
            if self._state.get(param) is not known
        }
        # (Here the parameters' hashes are known: asking for one is a method in Python.)
        enter = dict.update if isinstance(self._state, dict) else type(self._state).update
        return [*missing, functools.partial(enter, self._state, new)]


def viewed(tensor: Tensor, label: str, *, is_compact: bool = False) -> Tensor:
    """Return a view of a tensor that a step can write (see `check_stepped`)."""
    view = view_of(tensor)
    check_stepped(view, label, is_compact=is_compact)
    return view


# What to do about state in another format than the options ask for.
_REMEDY = (
    "state_dtype and master_weights of a group are fixed once it has state; set them as they were, or make a new "
    "optimizer with them, and load the state into that: new.load_state_dict(old.state_dict())"
)


def _state_view(tensor: Tensor, param: Tensor, stored: Stored, label: str) -> Tensor:
    """Return a view of a tensor of the state, if it is what the options ask for."""
    view = view_of(tensor)
    if stored.kept.stored is None and view.dtype in DTYPES:
        check_stepped(view, label)
        remedy = "load_state_dict(state_dict()) casts the state to the parameters' dtypes"
        if view.shape != param.shape:
            remedy = "clear it to start anew, or load one of parameters of this shape"
        check_like(view, param, label, remedy)
        return view
    if view.dtype != stored.dtype:
        raise RuntimeError(f"{label} has dtype {view.dtype}, and the options ask for {stored.dtype}; {_REMEDY}")
    shape = stored.shape(param)
    if view.shape != shape:
        raise RuntimeError(
            f"{label} has shape {tuple(view.shape)}, and belongs in {shape}; clear the state to start anew, or "
            f"load one of parameters of this shape"
        )
    if view.device != param.device:
        raise RuntimeError(
            f"{label} is on {view.device}, its parameter is on {param.device}; load_state_dict(state_dict()) "
            f"takes it there"
        )
    check_stepped(view, label, is_compact=True)
    return view


def _missing_state(
    known: dict[str, Any],
    view: Tensor,
    label: str,
    names: Sequence[str],
    layout: Layout,
    counts: dict[int, float],
) -> dict[str, Any]:
    """Return what a parameter's state lacks: all of it before its first step.

    `view` is one of the parameter; `names` are those of what it needs, in `layout`; `counts` has the step counters
    that are on CUDA devices (see `counters_on_devices`).
    """
    missing: dict[str, Any] = {}
    if not known:
        missing["step"] = torch.tensor(0.0, dtype=torch_optimizer._get_scalar_dtype(), device="cpu")
        missing |= {name: layout.stored[name].zeros(view) for name in names}
        return missing
    for name in ("step", *MOMENTS[:2]):
        if name not in known:
            raise RuntimeError(f"the state of {label} has no {name!r}; clear it to start anew, or load it again")
    if (MASTER in known) != (MASTER in layout.stored):
        says = f"has no {MASTER!r}" if MASTER in layout.stored else f"has {MASTER!r}, for master_weights=True"
        raise RuntimeError(f"the state of {label} {says}; {_REMEDY}")
    if MOMENTS[2] in names and MOMENTS[2] not in known:  # switched on in mid-training
        of_maximum = MOMENTS[2], SCALES[MOMENTS[2]]
        missing |= {name: layout.stored[name].zeros(view) for name in names if name in of_maximum}
    for name in names:
        if name in SCALES.values() and name not in known and name not in missing:
            raise RuntimeError(f"the state of {label} has no {name!r}; {_REMEDY}")
    step = counts.get(id(known["step"]), known["step"])
    if isinstance(step, Tensor) and not has_its_memory(view_of(step)):
        raise RuntimeError(f"the state 'step' of {label} has a storage that was freed or shrunk; load it again")
    # Read once: other processes may count in shared memory.
    value = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise RuntimeError(f"the state 'step' of {label} must be a number of at least 0, got {step!r}")
    dtype = step.dtype if isinstance(step, Tensor) else torch_optimizer._get_scalar_dtype()
    if (torch.tensor(value, dtype=dtype, device="cpu") + 1).item() != value + 1:  # it cannot count any further
        missing["step"] = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    elif not isinstance(step, Tensor):
        missing["step"] = torch.tensor(float(value), dtype=dtype, device="cpu")
    return missing
