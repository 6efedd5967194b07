"""The Adam formula for one element, written once over five operations.

Each backend hands in its own ``mul, add, sub, div, sqrt`` (and ``maximum``): NumPy's ufuncs, the plain
operators under Numba, rounding intrinsics on a GPU. As every operation is rounded on its own, in this
order, all of them give the same bits. ``cext/element.inc`` is the same formula in C.
"""

from __future__ import annotations


def make_element(mul, add, sub, div, sqrt, maximum, flush, *, l2_on, decoupled_on, amsgrad_on):
    r"""Return the function that takes one Adam step for one element.

    Parameters
    ----------
    mul, add, sub, div : callable
        The four operations on two operands of the compute dtype, correctly rounded.
    sqrt : callable
        The square root, correctly rounded.
    maximum : callable
        ``maximum(old, new)``; a NaN on either side gives NaN.
    flush : callable
        ``flush(number, tiny)``: zero where the number is smaller in size than `tiny`, else, and for a NaN, the
        number.
    l2_on : bool
        Whether coupled weight decay, ``l2 * param``, is added to the gradient.
    decoupled_on : bool
        Whether decoupled weight decay, ``decay_rate * param``, is added to the update.
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

        g &= g \cdot s + \lambda_2 \theta \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + ((1 - \beta_2) g) g \\
        \theta &= \theta - \left( \frac{\alpha_t m}{\sqrt{v} \cdot c_t + \epsilon} + \lambda \theta \right)

    with the step size :math:`\alpha_t = \alpha / (1 - \beta_1^t)`, :math:`c_t = 1 / \sqrt{1 - \beta_2^t}` and the
    decay rate :math:`\lambda`, the product of learning rate and weight decay, computed once per step (formula:
    `fastadam.step.coefficients`). Kingma and Ba, "Adam", ICLR 2015, arXiv:1412.6980, Algorithm 1; decoupled decay:
    Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101; the running maximum: Reddi, Kale and Kumar, "On the
    Convergence of Adam and Beyond", ICLR 2018.

    The decay is part of the update, as ``1 - decay_rate`` has no digits left for a small one: in float32 it is 1
    below 3e-8, and three times too far from it just above. Moments below `row.tiny`, which is 0 in most steps,
    become zero, as those whose gradients stay zero would end as denormal numbers, with which processors are slow.
    """

    def element(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, row):
        grad = mul(grad, row.grad_scale)
        if l2_on:
            grad = add(grad, mul(row.l2, param))
        exp_avg = flush(add(mul(row.beta1, exp_avg), mul(row.one_minus_beta1, grad)), row.tiny)
        exp_avg_sq = flush(add(mul(row.beta2, exp_avg_sq), mul(mul(row.one_minus_beta2, grad), grad)), row.tiny)
        if amsgrad_on:
            max_exp_avg_sq = flush(maximum(max_exp_avg_sq, exp_avg_sq), row.tiny)
            second = max_exp_avg_sq
        else:
            second = exp_avg_sq
        denominator = add(mul(sqrt(second), row.inv_sqrt_bias_correction2), row.eps)
        update = div(mul(row.step_size, exp_avg), denominator)
        if decoupled_on:
            update = add(update, mul(row.decay_rate, param))
        return sub(param, update), exp_avg, exp_avg_sq, max_exp_avg_sq

    return element
