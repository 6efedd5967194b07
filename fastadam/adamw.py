"""`AdamW` for arrays: `Adam` with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadam.adam import Adam
from fastadam.step import after, gradient_settings
from fastadam.step.backend import BackendName
from fastadam.step.hyperparameters import DEFAULTS, LearningRate, Real, Rounding, StateDtype
from fastadam.step.laziness import SKIP, Lazy

if TYPE_CHECKING:
    from fastadam.groups.forms import FilePath, Params


class AdamW(Adam, closed=True):
    """Adam with decoupled weight decay: `Adam` with other defaults.

    Parameters
    ----------
    params : ndarray, Parameter, Packed, iterable, mapping or list of dict
        See `Adam`, as for all others.
    lr : float or callable, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        Decay rates of the two moments.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 1e-2
        Each step takes ``lr * weight_decay * param`` off the parameter.
    amsgrad, maximize : bool, default False
        See `Adam`.
    state_dtype : str, optional
        See `Adam`.
    master_weights : bool, default False
        See `Adam`.
    rounding : str, default "nearest"
        See `Adam`.
    seed : int, default 0
        See `Adam`.
    max_grad_norm : float, optional
        See `Adam`.
    skip_nonfinite, error_if_nonfinite : bool, default False
        See `Adam`.
    ema_decay : float, optional
        See `Adam`.
    ema_warmup : bool, default False
        See `Adam`.
    lazy : str, default "skip"
        See `Adam`.
    backend : str, default "auto"
        See `Adam`.
    threads : int, optional
        See `Adam`.
    state_path : str or path-like, optional
        See `Adam`.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: LearningRate = DEFAULTS.lr,
        betas: tuple[Real, Real] = DEFAULTS.betas,
        eps: Real = DEFAULTS.eps,
        weight_decay: Real = 1e-2,
        amsgrad: bool = DEFAULTS.amsgrad,
        *,
        maximize: bool = DEFAULTS.maximize,
        state_dtype: StateDtype = DEFAULTS.state_dtype,
        master_weights: bool = DEFAULTS.master_weights,
        rounding: Rounding = DEFAULTS.rounding,
        seed: int = DEFAULTS.seed,
        max_grad_norm: Real | None = gradient_settings.DEFAULTS.max_grad_norm,
        skip_nonfinite: bool = gradient_settings.DEFAULTS.skip_nonfinite,
        error_if_nonfinite: bool = gradient_settings.DEFAULTS.error_if_nonfinite,
        ema_decay: Real | None = after.DEFAULTS.ema_decay,
        ema_warmup: bool = after.DEFAULTS.ema_warmup,
        lazy: Lazy = SKIP,
        backend: BackendName = "auto",
        threads: int | None = None,
        state_path: FilePath | None = None,
    ) -> None:
        super().__init__(
            *(params, lr, betas, eps, weight_decay, amsgrad),
            maximize=maximize,
            decoupled_weight_decay=True,
            state_dtype=state_dtype,
            master_weights=master_weights,
            rounding=rounding,
            seed=seed,
            max_grad_norm=max_grad_norm,
            skip_nonfinite=skip_nonfinite,
            error_if_nonfinite=error_if_nonfinite,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            lazy=lazy,
            backend=backend,
            threads=threads,
            state_path=state_path,
        )
