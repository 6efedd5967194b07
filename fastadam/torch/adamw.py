"""`AdamW` for PyTorch: `Adam` with decoupled weight decay."""

from __future__ import annotations

import torch

from fastadam.torch.adam import Adam


class AdamW(Adam, torch.optim.AdamW):  # type: ignore[misc]
    """torch.optim.AdamW with another step: `Adam` with decoupled weight decay.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        See `Adam`, as for all others.
    lr : float or Tensor, default 1e-3
        Learning rate.
    betas : pair of float or Tensor, default (0.9, 0.999)
        Decay rates of the two moments.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 1e-2
        Each step takes ``lr * weight_decay * param`` off the parameter.
    amsgrad, maximize : bool, default False
        See `Adam`.
    foreach, fused : bool, optional
        Without effect on our own steps.
    capturable, differentiable : bool, default False
        True hands the steps over to torch's own code.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """
