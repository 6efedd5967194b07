"""Adam for thinc and spaCy, under thinc's call: ``optimizer(key, weights, gradient)``."""

# The annotations are no strings here: by those of a registered function, thinc checks what configs give it.
import math
from typing import Any, TypeAlias

from thinc import optimizers as theirs
from thinc.api import Schedule, registry
from thinc.types import Generator

from fastadam.memory.arrays import Array
from fastadam.uncorrected import UncorrectedAdam

__all__ = ["Adam", "Optimizer"]

DEFAULTS = theirs.ADAM_DEFAULTS
Key = tuple[int, str]
Rate: TypeAlias = float | list[float] | Generator | Schedule


class Optimizer(theirs.Optimizer):  # type: ignore[misc]
    """thinc's ``Optimizer`` with this library's step.

    A drop-in: schedules, ``step_schedules``, ``last_score``, gradient clipping, both kinds of L2 and ``averages``
    are thinc's own code. ``mom1`` and ``mom2`` hold live views of the moments.

    Parameters
    ----------
    learn_rate : float, list, generator or thinc.api.Schedule
    L2, beta1, beta2, eps, grad_clip : float, list, generator or thinc.api.Schedule
    use_averages : bool, default True
    use_radam : bool, default False
        Must be False.
    L2_is_weight_decay : bool, default True
        All as in ``thinc.api.Optimizer``.

    Raises
    ------
    ValueError
        If a schedule is none, or `use_radam` is asked for.

    Notes
    -----
    - The formula is thinc's, and adds epsilon where that does. thinc rounds the betas and epsilon to float32 first
      and computes ``1 - beta`` from there; this library rounds both once, so the last bits of a step differ.
    - thinc's optimizers have no ``to_gpu`` and ``to_cpu``: the moments are made where the weights are. CuPy's
      arrays go to the backend "cuda"; this has not been run with thinc.
    - Where a beta is 0, which for thinc means gradient descent without moments, thinc's own code takes the step.
    - Pickles and copies hold the moments, and need this library to be loaded.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam.thinc
    >>> optimizer = fastadam.thinc.Adam(0.1)
    >>> weights = np.ones(2, np.float32)
    >>> weights, gradient = optimizer((0, "W"), weights, np.array([2.0, -2.0], np.float32))
    >>> weights.round(3), gradient
    (array([0.9, 1.1], dtype=float32), array([0., 0.], dtype=float32))
    """

    __slots__ = ("_steppers",)
    _steppers: dict[Key, tuple[Array, UncorrectedAdam]]

    def __init__(
        self,
        learn_rate: Rate,
        *,
        L2: Rate = DEFAULTS["L2"],  # noqa: N803
        beta1: Rate = DEFAULTS["beta1"],
        beta2: Rate = DEFAULTS["beta2"],
        eps: Rate = DEFAULTS["eps"],
        grad_clip: Rate = DEFAULTS["grad_clip"],
        use_averages: bool = True,
        use_radam: bool = False,
        L2_is_weight_decay: bool = True,  # noqa: N803
    ) -> None:
        if use_radam:
            raise ValueError("use_radam=True is not Adam; use thinc.api.RAdam")
        super().__init__(
            learn_rate,
            L2=L2,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            grad_clip=grad_clip,
            use_averages=use_averages,
            L2_is_weight_decay=L2_is_weight_decay,
        )
        self._steppers = {}

    def _adam(
        self, ops: Any, weights: Array, gradient: Array, lr_scale: float, key: Key, nr_upd: int
    ) -> tuple[Array, Array]:
        """Take a step in the place of thinc's method of this name."""
        given = {"step": self.step, **self._schedule_args(key)}
        betas = (float(self.b1(**given)), float(self.b2(**given)))
        eps = float(self.eps(**given))
        rate = self.learn_rate(**given)
        if not 0.0 <= rate < math.inf:
            raise ValueError(f"learn_rate must be finite and at least 0, got {rate!r}")
        known = self._steppers.get(key)
        if known is None or known[0] is not weights:
            known = self._steppers[key] = weights, self._bind(key, weights, betas, eps)
        correction = (1.0 - betas[1] ** nr_upd) ** 0.5 / (1.0 - betas[0] ** nr_upd)
        known[1].step([gradient], float(rate * correction * lr_scale), betas, eps)
        gradient.fill(0)
        return weights, gradient

    def _bind(self, key: Key, weights: Array, betas: tuple[float, float], eps: float) -> UncorrectedAdam:
        """Return what steps these weights, with the moments that the key has so far."""
        moments = None
        if key in self.mom1 and key in self.mom2:
            first, second = (kept[key].reshape(weights.shape) for kept in (self.mom1, self.mom2))
            moments = [first], [second]
        made = UncorrectedAdam([weights], betas, eps, moments)
        for kept, name in ((self.mom1, "exp_avg"), (self.mom2, "exp_avg_sq")):
            kept[key] = made.moments(name)[0].reshape(-1)
        return made

    # What steps holds addresses; it is made anew from the moments.
    def __getstate__(self) -> dict[str, Any]:
        names = [name for name in theirs.Optimizer.__slots__ if hasattr(self, name)]
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._steppers = {}


@registry.optimizers("fastadam.Adam.v1")  # type: ignore[untyped-decorator]
def Adam(  # noqa: N802
    learn_rate: Rate = DEFAULTS["learn_rate"],
    *,
    L2: Rate = DEFAULTS["L2"],  # noqa: N803
    beta1: Rate = DEFAULTS["beta1"],
    beta2: Rate = DEFAULTS["beta2"],
    eps: Rate = DEFAULTS["eps"],
    grad_clip: Rate = DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Return an `Optimizer`: the drop-in for ``thinc.api.Adam``, in configs ``@optimizers = "fastadam.Adam.v1"``.

    Parameters and defaults are those of ``thinc.api.Adam``.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )
