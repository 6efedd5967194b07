"""The scalars of one step: the only bias correction in the library, in float64 on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastadam.hyperparameters import Hyperparameters

# Fields of a row of the table that the kernels read: those that move with the step, then those that do not.
VARYING = ("step_size", "inv_sqrt_bias_correction2", "decay")
CONSTANT = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "eps", "l2", "grad_scale")
# cext/adam.h has the same fields (fastadam_row). Kernels narrow each one to their compute dtype, once.
COEFFICIENTS = np.dtype([(name, np.float64) for name in VARYING + CONSTANT])


def bias_correction(log_beta: float, step: int) -> float:
    """Return ``1 - beta**step`` without cancellation.

    Parameters
    ----------
    log_beta : float
        ``log(beta)`` of a decay rate in [0, 1); minus infinity for 0.
    step : int
        Steps taken, this one included; at least 1.

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


class Coefficients:
    """The scalars of one group's steps.

    Parameters
    ----------
    hyper : Hyperparameters
        Checked options of the group.

    Attributes
    ----------
    constant : tuple of float
        In the order of `CONSTANT`.
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
        self._lr_at = hyper.lr_at if callable(hyper.lr) else None
        self._lr = 0.0 if callable(hyper.lr) else hyper.lr
        self._log_beta1 = log_of(beta1)
        self._log_beta2 = log_of(beta2)
        self._decay = hyper.weight_decay if hyper.decoupled_weight_decay else 0.0

    def varying(self, step: int) -> tuple[float, float, float]:
        """Return the scalars of the 1-based `step`, in the order of `VARYING`.

        Raises
        ------
        TypeError, ValueError
            If the learning-rate schedule returns something that is no learning rate.
        """
        lr = self._lr if self._lr_at is None else self._lr_at(step)
        return (
            lr / bias_correction(self._log_beta1, step),
            1.0 / math.sqrt(bias_correction(self._log_beta2, step)),
            1.0 - lr * self._decay,
        )
