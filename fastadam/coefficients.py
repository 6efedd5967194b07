"""The scalars of one step: the only bias correction in the library, in float64 on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastadam.hyperparameters import Hyperparameters

# A row of the table that the kernels read; cext/adam.h has the same fields (fastadam_row). Kernels narrow
# each one to their compute dtype, once.
COEFFICIENTS = np.dtype(
    [
        (name, np.float64)
        for name in (
            "beta1",
            "one_minus_beta1",
            "beta2",
            "one_minus_beta2",
            "step_size",
            "inv_sqrt_bias_correction2",
            "eps",
            "decay",
            "l2",
            "grad_scale",
        )
    ]
)


def bias_correction(beta: float, step: int) -> float:
    """Return ``1 - beta**step`` without cancellation.

    Parameters
    ----------
    beta : float
        Decay rate in [0, 1).
    step : int
        Steps taken, this one included; at least 1.

    Returns
    -------
    float
        In (0, 1], within a few ulps for every beta; ``1 - beta**step`` itself loses all digits for a beta
        close to one.
    """
    return -math.expm1(step * math.log(beta)) if beta else 1.0


def coefficients(hyper: Hyperparameters, step: int) -> tuple[float, ...]:
    """Return one row of scalars for the step number `step`.

    Parameters
    ----------
    hyper : Hyperparameters
        Checked hyperparameters of one group.
    step : int
        1-based number of the step about to be taken.

    Returns
    -------
    tuple of float
        In the order of `COEFFICIENTS`, float64.

    Raises
    ------
    TypeError, ValueError
        If `hyper.lr` is a callable and returns something that is no learning rate.
    """
    lr = hyper.lr_at(step)
    beta1, beta2 = hyper.betas
    weight_decay = hyper.weight_decay
    decoupled = hyper.decoupled_weight_decay
    return (
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        lr / bias_correction(beta1, step),
        1.0 / math.sqrt(bias_correction(beta2, step)),
        hyper.eps,
        1.0 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        -1.0 if hyper.maximize else 1.0,
    )
