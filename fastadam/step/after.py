"""What a step does with numbers once it has stepped them: it moves averages, and lets gradients become zero.

The average of a parameter over its steps (Polyak and Juditsky, "Acceleration of stochastic approximation by
averaging", SIAM J. Control Optim. 30, 1992), weighted exponentially, in the dtype that the step is computed in::

    ema = ema + weight * (param - ema)             # each operation rounded on its own
    ema = param                                    # where the weight is 1

The weight is 1 in the first step of a parameter, else ``1 - decay``. It moves in each step, whether or not the
parameter has a gradient in it: so it is what `torch.optim.swa_utils.AveragedModel` has, updated after each step.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from fastadam.memory.native import Block
from fastadam.memory.structs import AFTER
from fastadam.step.hyperparameters import Real, as_flag, as_real, as_scalar
from fastadam.step.interrupts import in_one_go


class Averaging(NamedTuple):
    """What was asked for; see `fastadam.Adam`."""

    ema_decay: Real | None = None
    ema_warmup: bool = False


DEFAULTS = Averaging()


def check(choices: Averaging) -> Averaging:
    """Return the choices with plain numbers.

    Raises
    ------
    TypeError, ValueError
        If one is not what it must be.
    """
    decay = choices.ema_decay
    if decay is not None:
        decay = as_real("ema_decay", as_scalar(decay))
        if not 0 <= decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], such as 0.999, got {decay!r}; None keeps no averages")
    warmup = as_flag("ema_warmup", choices.ema_warmup)
    return Averaging(decay, warmup)


def asked_for(ema_decay: Any = DEFAULTS.ema_decay, ema_warmup: Any = DEFAULTS.ema_warmup) -> Averaging:
    """Return what the arguments of a constructor ask for; it is checked where it is taken over.

    Raises
    ------
    ValueError
        If there is a warm-up of nothing. (Later on there may be: `ema_decay` can be None for a while.)
    """
    if ema_decay is None and ema_warmup is True:
        raise ValueError("ema_warmup=True needs ema_decay, such as ema_decay=0.999; without, no averages are kept")
    return Averaging(ema_decay, ema_warmup)


def weight_at(step: float, decay: float, warms_up: float) -> float:
    """Return how far averages move towards the parameters in the 1-based `step`.

    Backends in native code do the same operations in the same order.

    Parameters
    ----------
    step : float
        A whole number.
    decay : float
    warms_up : float
        Not 0 where the decay is at most ``(1 + step) / (10 + step)``, so that averages soon forget the first
        steps (as in TensorFlow's ``ExponentialMovingAverage(num_updates=step)``).
    """
    if step == 1:
        return 1.0
    if warms_up:
        limit = (1.0 + step) / (10.0 + step)
        if limit < decay:
            decay = limit
    return 1.0 - decay


def make_average(add: Callable[..., Any], sub: Callable[..., Any], mul: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``average(ema, param, weight)``, the average after a step, where the weight is not 1.

    Parameters
    ----------
    add, sub, mul : callable
        Operations on numbers of the dtype that is computed in, correctly rounded.
    """

    def average(ema: Any, param: Any, weight: Any) -> Any:
        return add(ema, mul(weight, sub(param, ema)))

    return average


class After:
    """What the steps of an optimizer do with numbers that they have stepped; its plans share it.

    Attributes
    ----------
    block : Block of AFTER
        What native code gets the address of.
    choices : Averaging
        Checked.
    zeroes : bool
        Whether the step that comes next lets its gradients become zero.
    """

    __slots__ = ("block", "choices", "zeroes")

    def __init__(self, choices: Averaging = DEFAULTS) -> None:
        self.block = Block(AFTER)
        self.zeroes = False
        self.choices = check(choices)
        in_one_go(self.choose_calls(self.choices))

    @property
    def averages(self) -> bool:
        """Whether averages are kept."""
        return bool(self.block["averages"])

    def choose_calls(self, choices: Averaging) -> list[Callable[[], object]]:
        """Return native calls that take over other choices, which have been checked."""
        decay = choices.ema_decay
        fields = {
            "decay": 0.0 if decay is None else decay,
            "warms_up": choices.ema_warmup,
            "averages": decay is not None,
        }
        return [
            functools.partial(setattr, self, "choices", choices),
            *(functools.partial(operator.setitem, self.block.values, *field) for field in fields.items()),
        ]

    def zero(self, zero_grad: Any) -> None:
        """Say whether the gradients of the next step become zero.

        Raises
        ------
        TypeError
            If it is not True or False.
        """
        zeroes = as_flag("zero_grad", zero_grad)
        # In one go: what is compared here must say what native code reads there, whatever interrupts.
        write = functools.partial(operator.setitem, self.block.values, "zeroes", zeroes)
        in_one_go([write, functools.partial(setattr, self, "zeroes", zeroes)])
