"""The scalars of one step, in float64 on the host; cext/reduce.c and the Numba kernels hold the same formula."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

from fastadam.memory.structs import ROW, Constant, Rates, Varying
from fastadam.step.hyperparameters import Hyperparameters

# The scalars for `fastadam.step.element`: a tuple with the fields of the struct that native code reads.
_namedtuple: Any = namedtuple  # type checkers want to see the fields written out
Row = _namedtuple("Row", ROW.dtype.names, module=__name__)


def bias_correction(log_beta: float, step: float) -> float:
    """Return ``1 - beta**step`` without cancellation.

    Parameters
    ----------
    log_beta : float
        ``log(beta)`` of a decay rate in [0, 1); minus infinity for 0.
    step : float
        Steps taken, this one included; a whole number, at least 1.

    Returns
    -------
    float
        In (0, 1], within a few ulps for every beta; ``1 - beta**step`` itself loses all digits for a beta
        close to one.
    """
    return -math.expm1(step * log_beta)


def log_of(beta: float) -> float:
    """Return the logarithm of a decay rate in [0, 1)."""
    return math.log(beta) if beta else -math.inf


def varying(rates: Rates, step: float) -> Varying:
    """Return the scalars of the 1-based `step`, a whole number.

    Backends in native code do the same operations in the same order, with the same C library.
    """
    return Varying(
        step_size=rates.lr / bias_correction(rates.log_beta1, step),
        inv_sqrt_bias_correction2=1.0 / math.sqrt(bias_correction(rates.log_beta2, step)),
        decay=1.0 - rates.lr * rates.weight_decay,
    )


class Coefficients:
    """What the scalars of one group's steps are made from.

    Parameters
    ----------
    hyper : Hyperparameters
        Checked options of the group.

    Attributes
    ----------
    constant : Constant
    rates : Rates
        With a schedule, the learning rate is NaN. The weight decay is the decoupled one.
    lr_at : callable or None
        The schedule: ``lr_at(step)`` returns the learning rate of the 1-based step, or raises TypeError or
        ValueError if it is none.
    """

    def __init__(self, hyper: Hyperparameters) -> None:
        beta1, beta2 = hyper.betas
        self.constant = Constant(
            beta1=beta1,
            one_minus_beta1=1.0 - beta1,
            beta2=beta2,
            one_minus_beta2=1.0 - beta2,
            eps=hyper.eps,
            l2=hyper.weight_decay if hyper.l2_on else 0.0,
            grad_scale=-1.0 if hyper.maximize else 1.0,
        )
        self.lr_at = hyper.lr_at if callable(hyper.lr) else None
        self.rates = Rates(
            lr=math.nan if callable(hyper.lr) else hyper.lr,
            log_beta1=log_of(beta1),
            log_beta2=log_of(beta2),
            weight_decay=hyper.weight_decay if hyper.decoupled_weight_decay else 0.0,
        )
