"""Adam for one parameter at a time, as simple as can be: what the whole API is compared with, bit by bit.

Written from the contract in docs/how-it-works.md ("The numerics"), without groups, spans or kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.memory.formats import BFLOAT16, BFLOAT16_STOCHASTIC, FLOAT32, INT8, ROOT8
from fastadam.memory.structs import ROLES
from fastadam.step.bias_correction import bias_correction, log_of
from tests.support.compact import Kept, random_bits

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
STATE_FORMATS = {
    "float32": (FLOAT32, FLOAT32, FLOAT32),
    "bfloat16": (BFLOAT16_STOCHASTIC, BFLOAT16_STOCHASTIC, BFLOAT16),
    "int8": (INT8, ROOT8, ROOT8),
}
MIDDLE = 0x8000  # in place of random bits: rounding to nearest


class Model:
    """One parameter, its moments and its step counter.

    Parameters
    ----------
    param : ndarray
        Copied.
    state_dtype : str, optional
        Of the moments, which are here as the numbers that they stand for.
    """

    def __init__(self, param: np.ndarray, state_dtype: str | None = None) -> None:
        self.param = param.copy()
        self.state_dtype = state_dtype
        self.ema: np.ndarray | None = None  # while averages are kept
        self.first = 0  # the number of its first element, where it stands for a row of a parameter
        self.clear()

    def clear(self) -> None:
        """Start anew, from the parameter as it is."""
        dtype = self.param.dtype
        if self.state_dtype is not None:
            dtype = np.dtype(np.complex64 if dtype.kind == "c" else np.float32)
        self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq = (np.zeros(self.param.shape, dtype) for _ in MOMENTS)
        self.steps = 0
        self.own: np.ndarray | None = None  # the steps of each row, where they count by themselves

    def take_rows(self, keep: Any, grow: Any, inherits: bool, is_in_place: bool) -> None:
        """Take over some rows, and as many new ones as `grow` has numbers: of these parents, or of zeros.

        State in blocks is rounded anew where rows have moved, unless each of them is of whole blocks.
        """
        width = self.param.real[:1].size * (2 if self.param.dtype.kind == "c" else 1) if len(self.param) else 0
        for name in ("param", "ema", *MOMENTS):
            array = getattr(self, name)
            if array is not None:
                has_parents = inherits and name not in MOMENTS
                new = [array[row] if has_parents else np.zeros_like(array, shape=array.shape[1:]) for row in grow]
                rows = [array[row] for row in keep] + new
                made = np.array(rows, array.dtype).reshape(len(rows), *array.shape[1:])
                setattr(self, name, made)
                if name in MOMENTS and self.state_dtype == "int8" and not is_in_place and width % 64:
                    made[...] = self._rounded_to_nearest(made, name)
        if self.own is not None:
            self.own = np.array([*(self.own[row] for row in keep), *(0 for _ in grow)], np.int64)

    def _rounded_to_nearest(self, numbers: np.ndarray, name: str) -> np.ndarray:
        flat = np.ascontiguousarray(numbers).reshape(-1).view(np.float32)
        kept = Kept.of(STATE_FORMATS["int8"][MOMENTS.index(name)], np.zeros(flat.size, np.float32))
        with np.errstate(all="ignore"):
            kept.write(flat, np.full(flat.size, MIDDLE))
            return kept.read().view(numbers.dtype).reshape(numbers.shape)

    def copy(self) -> Model:
        """Return a model of the same numbers."""
        other = Model(self.param, self.state_dtype)
        other.take_state(self)
        return other

    def take_state(self, other: Model) -> None:
        """Take over moments and counter of another one, not the parameter."""
        for name in MOMENTS:
            setattr(self, name, getattr(other, name).copy())
        self.steps = other.steps
        self.own = None if other.own is None else other.own.copy()
        self.forget_rows()
        self.ema = None if other.ema is None else other.ema.copy()

    def forget_rows(self) -> None:
        """Let rows count no more by themselves, if all have taken as many steps as the parameter."""
        if self.own is not None and (self.own == self.steps).all():
            self.own = None

    def step_rows(
        self, numbers: np.ndarray, grads: np.ndarray, options: Mapping[str, Any], scale: float, position: int
    ) -> None:
        """Take a step of some rows, each as a parameter of its own; `grads` has one for each of them.

        The learning rate of a schedule is that of the parameter's step.
        """
        if self.own is None:
            self.own = np.full(len(self.param), self.steps)
        self.steps += 1
        if not self.param.size:
            return
        lr = options["lr"](self.steps) if callable(options["lr"]) else options["lr"]
        width = self.param[0].size * (2 if self.param.dtype.kind == "c" else 1)
        for number, grad in zip(numbers.tolist(), grads, strict=True):
            row = Model(self.param[number : number + 1], self.state_dtype)
            row.first, row.steps = number * width, int(self.own[number])
            for name in MOMENTS:
                setattr(row, name, getattr(self, name)[number : number + 1])  # views, which are written
            row.step(grad, {**options, "lr": lr}, scale, position)
            self.param[number : number + 1] = row.param
            self.own[number] += 1

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

    def step(self, grad: np.ndarray, options: Mapping[str, Any], scale: float = 1.0, position: int = 0) -> None:
        """Take one step with a gradient that is multiplied by `scale`, as the parameter at a position."""
        self.steps += 1
        real = self.param.real.dtype.type
        beta1, beta2 = options["betas"]
        lr = options["lr"](self.steps) if callable(options["lr"]) else options["lr"]
        decay = options["weight_decay"]
        decoupled = options["decoupled_weight_decay"]
        correction1, correction2 = (bias_correction(*log_of(b), self.steps) for b in (beta1, beta2))
        p, *kept = (
            np.atleast_1d(each).reshape(-1).view(each.real.dtype)
            for each in (self.param, self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq)
        )
        m, v, v_max = (each.astype(real) for each in kept)
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
        stepped = MOMENTS if options["amsgrad"] or self.state_dtype is None else MOMENTS[:2]
        for name, numbers, moment in zip(stepped, (m, v, v_max), kept, strict=False):
            moment[:] = self._rounded(numbers, name, options.get("seed", 0), position)

    def _rounded(self, numbers: np.ndarray, name: str, seed: int, position: int) -> np.ndarray:
        """Return what a moment is once it is kept."""
        if self.state_dtype is None:
            return numbers
        bits = np.full(numbers.size, MIDDLE)
        if name != MOMENTS[2]:
            end = self.first + numbers.size
            bits = random_bits(seed, self.steps, position, ROLES.index(name), end)[self.first :]
        kept = Kept.of(STATE_FORMATS[self.state_dtype][MOMENTS.index(name)], np.zeros(numbers.size, np.float32))
        with np.errstate(all="ignore"):
            kept.write(numbers, bits)
            return kept.read()
