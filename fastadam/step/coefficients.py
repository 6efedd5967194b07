"""The scalars of one step, in float64 on the host; cext/adam.c and the Numba kernels hold the same formula."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastadam.step.hyperparameters import Hyperparameters

# Fields of a row of the table that the kernels read: those that move with the step, then those that do not.
VARYING = ("step_size", "inv_sqrt_bias_correction2", "decay")
CONSTANT = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "eps", "l2", "grad_scale")
# cext/adam.h has the same fields (fastadam_row). Kernels narrow each one to their compute dtype, once.
COEFFICIENTS = np.dtype([(name, np.float64) for name in VARYING + CONSTANT])
# What `VARYING` is computed from, with the number of the step.
PACE = ("lr", "log_beta1", "log_beta2", "weight_decay")


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


def varying(lr: float, log_beta1: float, log_beta2: float, weight_decay: float, step: float) -> tuple[float, ...]:
    """Return the scalars of the 1-based `step`, in the order of `VARYING`.

    Backends in native code do the same operations in the same order, with the same C library (``write_rows``).

    Parameters
    ----------
    lr : float
        The learning rate of this step.
    log_beta1, log_beta2 : float
        See `log_of`.
    weight_decay : float
        The decoupled one.
    step : float
        A whole number.
    """
    return (
        lr / bias_correction(log_beta1, step),
        1.0 / math.sqrt(bias_correction(log_beta2, step)),
        1.0 - lr * weight_decay,
    )


class Coefficients:
    """What the scalars of one group's steps are made from.

    Parameters
    ----------
    hyper : Hyperparameters
        Checked options of the group.

    Attributes
    ----------
    constant : tuple of float
        In the order of `CONSTANT`.
    pace : tuple of float
        In the order of `PACE`; with a schedule, the learning rate is NaN.
    lr_at : callable or None
        The schedule: ``lr_at(step)`` returns the learning rate of the 1-based step, or raises TypeError or
        ValueError if it is none.
    """

    def __init__(self, hyper: Hyperparameters) -> None:
        beta1, beta2 = hyper.betas
        l2 = hyper.weight_decay if hyper.l2_on else 0.0
        self.constant = (
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            hyper.eps,
            l2,
            -1.0 if hyper.maximize else 1.0,
        )
        self.lr_at = hyper.lr_at if callable(hyper.lr) else None
        self.pace = (
            math.nan if callable(hyper.lr) else hyper.lr,
            log_of(beta1),
            log_of(beta2),
            hyper.weight_decay if hyper.decoupled_weight_decay else 0.0,
        )
