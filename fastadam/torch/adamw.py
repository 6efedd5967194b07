"""`AdamW` for PyTorch: `Adam` with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fastadam.torch.adam import Adam
from fastadam.torch.signatures import with_choices

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

    from fastadam.step.hyperparameters import Rounding, StateDtype


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
    max_grad_norm, skip_nonfinite, error_if_nonfinite, ema_decay, ema_warmup
    state_dtype, master_weights, rounding, seed, sparse
        See `Adam`.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            params: ParamsT,
            lr: float | Tensor = 1e-3,
            betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
            eps: float = 1e-8,
            weight_decay: float = 1e-2,
            amsgrad: bool = False,
            *,
            maximize: bool = False,
            foreach: bool | None = None,
            capturable: bool = False,
            differentiable: bool = False,
            fused: bool | None = None,
            max_grad_norm: float | None = None,
            skip_nonfinite: bool = False,
            error_if_nonfinite: bool = False,
            ema_decay: float | None = None,
            ema_warmup: bool = False,
            state_dtype: StateDtype = None,
            master_weights: bool = False,
            rounding: Rounding = "nearest",
            seed: int = 0,
            sparse: Literal["lazy"] | None = None,
        ) -> None: ...

    else:

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)

        __init__.__signature__ = with_choices(torch.optim.AdamW.__init__)
