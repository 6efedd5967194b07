"""Adam for one parameter at a time, as simple as can be: what the whole API is compared with, bit by bit.

Written from the contract in docs/how-it-works.md ("The numerics"), without groups, spans or kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.step.bias_correction import bias_correction, log_of


class Model:
    """One parameter, its moments and its step counter.

    Parameters
    ----------
    param : ndarray
        Copied.
    """

    def __init__(self, param: np.ndarray) -> None:
        self.param = param.copy()
        self.ema: np.ndarray | None = None  # while averages are kept
        self.clear()

    def clear(self) -> None:
        """Start anew, from the parameter as it is."""
        self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq = (np.zeros_like(self.param) for _ in range(3))
        self.steps = 0

    def copy(self) -> Model:
        """Return a model of the same numbers."""
        other = Model(self.param)
        other.take_state(self)
        return other

    def take_state(self, other: Model) -> None:
        """Take over moments and counter of another one, not the parameter."""
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            setattr(self, name, getattr(other, name).copy())
        self.steps = other.steps
        self.ema = None if other.ema is None else other.ema.copy()

    def average(self, decay: float, warms_up: bool, stepped: bool) -> None:
        """Move the average after a step, in which the parameter may have had no gradient."""
        n = self.steps if stepped else self.steps + 1
        weight = self.param.real.dtype.type(1.0 - (min(decay, (1 + n) / (10 + n)) if warms_up else decay))
        if n == 1 or weight == 1 or self.ema is None:
            self.ema = self.param.copy()
        else:
            with np.errstate(all="ignore"):
                for ema, param in ((self.ema.real, self.param.real), (self.ema.imag, self.param.imag)):
                    if ema.flags.writeable:  # a real number has an imaginary part that is not
                        ema[...] = ema + weight * (param - ema)

    def step(self, grad: np.ndarray, options: Mapping[str, Any], scale: float = 1.0) -> None:
        """Take one step with a gradient that is multiplied by `scale`."""
        self.steps += 1
        real = self.param.real.dtype.type
        beta1, beta2 = options["betas"]
        lr = options["lr"](self.steps) if callable(options["lr"]) else options["lr"]
        decay = options["weight_decay"]
        decoupled = options["decoupled_weight_decay"]
        correction1, correction2 = (bias_correction(*log_of(b), self.steps) for b in (beta1, beta2))
        p, m, v, v_max = (
            np.atleast_1d(each).reshape(-1).view(real)
            for each in (self.param, self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq)
        )
        with np.errstate(all="ignore"):
            g = np.array(grad, order="C").reshape(-1).view(real) * real(-scale if options["maximize"] else scale)
            if decay and not decoupled:
                g = g + real(decay) * p
            m[:] = real(beta1) * m + real(1.0 - beta1) * g
            v[:] = real(beta2) * v + (real(1.0 - beta2) * g) * g
            if self.steps % 8 == 0 and options["eps"] >= 2.0**-51:
                m[np.abs(m) < np.finfo(real).tiny] = 0
                v[np.abs(v) < np.finfo(real).tiny] = 0
                v_max[np.abs(v_max) < np.finfo(real).tiny] = 0
            second = v
            if options["amsgrad"]:
                v_max[:] = np.where((v_max >= v) | (v_max != v_max), v_max, v)
                second = v_max
            root = np.sqrt(second) * real(1.0 / math.sqrt(correction2)) + real(options["eps"])
            update = (real(lr / correction1) * m) / root
            if decay and decoupled:
                update = update + real(lr * decay) * p
            p[:] = p - update
