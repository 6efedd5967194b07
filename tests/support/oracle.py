"""Adam in exact arithmetic, straight from the papers, written apart from fastadam/step/element.py.

Every number is an mpmath number of 60 digits: bias corrections are powers, nothing is rounded, nothing is
rearranged. The tests measure the library's rounding errors against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mpmath
import numpy as np

mpmath.mp.dps = 60


class Exact(NamedTuple):
    """New values of one element, and the magnitudes that its rounding errors are measured against."""

    param: mpmath.mpf
    exp_avg: mpmath.mpf
    exp_avg_sq: mpmath.mpf
    max_exp_avg_sq: mpmath.mpf
    is_near_smallest: bool
    param_scale: mpmath.mpf
    exp_avg_scale: mpmath.mpf
    exp_avg_sq_scale: mpmath.mpf


def exact_bias_correction(beta: float, step: int) -> mpmath.mpf:
    """Return 1 - beta**step."""
    return 1 - mpmath.mpf(beta) ** step


def exact_step(
    param: float,
    grad: float,
    exp_avg: float,
    exp_avg_sq: float,
    max_exp_avg_sq: float,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    smallest: float = 0.0,
) -> Exact:
    """Take one step of Kingma and Ba's Algorithm 1 (Loshchilov and Hutter's Algorithm 2) for one real number.

    Moments below `smallest` become zero; `is_near_smallest` says whether rounding may decide about that for one.

    The scales are what the result would be if nothing cancelled: a sum of two large numbers that nearly cancel
    cannot be accurate to an ulp of the small rest, only to an ulp of the large numbers.
    """
    theta, g, m, v = (mpmath.mpf(float(x)) for x in (param, grad, exp_avg, exp_avg_sq))
    beta1, beta2 = map(mpmath.mpf, betas)
    if maximize:
        g = -g
    g_scale = abs(g)
    decay = mpmath.mpf(0)
    if decoupled_weight_decay:
        decay = mpmath.mpf(lr) * mpmath.mpf(weight_decay) * theta
    elif weight_decay:
        g = g + mpmath.mpf(weight_decay) * theta
        g_scale = g_scale + abs(mpmath.mpf(weight_decay) * theta)
    new_m = beta1 * m + (1 - beta1) * g
    new_v = beta2 * v + (1 - beta2) * g**2
    is_near = any(0 < abs(abs(moment) - smallest) < 1e-5 * smallest for moment in (new_m, new_v))
    new_m, new_v, old_max = (
        mpmath.mpf(0) if abs(moment) < smallest else moment
        for moment in (new_m, new_v, mpmath.mpf(float(max_exp_avg_sq)))
    )
    new_max = max(old_max, new_v)
    m_scale = abs(beta1 * m) + (1 - beta1) * g_scale
    v_scale = beta2 * v + (1 - beta2) * g_scale**2
    under_root = new_max if amsgrad else new_v
    m_hat = new_m / exact_bias_correction(betas[0], step)
    denominator = mpmath.sqrt(under_root / exact_bias_correction(betas[1], step)) + mpmath.mpf(eps)
    update = mpmath.mpf(lr) * m_hat / denominator if denominator else mpmath.mpf(0)
    # What cancels in either moment costs the update that many digits.
    lost = (m_scale / abs(new_m) if new_m else 1) * (v_scale / new_v if new_v else 1)
    param_scale = max(abs(theta), abs(update) * lost)
    return Exact(theta - (update + decay), new_m, new_v, new_max, is_near, param_scale, m_scale, v_scale)


def ulps(actual: Any, exact: mpmath.mpf, scale: mpmath.mpf, dtype: Any) -> float:
    """Return the error of `actual` in units in the last place of a number of the size `scale`."""
    size = np.dtype(dtype).type(float(max(abs(exact), scale)))
    return float(abs(mpmath.mpf(float(actual)) - exact) / mpmath.mpf(float(np.spacing(size))))
