"""What an optimizer does about all gradients together: clip their norm, leave out or refuse what is not finite."""

from __future__ import annotations

import functools
import logging
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, SupportsFloat

from fastadam.memory.structs import MEASURES, REFUSES, SKIPS
from fastadam.step.hyperparameters import Real, as_flag, as_real, as_scalar
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import NONE, Norm

_log = logging.getLogger("fastadam")


class Choices(NamedTuple):
    """What was asked for; see `fastadam.Adam`."""

    max_grad_norm: Real | None = None
    skip_nonfinite: bool = False
    error_if_nonfinite: bool = False


DEFAULTS = Choices()


def check(choices: Choices) -> Choices:
    """Return the choices with plain numbers.

    Raises
    ------
    TypeError, ValueError
        If one is not what it must be.
    """
    limit = choices.max_grad_norm
    if limit is not None:
        limit = as_limit("max_grad_norm", limit)
    skip = as_flag("skip_nonfinite", choices.skip_nonfinite)
    refuse = as_flag("error_if_nonfinite", choices.error_if_nonfinite)
    if skip and refuse:
        raise ValueError(
            "skip_nonfinite=True leaves out what error_if_nonfinite=True refuses; set one of them to False"
        )
    return Choices(limit, skip, refuse)


def as_limit(name: str, value: Any) -> float:
    """Return what a norm is to be at most.

    Raises
    ------
    TypeError, ValueError
        If it is no number from 0 on.
    """
    limit = as_real(name, as_scalar(value))
    if not limit >= 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}; math.inf clips nothing")
    return limit


class GradientSettings:
    """The choices of one optimizer, and what came of them.

    Parameters
    ----------
    choices : Choices

    Attributes
    ----------
    choices : Choices
        Checked.
    norm : Norm
        What its plans read and write.
    divisor : float
        What gradients are divided by in the step that comes next.
    skipped_steps : int
        How many were left out.
    """

    __slots__ = ("_norm_elsewhere", "choices", "divisor", "norm", "skipped_steps")

    def __init__(self, choices: Choices = DEFAULTS) -> None:
        self.norm = Norm()
        self._norm_elsewhere: SupportsFloat | None = None
        self.divisor = 1.0
        self.skipped_steps = 0
        self.choose(choices)

    def choose(self, choices: Choices) -> bool:
        """Take over other choices; return whether plans have to be bound anew.

        Raises
        ------
        TypeError, ValueError
            If one is not what it must be; all is as before then.
        """
        self.choices = choices = check(choices)
        wanted = MEASURES if choices != DEFAULTS else 0
        wanted += SKIPS if choices.skip_nonfinite else REFUSES if choices.error_if_nonfinite else 0
        block = self.norm.block
        is_other = block["wanted"] != wanted
        block["max_norm"] = math.inf if choices.max_grad_norm is None else choices.max_grad_norm
        block["wanted"] = wanted
        if not wanted:
            block["norm"], block["coefficient"] = NONE, 1.0
        return bool(is_other)

    def divide_by(self, grad_scale: Any) -> None:
        """Let the gradients of the next step be divided by the scale of the loss.

        Raises
        ------
        TypeError, ValueError
            If it is no positive, finite number.
        """
        divisor = as_real("grad_scale", as_scalar(grad_scale))
        if not 0 < divisor < math.inf:
            raise ValueError(f"grad_scale must be positive and finite, got {divisor!r}")
        # In one go: what is compared here must say what native code reads there, whatever interrupts.
        write = functools.partial(operator.setitem, self.norm.block.values, "divisor", divisor)
        in_one_go([write, functools.partial(setattr, self, "divisor", divisor)])

    @property
    def grad_norm(self) -> float | None:
        """The norm of the last gradients, divided but not clipped; None where none was computed."""
        return self.norm.value if self._norm_elsewhere is None else float(self._norm_elsewhere)

    def note_norm(self, norm: SupportsFloat | None) -> None:
        """Note the norm that another library has computed; None where it is in the block again."""
        self._norm_elsewhere = norm

    def note_no_gradient(self) -> None:
        """Note that a step had no gradient: their norm is 0."""
        if self.norm.wanted:
            self.norm.block["norm"] = 0.0

    def count_skipped(self, calls: Sequence[Callable[[], object]] = ()) -> list[Any]:
        """Count a step that was left out, and make native calls that belong to it; return what they return."""
        returned = in_one_go([*calls, functools.partial(setattr, self, "skipped_steps", self.skipped_steps + 1)])
        if self.skipped_steps == 1:
            _log.warning(
                "a step was skipped, as gradients were not finite (skip_nonfinite=True); more such steps are "
                "counted in the optimizer's skipped_steps, and not logged"
            )
        return returned


def not_finite(names: Iterable[str]) -> RuntimeError:
    """Return the error of a step whose gradients are not finite, where that is to be one."""
    return RuntimeError(
        f"the gradients of {', '.join(names)} are not finite (error_if_nonfinite=True); no step was taken. Give "
        f"finite ones, or set error_if_nonfinite=False and, to leave such steps out, skip_nonfinite=True"
    )


class Setting:
    """An attribute of an optimizer that is one of its choices.

    Parameters
    ----------
    where : str, default "_gradient_settings"
        Name of the optimizer's attribute that has ``choices``, a named tuple, and ``choose(choices)``, which
        returns whether plans have to be bound anew.
    """

    def __init__(self, where: str = "_gradient_settings") -> None:
        self._where = where

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"As the argument {name!r} of the constructor; can be set between steps."

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else getattr(getattr(optimizer, self._where).choices, self._name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        settings = getattr(optimizer, self._where)
        if settings.choose(settings.choices._replace(**{self._name: value})):
            optimizer._settings_changed()

    def __delete__(self, optimizer: Any) -> None:
        raise AttributeError(f"{self._name} cannot be deleted; assign None or False to switch it off")
