"""The scalars of one step, in float64 on the host; cext/reduce.c and the Numba kernels hold the same formula."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from fastadam.memory.structs import ROW, Constant, Rates, Varying
from fastadam.step.bias_correction import bias_correction, log_of
from fastadam.step.hyperparameters import Hyperparameters

# The scalars for `fastadam.step.element`: a tuple with the fields of the struct that native code reads.
_namedtuple: Any = namedtuple  # type checkers want to see the fields written out
Row = _namedtuple("Row", ROW.dtype.names, module=__name__)

# By compute dtype: the unit of `tiny` in rows.
SMALLEST_NORMAL = {
    np.dtype(np.float32): np.finfo(np.float32).smallest_normal,
    np.dtype(np.float64): np.finfo(np.float64).smallest_normal,
}

# Added to a number below 2**51 in size and taken off again, it leaves the nearest whole one.
TO_WHOLE = 1.5 * 2.0**52

# Moments too small to be normal numbers become zero where eps is at least this, whose square is 2**24 times the
# smallest normal float32: after the first steps, that changes no update by more than 2**-24 of the learning rate.
FLUSHES_FROM_EPS = 2.0**-51


def flushes_at(step: float) -> bool:
    """Whether small moments become zero in the 1-based `step`: in every eighth.

    In each, that would be up to a quarter of the time of a step in the caches (docs/performance.md), and of no use
    in most of them.
    """
    eighths = step * 0.125
    return (eighths + TO_WHOLE) - TO_WHOLE == eighths


def varying(rates: Rates, step: float, scale: float = 1.0) -> Varying:
    """Return the scalars of the 1-based `step`, a whole number, whose gradients are multiplied by `scale`.

    Backends in native code do the same operations in the same order.
    """
    correction1 = bias_correction(rates.log_beta1_high, rates.log_beta1_low, step)
    correction2 = bias_correction(rates.log_beta2_high, rates.log_beta2_low, step)
    return Varying(
        step_size=rates.lr / correction1,
        inv_sqrt_bias_correction2=1.0 / math.sqrt(correction2),
        decay_rate=rates.lr * rates.weight_decay,
        tiny=rates.tiny if flushes_at(step) else 0.0,
        grad_scale=rates.sign * scale,
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
    seed : int
        Of what is rounded at random.
    """

    def __init__(self, hyper: Hyperparameters) -> None:
        beta1, beta2 = hyper.betas
        log_beta1, log_beta2 = log_of(beta1), log_of(beta2)
        self.constant = Constant(
            beta1=beta1,
            one_minus_beta1=1.0 - beta1,
            beta2=beta2,
            one_minus_beta2=1.0 - beta2,
            eps=hyper.eps,
            l2=hyper.weight_decay if hyper.l2_on else 0.0,
        )
        self.lr_at = hyper.lr_at if callable(hyper.lr) else None
        self.seed = hyper.seed
        self.rates = Rates(
            lr=math.nan if callable(hyper.lr) else hyper.lr,
            log_beta1_high=log_beta1.high,
            log_beta1_low=log_beta1.low,
            log_beta2_high=log_beta2.high,
            log_beta2_low=log_beta2.low,
            weight_decay=hyper.weight_decay if hyper.decoupled_on else 0.0,
            tiny=1.0 if hyper.eps >= FLUSHES_FROM_EPS else 0.0,
            sign=-1.0 if hyper.maximize else 1.0,
        )
