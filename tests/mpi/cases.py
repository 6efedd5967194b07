"""Trainings over several ranks, and the same on one process: what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

STEPS = 50
# Blocks have 1024 elements: some of these parameters are less, some are several.
SHAPES: list[tuple[int, ...]] = [(3000,), (), (0,), (63,), (40, 70), (1,), (1025,), (1024,)]


class Case(NamedTuple):
    """A training.

    Attributes
    ----------
    options : mapping
        Of the optimizer.
    kind : str
        Name of its class.
    dtypes : str
        Of the parameters, taking turns.
    grad_dtype : str or None
        Of the gradients, where it is not their own.
    layout : str
    shapes : list of tuple
    missing : callable
        ``missing(step)`` returns the positions whose gradients are None.
    spoiled : sequence of int
        Steps in which a gradient of the last rank has a NaN.
    change : mapping of int to callable
        ``change(optimizer)`` before that step.
    step : mapping
        Arguments of each step.
    """

    options: Mapping[str, Any] = {}
    kind: str = "Adam"
    dtypes: str = "float32"
    grad_dtype: str | None = None
    layout: str = "in place"
    shapes: list[tuple[int, ...]] = SHAPES
    missing: Callable[[int], tuple[int, ...]] = lambda step: ()
    spoiled: tuple[int, ...] = ()
    change: Mapping[int, Callable[[Any], object]] = {}
    step: Mapping[str, Any] = {}


def _edit(optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.003
    optimizer.betas = (0.8, 0.99)


CLIPPED = {"max_grad_norm": 1.0}
CASES: dict[str, Case] = {
    "Adam": Case(),
    "AdamW": Case(kind="AdamW"),
    "packed": Case(layout="packed"),
    "objects": Case(layout="objects"),
    "nested": Case(layout="nested"),
    "one array": Case(shapes=[(5000,)]),
    "groups": Case({"weight_decay": 0.1}, layout="groups"),
    "packed groups": Case(layout="packed groups"),
    "options by name": Case({"lr": {"w0": 0.1, "*": 0.01}}, layout="named"),
    "less blocks than ranks": Case(shapes=[(1,), (63,)]),
    "one number": Case(shapes=[()]),
    "no number": Case(shapes=[(0,), (0, 3)]),
    "L2": Case({"weight_decay": 0.1}),
    "amsgrad": Case({"amsgrad": True}),
    "amsgrad later": Case(change={20: lambda optimizer: setattr(optimizer, "amsgrad", True)}),
    "maximize": Case({"maximize": True}),
    "betas of 0": Case({"betas": (0.0, 0.0)}),
    "eps of 0": Case({"eps": 0.0}),
    "schedule": Case({"lr": lambda step: 0.1 / step}),
    "edited options": Case(change={25: _edit}),
    "a group more": Case(layout="a group more"),
    "grad_scale": Case(step={"grad_scale": 3.0}),
    "clipped": Case(CLIPPED),
    "clipped, packed, scaled": Case(CLIPPED, layout="packed", step={"grad_scale": 1024.0}),
    "only measured": Case({"max_grad_norm": float("inf")}),
    "clipped later": Case(change={10: lambda optimizer: setattr(optimizer, "max_grad_norm", 0.5)}),
    "skipped": Case({"skip_nonfinite": True}, spoiled=(3, 4, 20)),
    "skipped, with zero_grad": Case({"skip_nonfinite": True}, spoiled=(0, 30), step={"zero_grad": True}),
    "NaN": Case(CLIPPED, spoiled=(40,)),
    "averages": Case({"ema_decay": 0.9}),
    "averages with a warm-up": Case({"ema_decay": 0.999, "ema_warmup": True}, layout="packed"),
    "averages later": Case(change={15: lambda optimizer: setattr(optimizer, "ema_decay", 0.5)}),
    "zero_grad": Case(step={"zero_grad": True}),
    "zero_grad, packed": Case(layout="packed", step={"zero_grad": True}),
    "None in turns": Case(CLIPPED, missing=lambda step: (step % 4, 6) if step % 3 else ()),
    "None with averages": Case(
        {"ema_decay": 0.9}, missing=lambda step: tuple(range(8)) if step == 7 else (step % 8,)
    ),
    "None everywhere": Case(CLIPPED, missing=lambda step: tuple(range(8)) if step % 2 else ()),
    "float64": Case({"weight_decay": 0.01, **CLIPPED}, kind="AdamW", dtypes="float64"),
    "complex64": Case(CLIPPED, dtypes="complex64"),
    "complex64, int8": Case({"state_dtype": "int8"}, dtypes="complex64"),
    "all dtypes": Case(CLIPPED, dtypes="float32 float64 complex64 complex128 float16 bfloat16"),
    "float16": Case(CLIPPED, dtypes="float16"),
    "bfloat16, at random": Case({"rounding": "stochastic", "seed": 7}, dtypes="bfloat16"),
    "masters": Case({"master_weights": True}, dtypes="bfloat16 float16", layout="in place"),
    "masters and int8, packed": Case(
        {"master_weights": True, "state_dtype": "int8"}, dtypes="bfloat16", layout="packed"
    ),
    "gradients of 16 bits": Case(grad_dtype="bfloat16"),
    "gradients of 32 bits": Case({"master_weights": True}, dtypes="bfloat16", grad_dtype="float32"),
    "int8": Case({"state_dtype": "int8", **CLIPPED}),
    "int8 with all": Case(
        {"state_dtype": "int8", "amsgrad": True, "ema_decay": 0.9, "skip_nonfinite": True, "weight_decay": 0.1},
        kind="AdamW",
        spoiled=(9,),
        missing=lambda step: (4,) if step % 5 == 0 else (),
    ),
    "bfloat16 state": Case({"state_dtype": "bfloat16", "seed": 3}),
    "float32 state of float64": Case({"state_dtype": "float32"}, dtypes="float64"),
    "NumPy's kernel": Case({"backend": "numpy", **CLIPPED}),
    "Numba's kernel": Case({"backend": "numba", "state_dtype": "bfloat16", **CLIPPED}),
    "two threads": Case({"threads": 2, **CLIPPED}, shapes=[(400_000,), (5,)]),
    "in several rounds": Case(CLIPPED, shapes=[(900_000,), (5,), (300_001,)], layout="in place"),
}  # fmt: skip
# Those whose arrays are large take fewer steps.
FEWER = {"two threads": 5, "in several rounds": 4}
