"""What must be the same on every rank, as bytes to compare, and as words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.members import Member
from fastadam.memory.words import counted, shown
from fastadam.step.after import After
from fastadam.step.gradient_settings import GradientSettings
from fastadam.step.hyperparameters import KEYS

PARAMETERS, OPTIONS = "the parameters", "the options"
MISSING, DTYPES, RATES, STEPS = (
    "which gradients are None",
    "the dtypes of gradients",
    "the learning rates that schedules return",
    "the steps taken before",
)


def parameters(members: Iterable[Member]) -> str:
    """Describe parameters: names, shapes and dtypes."""
    wholes = [member.whole for member in members]
    listed = (f"{each.label} of shape {each.shape} and dtype {each.dtype}" for each in wholes)
    return "; ".join([counted(len(wholes), "parameter"), *listed])


def options(groups: Sequence[Group], settings: GradientSettings, after: After) -> str:
    """Describe all options; functions of the step are compared by what they return."""
    found = []
    for number, group in enumerate(groups):
        values = group.hyper._asdict()
        values["lr"] = "a function" if callable(values["lr"]) else values["lr"]
        found += [f"{key}={shown(values[key])} in param_groups[{number}]" for key in KEYS]
    others = {**settings.choices._asdict(), **after.choices._asdict(), "grad_scale": settings.divisor}
    return "; ".join([*found, *(f"{name}={value!r}" for name, value in others.items())])


def missing(labels: Sequence[str], active: Sequence[bool]) -> str:
    """Say which gradients are None."""
    none = [label for label, is_there in zip(labels, active, strict=True) if not is_there]
    return "; ".join(f"no gradient of {label}" for label in none) or "all gradients"


def steps(groups: Iterable[Group]) -> bytes:
    """Return the step counters of all parameters."""
    return b"".join(group.steps.tobytes() for group in groups)


def told_steps(groups: Iterable[Group]) -> str:
    """Describe the step counters."""
    every = np.concatenate([group.steps for group in groups])
    return "; ".join(f"{step} of parameter {position}" for position, step in enumerate(every.tolist()))
