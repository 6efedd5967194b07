"""The visit of an optimizer's parameters by a step that is taken with care: what has a gradient, and its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import MOMENTS
from fastadam.torch.devices import counters_on_devices
from fastadam.torch.staging import Part
from fastadam.torch.tensors import check_grad, check_like, check_stepped


class Visit:
    """The parameters that have a gradient, checked, and state for those that have none yet.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's `param_groups`.
    state : dict
        The optimizer's `state`, which is not written before `enter_state`.
    hypers : sequence of Hyperparameters
        Of each group.

    Attributes
    ----------
    parts : list of Part
    n : int
        How many parameters there are, with or without a gradient.

    Raises
    ------
    RuntimeError
        If a parameter, its gradient or its state is not what it must be.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], state: Any, hypers: Sequence[Hyperparameters]) -> None:
        self.parts: list[Part] = []
        self._state = state
        with_grad = [param for group in groups for param in group["params"] if param.grad is not None]
        self._counts = counters_on_devices(with_grad, state)
        # By the id of the parameter: its state, and what that lacks.
        self._states: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._params: list[Tensor] = []
        self.n = 0
        for i, group in enumerate(groups):
            names = group.get("param_names")
            for j, param in enumerate(group["params"]):
                label = f"parameter {self.n}" if names is None else f"parameter {names[j]!r}"
                self._look_at(param, i, label, hypers[i].amsgrad)
                self.n += 1

    def _look_at(self, param: Tensor, group: int, label: str, amsgrad: bool) -> None:
        grad = param.grad
        if grad is None:
            return
        if grad.layout != torch.strided and param.layout == torch.strided:
            raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")
        check_stepped(param, label)
        check_grad(grad, param, f"the gradient of {label}")
        if id(param) not in self._states:
            known = self._state.get(param)
            known = {} if known is None else known
            self._states[id(param)] = known, _missing_state(known, param, label, amsgrad, self._counts)
            self._params.append(param)
        known, missing = self._states[id(param)]
        entry = {**known, **missing}
        moments = tuple(entry[name] for name in MOMENTS[: 3 if amsgrad else 2])
        for name, moment in zip(MOMENTS, moments, strict=False):
            if not isinstance(moment, Tensor):
                raise RuntimeError(f"the state {name!r} of {label} is a {type(moment).__name__}, not a tensor")
            check_stepped(moment, f"the state {name!r} of {label}")
            remedy = "load_state_dict(state_dict()) casts the state to the parameters' dtypes"
            check_like(moment, param, f"the state {name!r} of {label}", remedy)
        self.parts.append(Part(self.n, group, param, grad, known, entry["step"], moments, label))

    def enter_state(self) -> None:
        """Write what was missing into the optimizer's state."""
        for param in self._params:
            known, missing = self._states[id(param)]
            known.update(missing)
            if self._state.get(param) is not known:
                self._state[param] = known


def _missing_state(
    known: Any, param: Tensor, label: str, amsgrad: bool, counts: dict[int, float]
) -> dict[str, Any]:
    """Return what a parameter's state lacks: all of it before its first step.

    `counts` has the step counters that are on CUDA devices (see `counters_on_devices`).
    """
    if not isinstance(known, dict):
        raise RuntimeError(f"the state of {label} is a {type(known).__name__}; it must be a dict")
    missing: dict[str, Any] = {}
    names = MOMENTS[: 3 if amsgrad else 2]
    if not known:
        missing["step"] = torch.tensor(0.0, dtype=torch_optimizer._get_scalar_dtype(), device="cpu")
        missing |= {name: torch.zeros_like(param, memory_format=torch.preserve_format) for name in names}
        return missing
    for name in ("step", *MOMENTS[:2]):
        if name not in known:
            raise RuntimeError(f"the state of {label} has no {name!r}; clear it to start anew, or load it again")
    if amsgrad and MOMENTS[2] not in known:  # switched on in mid-training
        missing[MOMENTS[2]] = torch.zeros_like(param, memory_format=torch.preserve_format)
    step = counts.get(id(known["step"]), known["step"])
    value = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise RuntimeError(f"the state 'step' of {label} must be a number of at least 0, got {step!r}")
    if not isinstance(step, Tensor):
        missing["step"] = torch.tensor(float(value), dtype=torch_optimizer._get_scalar_dtype())
        step = missing["step"]
    if (step + 1).item() != value + 1:  # its dtype cannot count any further
        missing["step"] = torch.tensor(float(value), dtype=torch.float64)
    return missing
