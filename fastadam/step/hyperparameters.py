"""The options of a parameter group: their defaults, and the one place that checks them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, SupportsFloat, TypeAlias, get_args

import numpy as np

from fastadam.memory.words import shown

# What users give. Schedules of other libraries return arrays of one element, which are taken too; those of optax
# are declared to return any number, complex ones among them.
Real: TypeAlias = float | np.floating[Any] | np.integer[Any]
Schedule: TypeAlias = Callable[[int], float]
LearningRate: TypeAlias = Real | Schedule | Callable[[int], SupportsFloat | complex]

StateDtype: TypeAlias = Literal["float32", "bfloat16", "int8"] | None
Rounding: TypeAlias = Literal["nearest", "stochastic"]

# What messages say of those.
SCHEDULE = "a schedule is a function of the 1-based step that returns its rate, such as lr=lambda step: 0.1 / step"


class Hyperparameters(NamedTuple):
    """Checked options of one group; the field defaults are the library's defaults (and torch's)."""

    lr: float | Callable[[int], SupportsFloat | complex] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False
    state_dtype: StateDtype = None
    master_weights: bool = False
    rounding: Rounding = "nearest"
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 1-based `step`, calling and checking a schedule.

        What a schedule raises is raised as an error of the same kind that names `lr` (see `_raised`).
        """
        if not callable(self.lr):
            return self.lr
        try:
            rate = self.lr(step)
        except Exception as error:
            _raised(step, error)
        if type(rate) is float and 0.0 <= rate < math.inf:  # in most steps; to say which it was takes a while
            return rate
        return _number(f"lr({step})", as_scalar(rate))

    @property
    def l2_on(self) -> bool:
        """Whether the gradient takes up coupled weight decay."""
        return self.weight_decay != 0 and not self.decoupled_weight_decay

    @property
    def decoupled_on(self) -> bool:
        """Whether the update takes up decoupled weight decay."""
        return self.weight_decay != 0 and self.decoupled_weight_decay


DEFAULTS = Hyperparameters()
KEYS = Hyperparameters._fields
# The options that say how state and weights lie in memory and are rounded, with their defaults.
PRECISION = {name: getattr(DEFAULTS, name) for name in KEYS[KEYS.index("state_dtype") :]}
# Those by which the state lies in memory: those of a group are fixed, and those of a state dict do not count.
FIXED = ("state_dtype", "master_weights")
# Those that stay as they are where a state is loaded.
STAYING = (*FIXED, "rounding")
STATE_DTYPES = None, "float32", "bfloat16", "int8"
ROUNDINGS = get_args(Rounding)


def check(options: Mapping[str, Any], where: str = "") -> Hyperparameters:
    """Check a group's options and return them in canonical types.

    Parameters
    ----------
    options : mapping
        Holds at least `KEYS`; other keys are not looked at.
    where : str
        Prefix of error messages, such as ``"param_groups[1]: "``.

    Returns
    -------
    Hyperparameters

    Raises
    ------
    TypeError
        If an option has the wrong type.
    ValueError
        If an option is out of range or NaN.
    """
    lr = options["lr"]
    betas = options["betas"]
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise TypeError(f"{where}betas must be a pair of numbers, got {shown(betas)}; try betas={DEFAULTS.betas}")
    return Hyperparameters(
        lr=lr if callable(lr) else _number(f"{where}lr", lr),
        betas=(_beta(f"{where}betas[0]", betas[0]), _beta(f"{where}betas[1]", betas[1])),
        eps=_number(f"{where}eps", options["eps"]),
        weight_decay=_number(f"{where}weight_decay", options["weight_decay"]),
        amsgrad=as_flag(f"{where}amsgrad", options["amsgrad"]),
        maximize=as_flag(f"{where}maximize", options["maximize"]),
        decoupled_weight_decay=as_flag(f"{where}decoupled_weight_decay", options["decoupled_weight_decay"]),
        state_dtype=_one_of(f"{where}state_dtype", options["state_dtype"], STATE_DTYPES),
        master_weights=as_flag(f"{where}master_weights", options["master_weights"]),
        rounding=_one_of(f"{where}rounding", options["rounding"], ROUNDINGS),
        seed=_seed(f"{where}seed", options["seed"]),
    )


def _one_of(name: str, value: Any, choices: Sequence[str | None]) -> Any:
    """Return one of several choices."""
    if value is None or isinstance(value, str):
        if value in choices:
            return value
        raise ValueError(f"{name} must be {_listed(choices)}, got {value!r}")
    raise TypeError(f"{name} must be {_listed(choices)}, got {shown(value)} of type {type(value).__name__}")


def _listed(choices: Sequence[str | None]) -> str:
    return " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])


def _seed(name: str, value: Any) -> int:
    """Return a seed: whole numbers of 63 bits, which native code and files hold."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, got {shown(value)} of type {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be at least 0 and below 2**63, got {value!r}")
    return int(value)


def check_eps(eps: float, computed: Iterable[tuple[str, np.dtype[Any]]], where: str = "") -> None:
    """Refuse an `eps` that is not zero and becomes zero where it is used.

    A parameter without gradients would become NaN then, by 0 / 0, which `eps` is there to prevent.

    Parameters
    ----------
    eps : float
        As `check` returns it.
    computed : iterable of (str, dtype)
        What parameters are called, and the dtype that each is computed with.
    where : str
        Prefix of the message.

    Raises
    ------
    ValueError
    """
    if eps == 0 or np.float32(eps) != 0:
        return
    for label, dtype in computed:
        if dtype.type(eps) == 0:
            least = np.finfo(dtype).smallest_normal
            raise ValueError(
                f"{where}eps={eps!r} is zero in {dtype}, which {label} is computed with; use eps={least!s} or "
                f"more, or eps=0.0"
            )


def as_scalar(value: Any) -> Any:
    """Unpack a 0-d array (what JAX and optax schedules return), leave everything else."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def as_real(name: str, value: Any) -> float:
    """Return a real number as a float; what is too large for one is infinite."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        given = f"{shown(value)} of type {type(value).__name__}"
        raise TypeError(f"{name} must be a real number, got {given}{_remedy(name, value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _remedy(name: str, value: Any) -> str:
    """Say what to do about an option that is no number; "" where that is not known."""
    if isinstance(value, Mapping):
        return "; values by name are given in a group dict, {'params': ..., 'lr': {'layers.0': 0.01}}"
    if getattr(value, "ndim", None) == 0:
        return f"; try float({name})"
    if isinstance(value, Iterator):
        return f"; {SCHEDULE}" if name.endswith("lr") else ""
    if callable(value):
        return "" if name.endswith("lr") else "; of the options, only lr can be a function of the step"
    try:
        inside = value if isinstance(value, str) else np.asarray(value).item()
        return f"; give the number itself, {float(inside)!r}"
    except Exception:  # there is no such number
        return f"; {SCHEDULE}" if name.startswith("lr(") else ""


def _raised(step: int, error: Exception) -> NoReturn:
    """Raise what a schedule has raised, with a message that names `lr`; the error itself is the cause.

    Python's own errors keep their type, so that who expects one finds it. Others, whose attributes may be of use,
    and which the handler of a signal may have raised in the middle of the schedule, are raised as they are.
    """
    kind = type(error)
    message = f"lr({step}) raised {kind.__name__}: {error}; {SCHEDULE}"
    if kind is StopIteration:  # which would end a loop, quietly
        raise RuntimeError(message) from error
    if kind.__module__ == "builtins":
        try:
            named = kind(message)
        except TypeError:  # those that are made of more than a message
            named = None
        if named is not None:
            raise named from error
    if hasattr(error, "add_note") and message not in getattr(error, "__notes__", ()):  # from Python 3.11 on
        error.add_note(message)
    raise error


def _number(name: str, value: Any) -> float:
    number = as_real(name, value)
    if not 0.0 <= number < math.inf:
        up = "; to go up the gradient, set maximize=True" if number < 0 and "lr" in name else ""
        raise ValueError(f"{name} must be finite and at least 0, got {shown(value)}{up}")
    return number


def _beta(name: str, value: Any) -> float:
    number = as_real(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return number


def as_flag(name: str, value: Any) -> bool:
    """Return a flag as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)
