"""The Adam formula for one element, written once over five operations.

Each backend hands in its own ``mul, add, sub, div, sqrt`` (and ``maximum``): NumPy's ufuncs, the plain
operators under Numba, rounding intrinsics on a GPU. As every operation is rounded on its own, in this
order, all of them give the same bits. ``cext/element.inc`` is the same formula in C.
"""

from __future__ import annotations


def make_element(mul, add, sub, div, sqrt, maximum, *, l2_on, amsgrad_on):
    r"""Return the function that takes one Adam step for one element.

    Parameters
    ----------
    mul, add, sub, div : callable
        The four operations on two operands of the compute dtype, correctly rounded.
    sqrt : callable
        The square root, correctly rounded.
    maximum : callable
        ``maximum(old, new)``; a NaN on either side gives NaN.
    l2_on : bool
        Whether coupled weight decay, ``l2 * param``, is added to the gradient.
    amsgrad_on : bool
        Whether the running maximum of ``exp_avg_sq`` stands under the root.

    Returns
    -------
    callable
        ``element(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row)`` returns the new ``(param, exp_avg,
        exp_avg_sq, max_exp_avg_sq)``. Without `amsgrad_on` the last one is returned as it came. `row` is a
        `fastadam.step.coefficients.Row` of scalars in the compute dtype.

    Notes
    -----
    .. math::

        g &= g \cdot s + \lambda_2 \theta, \qquad \theta = \theta \cdot d \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + ((1 - \beta_2) g) g \\
        \theta &= \theta - \frac{\alpha_t m}{\sqrt{v} \cdot c_t + \epsilon}

    with the step size :math:`\alpha_t = \alpha / (1 - \beta_1^t)` and :math:`c_t = 1 / \sqrt{1 - \beta_2^t}`
    computed once per step (formula: `fastadam.step.coefficients`). Kingma and Ba, "Adam", ICLR 2015,
    arXiv:1412.6980, Algorithm 1; decoupled decay :math:`d`: Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101;
    the running maximum: Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018.
    """

    def element(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
        grad = mul(grad, row.grad_scale)
        if l2_on:  # reads the parameter before its decay
            grad = add(grad, mul(row.l2, param))
        param = mul(param, row.decay)
        exp_avg = add(mul(row.beta1, exp_avg), mul(row.one_minus_beta1, grad))
        exp_avg_sq = add(mul(row.beta2, exp_avg_sq), mul(mul(row.one_minus_beta2, grad), grad))
        if amsgrad_on:
            max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
            second = max_exp_avg_sq
        else:
            second = exp_avg_sq
        denominator = add(mul(sqrt(second), row.inv_sqrt_bias_correction2), row.eps)
        param = sub(param, div(mul(row.step_size, exp_avg), denominator))
        return param, exp_avg, exp_avg_sq, max_exp_avg_sq

    return element
